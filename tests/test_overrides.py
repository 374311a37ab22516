"""The table of overrides: what it refuses, and what its rows do to links and tiles."""

import numpy as np
import pytest

from weft.links import Link
from weft.overrides import read_overrides
from weft.poses import apply_overrides, solve_poses
from weft.refusals import ConfigError

NAMES = ["A", "B", "C"]
STAGE = np.array([(0, 0, 0), (0, 0, 90), (0, 0, 180)], float)
HEAD = "image\taction\ttile_a\ttile_b\tz\ty\tx\n"


def table(tmp_path, *rows, head=HEAD):
    path = tmp_path / "overrides.tsv"
    path.write_text(head + "".join(row + "\n" for row in rows))
    return path


def links(status="ok"):
    return [Link(i, j, np.array([0.0, 1.0, 92.0]), 0.8, 0.1, 0.1, status, 0.7) for i, j in ((0, 1), (1, 2))]


def rows(tmp_path, *lines):
    return read_overrides(table(tmp_path, *lines), ["brain"])["brain"]


def test_rows_by_image_with_their_lines(tmp_path):
    path = table(tmp_path, "# a comment", "brain\texclude\tA\tB", "other\tpin\tA\t\t1\t2\t3")
    found = read_overrides(path, ["brain", "other"])
    assert [row["line"] for row in found["brain"] + found["other"]] == [3, 4]
    assert found["other"][0] | {"line": 0} == {
        "action": "pin", "tile_a": "A", "tile_b": None, "z": 1.0, "y": 2.0, "x": 3.0, "line": 0,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ("brain\tdrop\tA", "line 2: action"),
        ("brian\tpin\tA", "line 2: there is no stitched image 'brian'; did you mean 'brain'"),
        ("brain\tforce\tA", "line 2: .*force is said of a pair"),
        ("brain\tpin\tA\tB", "line 2: .*pin is said of one tile"),
        ("brain\tpin\tA\t\t1\t2", "line 2: .*wanted all of z, y and x, or none; found z, y"),
        ("brain\texclude\tA\tB\t1\t2\t3", "line 2: .*exclude takes no z"),
        ("brain\texclude\tA\tA", "line 2: .*'A' twice"),
        ("brain\tpin\tA\t\tnan\t2\t3", "line 2: z"),
        ("brain\tpin\tA\t\t1\t2\t3\t4", "line 2: found 8 cells; wanted 7"),
        ("brain\tpin\tA\nbrain\texclude\tA", "line 3: line 2 already speaks of A"),
    ],
)
def test_a_bad_row_is_refused_in_one_sentence(tmp_path, row, words):
    with pytest.raises(ConfigError, match=words) as caught:
        read_overrides(table(tmp_path, row), ["brain"])
    assert "\n" not in str(caught.value)


def test_a_bad_heading_or_a_missing_table_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="line 1: there is no column 'tile'"):
        read_overrides(table(tmp_path, head="image\taction\ttile\n"), ["brain"])
    with pytest.raises(ConfigError, match=r"none\.tsv: the table of overrides is missing"):
        read_overrides(tmp_path / "none.tsv", ["brain"])


def test_a_tile_or_link_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match="line 2: there is no tile 'D'"):
        apply_overrides(rows(tmp_path, "brain\tpin\tD"), links(), NAMES, STAGE)
    with pytest.raises(ValueError, match="line 2: A and C have no link to force; wanted z, y and x"):
        apply_overrides(rows(tmp_path, "brain\tforce\tA\tC"), links(), NAMES, STAGE)
    with pytest.raises(ValueError, match="line 2: A and C have no link to exclude"):
        apply_overrides(rows(tmp_path, "brain\texclude\tA\tC"), links(), NAMES, STAGE)


def test_what_each_action_does(tmp_path):
    spacing = (1.0, 1.0, 1.0)
    given = links()
    given[1] = Link(1, 2, np.array([0.0, 9.0, 99.0]), 0.2, 0.9, 0.1, "low_ncc", 0.0)

    def solved(*lines):
        found, pins = apply_overrides(rows(tmp_path, *lines) if lines else [], given, NAMES, STAGE)
        poses = solve_poses(STAGE, found, spacing, pins=pins)
        return poses, np.diff(poses.positions, axis=0)

    poses, steps = solved()
    np.testing.assert_allclose(steps[0], (0, 1, 92), atol=0.01)
    np.testing.assert_allclose(steps[1], (0, 0, 90), atol=0.01)
    assert poses.status == ("ok", "ok", "neighbours")
    _, steps = solved("brain\tforce\tB\tC")  # as measured
    np.testing.assert_allclose(steps[1], (0, 9, 99), atol=0.01)
    _, steps = solved("brain\tforce\tC\tB\t0\t5\t-95")  # in the other direction
    np.testing.assert_allclose(steps[1], (0, -5, 95), atol=0.01)
    poses, steps = solved("brain\texclude\tA")
    np.testing.assert_allclose(steps[0], (0, 0, 90), atol=0.01)
    assert poses.weight[0] == 0
    poses, steps = solved("brain\tpin\tC\t\t1\t2\t200", "brain\tpin\tA")
    np.testing.assert_allclose(poses.positions[[0, 2]], [(0, 0, 0), (1, 2, 200)], atol=1e-3)
    np.testing.assert_allclose(steps[0], (0, 1, 92), atol=0.5)
    _, steps = solved("brain\tforce\tA\tC\t0\t3\t185")  # a pair that was not measured
    np.testing.assert_allclose(steps.sum(0), (0, 3, 185), atol=0.01)
