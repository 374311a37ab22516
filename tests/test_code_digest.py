"""Code digest: what an edit of a library module changes, on a small package written for it."""

import ast
from pathlib import Path

import pytest

from weft.code_digest import code_digest

ROOT = Path(__file__).resolve().parents[1]
FILES = {
    "scripts/work.py": '"""A script."""\nfrom weft.rooms.direct import work\nwork()\n',
    "weft/__init__.py": "",
    "weft/rooms/__init__.py": "",
    "weft/rooms/direct.py": '''"""Direct."""
from weft.rooms import indirect

# a comment
def work(n=1):
    """Do it."""
    from weft.late import slow
    return indirect.double(n) + slow()
''',
    "weft/rooms/indirect.py": "import numpy as np\n\ndef double(n):\n    return np.add(n, n)\n",
    "weft/late.py": "def slow():\n    return 1\n",
    "weft/named.py": "VALUE = 1\n",
    "weft/many/__init__.py": "",
    "weft/many/one.py": "VALUE = 1\n",
    "weft/unused.py": "VALUE = 1\n",
}


@pytest.fixture
def package(tmp_path):
    for name, text in FILES.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path


def digest(root, *extra):
    return code_digest(root, "scripts/work.py", extra)


def edit(root, name, old, new):
    path = root / name
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def test_docstrings_comments_and_layout_do_not_count(package):
    before = digest(package)
    edit(package, "weft/rooms/direct.py", '"""Direct."""', '"""Something else, of\n\ntwo lines."""')
    edit(package, "weft/rooms/direct.py", '    """Do it."""\n', "")
    edit(package, "weft/rooms/direct.py", "# a comment", "# another\n\n\n# and more")
    edit(package, "weft/rooms/indirect.py", "np.add(n, n)", "np.add(\n        n,\n        n,\n    )")
    assert digest(package) == before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("weft/rooms/direct.py", "n=1", "n=2"),
        ("weft/rooms/indirect.py", "np.add(n, n)", "np.add(n, 2 * n)"),
        ("weft/late.py", "return 1", "return 2"),  # imported inside a function
    ],
)
def test_code_counts_wherever_it_is_imported(package, name, old, new):
    before = digest(package)
    edit(package, name, old, new)
    assert digest(package) != before
    edit(package, name, new, old)
    assert digest(package) == before


def test_what_nobody_imports_does_not_count(package):
    before = digest(package, "weft.many.*")
    edit(package, "weft/unused.py", "VALUE = 1", "VALUE = 2")
    edit(package, "weft/named.py", "VALUE = 1", "VALUE = 2")
    assert digest(package, "weft.many.*") == before


def test_the_init_of_a_package_on_the_way_counts(package):
    before = digest(package)
    (package / "weft/rooms/__init__.py").write_text("import weft.unused\n")
    changed = digest(package)
    edit(package, "weft/unused.py", "VALUE = 1", "VALUE = 2")
    assert len({before, changed, digest(package)}) == 3


def test_of_a_package_that_hands_names_on_only_those_asked_for_count(package):
    (package / "weft/many/__init__.py").write_text(
        '"""Contents."""\nfrom weft.many.one import VALUE\nfrom weft.unused import VALUE as other\n\n__all__ = ["VALUE", "other"]\n'
    )
    (package / "scripts/work.py").write_text("from weft.many import VALUE\n")
    before = digest(package)
    edit(package, "weft/unused.py", "VALUE = 1", "VALUE = 2")
    assert digest(package) == before
    edit(package, "weft/many/one.py", "VALUE = 1", "VALUE = 2")
    changed = digest(package)
    assert changed != before
    for importing in ("from weft.many import other", "from weft import many", "import weft.many"):
        (package / "scripts/work.py").write_text(f"{importing}\n")
        before = digest(package)
        edit(package, "weft/unused.py", "VALUE = 2", "VALUE = 3")
        assert digest(package) != before, importing
        edit(package, "weft/unused.py", "VALUE = 3", "VALUE = 2")


def test_modules_loaded_by_name(package):
    plain = digest(package)
    named, many = digest(package, "weft.named"), digest(package, "weft.many.*")
    assert len({plain, named, many}) == 3
    edit(package, "weft/named.py", "VALUE = 1", "VALUE = 2")
    assert digest(package, "weft.named") != named
    (package / "weft/many/two.py").write_text("VALUE = 1\n")
    assert digest(package, "weft.many.*") != many
    assert digest(package) == plain


def test_plug_ins_count_by_themselves(package, tmp_path, monkeypatch):
    place = tmp_path / "elsewhere"
    place.mkdir()
    (place / "brought_along.py").write_text("import json\nVALUE = 1\n")
    monkeypatch.syspath_prepend(str(place))
    plain, before = digest(package), digest(package, "brought_along")
    assert before != plain
    (place / "brought_along.py").write_text('"""Docstring."""\nimport json\nVALUE = 1\n')
    assert digest(package, "brought_along") == before
    (place / "brought_along.py").write_text("import json\nVALUE = 2\n")
    assert digest(package, "brought_along") != before
    assert digest(package, "not_to_be_found", "not.to.be.found") == plain
    assert digest(package, "sys") == plain  # no file of Python source


def test_every_import_of_the_library_can_be_followed():
    """Relative imports would not be seen by the digest."""
    for path in [*ROOT.glob("weft/**/*.py"), *ROOT.glob("scripts/*.py")]:
        for node in ast.walk(ast.parse(path.read_bytes())):
            assert not (isinstance(node, ast.ImportFrom) and node.level), path
