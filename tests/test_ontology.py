"""Reading a hierarchy in its many spellings, and refusing broken ones."""

from __future__ import annotations

import json

import numpy as np
import pytest

from weft.ontology import Ontology, Structure

#   1 root -> 2 grey -> 4 cortex, 5 thalamus -> 614454277 nucleus
#          -> 3 fibres
TREE = [(1, "root", None), (2, "grey", 1), (3, "fibres", 1), (4, "cortex", 2), (5, "thalamus", 2)]
TREE += [(614454277, "nucleus", 5)]
PATHS = {1: [1], 2: [1, 2], 3: [1, 3], 4: [1, 2, 4], 5: [1, 2, 5], 614454277: [1, 2, 5, 614454277]}


def nested(region):
    name = {i: n for i, n, _ in TREE}[region]
    inside = [nested(i) for i, _, p in TREE if p == region]
    return {"id": region, "name": name, "acronym": name[:3].upper(), "children": inside}


def write(folder, form):
    if form == "parent_id":
        rows = [
            "id,name,acronym,parent_id",
            *(f"{i},{n},{n[:3].upper()},{p or ''}" for i, n, p in TREE[::-1]),
        ]
        (folder / "o.csv").write_text("\n".join(rows) + "\n")
    elif form == "parent_structure_id":  # as a spreadsheet saves ids beside empty cells
        rows = ["id,name,acronym,parent_structure_id"]
        rows += [f"{i},{n},{n[:3].upper()},{'' if p is None else float(p)}" for i, n, p in TREE]
        (folder / "o.csv").write_text("\ufeff" + "\n".join(rows) + "\n", encoding="utf-8")
    elif form == "structure_id_path":
        rows = ["acronym\tid\tname\tstructure_id_path"]
        rows += [f"{n[:3].upper()}\t{i}\t{n}\t/{'/'.join(map(str, PATHS[i]))}/" for i, n, _ in TREE]
        (folder / "o.tsv").write_text("\n".join(rows) + "\n")
        return folder / "o.tsv"
    else:
        content = {
            "allen": {"success": True, "msg": [nested(1)]},
            "tree": nested(1),
            "list": [
                {"id": i, "name": n, "acronym": n[:3].upper(), "structure_id_path": PATHS[i]}
                for i, n, _ in TREE
            ],
        }[form]
        (folder / "o.json").write_text(json.dumps(content))
        return folder / "o.json"
    return folder / "o.csv"


@pytest.mark.parametrize(
    "form", ["parent_id", "parent_structure_id", "structure_id_path", "allen", "tree", "list"]
)
def test_every_spelling_gives_the_same_hierarchy(tmp_path, form):
    ontology = Ontology.read(write(tmp_path, form))
    assert {s.id: (s.name, s.acronym, s.parent) for s in ontology.structures} == {
        i: (n, n[:3].upper(), p) for i, n, p in TREE
    }
    assert [(s.id, depth) for s, depth in ontology.walk()] == [
        (1, 0),
        (2, 1),
        (4, 2),
        (5, 2),
        (614454277, 3),
        (3, 1),
    ]
    assert ontology.ancestors(614454277) == [5, 2, 1]
    assert ontology.ancestors(1) == []
    assert ontology.children(2) == [4, 5]
    assert 5 in ontology
    assert 7 not in ontology


def test_roll_up_adds_to_every_ancestor(tmp_path):
    ontology = Ontology.read(write(tmp_path, "allen"))
    assert ontology.roll_up({614454277: 7, 4: 2, 2: 1}) == {1: 10, 2: 10, 4: 2, 5: 7, 614454277: 7}
    own = {4: np.array([1, 10]), 3: np.array([5, 0])}
    total = ontology.roll_up(own)
    np.testing.assert_array_equal(total[1], [6, 10])
    np.testing.assert_array_equal(own[4], [1, 10])
    assert 5 not in total
    with pytest.raises(ValueError, match="region 99 is not in the ontology"):
        ontology.roll_up({99: 1})
    with pytest.raises(ValueError, match="region 99 is not in the ontology"):
        ontology.ancestors(99)


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (["1,a,A,", "2,b,B,1", "2,c,C,1"], "id 2 belongs to two regions, 'B' and 'C'"),
        (["1,a,A,", "2,b,B,7"], r"region 2 \(B\) is part of region 7, which is not in the ontology"),
        (["1,a,A,", "2,b,B,3", "3,c,C,2"], r"region 2 \(B\) leads round in a circle"),
        (["1,a,A,1"], r"region 1 \(A\) leads round in a circle"),
        (["1,a,A,", "x,b,B,1"], "line 3: id is 'x'; wanted an integer"),
        (["1,a,A,", "2.5,b,B,1"], "line 3: id is '2.5'; wanted an integer"),
        (["1,a,A,", ",b,B,1"], "line 3: the id is missing"),
        (["0,a,A,"], "has the id 0"),
        ([], "no regions"),
    ],
)
def test_broken_hierarchy_is_refused_in_one_sentence(tmp_path, rows, words):
    path = tmp_path / "bad.csv"
    path.write_text("\n".join(["id,name,acronym,parent_id", *rows]) + "\n")
    with pytest.raises(ValueError, match=words) as error:
        Ontology.read(path)
    assert str(error.value).startswith(str(path))
    assert "\n" not in str(error.value)


def test_bad_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no such ontology"):
        Ontology.read(tmp_path / "none.csv")
    path = tmp_path / "o.csv"
    path.write_text("id,name\n1,a\n")
    with pytest.raises(ValueError, match="no column acronym"):
        Ontology.read(path)
    path.write_text("id,name,acronym\n1,a,A\n")
    with pytest.raises(ValueError, match="no column that names parents"):
        Ontology.read(path)
    path.write_text("id,name,acronym,structure_id_path\n1,a,A,/1/2/\n")
    with pytest.raises(ValueError, match="ends in 2; wanted the region's id, 1"):
        Ontology.read(path)
    path = tmp_path / "o.json"
    path.write_text("{")
    with pytest.raises(ValueError, match="not readable as JSON"):
        Ontology.read(path)
    path.write_text("[3]")
    with pytest.raises(ValueError, match="found int; wanted an object"):
        Ontology.read(path)


def test_a_deep_chain_does_not_recurse():
    chain = tuple(Structure(i, str(i), str(i), i - 1 or None) for i in range(1, 5001))
    ontology = Ontology(chain)
    assert len(ontology.ancestors(5000)) == 4999
    assert ontology.roll_up({5000: 1})[1] == 1
