"""Region tables against numbers counted by hand on a small atlas."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from weft.blocks import cut, region
from weft.grid import Grid
from weft.ontology import Ontology, Structure
from weft.rois import MeasuredBlock, measure_regions, roi_table, side_of_points

ONTOLOGY = Ontology(
    (
        Structure(1, "brain", "BR", None),
        Structure(2, "cortex", "CX", 1),
        Structure(30, "layer one", "L1", 2),
        Structure(614454277, "layer two", "L2", 2),
        Structure(9, "never seen", "NS", 1),
    )
)
GRID = Grid((8, 10, 12), (20.0, 10.0, 5.0), (100.0, 200.0, 300.0))


@pytest.fixture(scope="module")
def sample():
    """Annotation, sides and two channels: layer one in z 0-3, layer two in z 4-7 up to y 7, left of x = 6 left."""
    annotation = np.zeros(GRID.shape, np.uint32)
    annotation[:4] = 30
    annotation[4:, :7] = 614454277
    annotation[7, 0, 0] = 2
    annotation[0, 0, :2] = 77  # not in the ontology
    sides = np.ones(GRID.shape, np.uint8)
    sides[..., 6:] = 2
    sides[..., 6] = 0
    rng = np.random.default_rng(5)
    intensities = rng.integers(0, 65536, (2, *GRID.shape)).astype(np.uint16)
    return annotation, sides, intensities


def blocks(sample, size):
    annotation, sides, intensities = sample
    for name in cut(GRID.shape, size):
        where = region(name, GRID.shape, size)
        yield MeasuredBlock(where, annotation[where], sides[where], intensities[(slice(None), *where)])


def cells_of(indices):
    return GRID.to_physical(np.array(indices))


def row(table, acronym, side):
    (found,) = table[(table["acronym"] == acronym) & (table["side"] == side)].to_dict("records")
    return found


def test_every_number_of_a_region(sample):
    annotation, sides, intensities = sample
    table = measure_regions(blocks(sample, (3, 4, 5)), GRID, ("auto", "signal"), ONTOLOGY)
    for acronym, label in (("L1", 30), ("L2", 614454277), ("CX", 2), ("77", 77)):
        for side, codes in (("left", [1]), ("right", [2]), ("both", [0, 1, 2])):
            mask = (annotation == label) & np.isin(sides, codes)
            found = row(table, acronym, side)
            assert found["id"] == label
            assert found["voxels"] == mask.sum()
            assert found["volume_mm3"] == pytest.approx(mask.sum() * 1000e-9)
            if mask.any():
                assert found["mean_auto"] == pytest.approx(intensities[0][mask].mean(), rel=1e-12)
                assert found["mean_signal"] == pytest.approx(intensities[1][mask].mean(), rel=1e-12)
            else:
                assert np.isnan(found["mean_auto"])
    assert table.attrs == {"unknown_regions": [77], "voxels_outside": 4 * 3 * 12}
    assert "cells" not in table
    assert "NS" not in set(table["acronym"])


def test_totals_hold_all_that_is_inside(sample):
    annotation, sides, intensities = sample
    table = measure_regions(
        blocks(sample, (8, 10, 12)), GRID, ("auto", "signal"), ONTOLOGY, cells_of([(0, 9, 1)])
    )
    inside = np.isin(annotation, [2, 30, 614454277])
    for acronym in ("BR", "CX"):
        found = row(table, acronym, "both")
        assert found["total_voxels"] == inside.sum()
        assert found["total_mean_auto"] == pytest.approx(intensities[0][inside].mean(), rel=1e-12)
        assert found["total_cells"] == 1
    root = row(table, "BR", "right")
    assert (root["voxels"], root["parent_id"], root["depth"]) == (0, 0, 0)
    assert root["total_voxels"] == (inside & (sides == 2)).sum()
    assert row(table, "77", "both")["total_voxels"] == 2
    assert list(table["acronym"][::3]) == ["BR", "CX", "L1", "L2", "77"]


def test_cells_are_counted_in_the_voxel_they_lie_in(sample):
    inside = {(1, 2, 1): "L1", (1, 2, 11): "L1", (5, 2, 6): "L2", (7, 0, 0): "CX"}
    edge = GRID.upper  # the far corner belongs to the last voxel, which is outside the atlas
    lost = [GRID.upper + 1, GRID.lower - 1, (np.nan, 250, 320), edge]
    just_inside = GRID.to_physical([(3.49, 3, 3), (3.51, 3, 3)])  # either side of the border of the layers
    points = np.concatenate([cells_of(list(inside)), lost, just_inside])
    table = measure_regions(blocks(sample, (4, 4, 4)), GRID, ("a", "b"), ONTOLOGY, points)
    assert row(table, "L1", "left")["cells"] == 2
    assert row(table, "L1", "right")["cells"] == 1
    assert row(table, "L2", "left")["cells"] == 1
    assert row(table, "L2", "both")["cells"] == 2
    assert row(table, "BR", "both")["total_cells"] == 6
    assert table.attrs["cells_outside"] == 4


def test_the_cut_does_not_matter(sample):
    cells = cells_of(np.random.default_rng(1).integers(0, GRID.shape, (200, 3)))
    one = measure_regions(blocks(sample, (8, 10, 12)), GRID, ("a", "b"), ONTOLOGY, cells)
    for size in ((1, 10, 12), (3, 3, 3), (8, 1, 5)):
        other = measure_regions(blocks(sample, size), GRID, ("a", "b"), ONTOLOGY, cells)
        pd.testing.assert_frame_equal(one, other, check_exact=True)
        assert one.attrs == other.attrs


def test_box_is_in_micrometres_and_encloses_the_voxels(sample):
    table = measure_regions(blocks(sample, (3, 3, 3)), GRID, ("a", "b"), ONTOLOGY)
    found = row(table, "L2", "right")
    assert [found[f"{axis}_micrometer"] for axis in "zyx"] == [100 + 4 * 20 - 10, 200 - 5, 300 + 7 * 5 - 2.5]
    assert [found[f"len_{axis}_micrometer"] for axis in "zyx"] == [80, 70, 25]
    assert np.isnan(row(table, "BR", "both")["z_micrometer"])
    rois = roi_table(table)
    assert list(rois.index) == ["CX", "L1", "L2", "77"]
    assert rois.loc["L2", "label"] == 614454277
    assert rois.loc["L1", "len_x_micrometer"] == 60
    assert (rois.drop(columns="label").dtypes == np.float32).all()


def test_sides_follow_the_orientation_code():
    grid = Grid((10, 20, 30), (100.0, 50.0, 25.0))
    middle = {0: 450.0, 1: 475.0, 2: 362.5}
    for axis, letter in itertools.product(range(3), "lr"):
        code = list("ai")
        code.insert(axis, letter)
        points = np.zeros((2, 3, 3))
        points[..., axis] = middle[axis] + np.array([[-1, 0, 1], [-200, 200, np.nan]])
        grown, shrunk = (2, 1) if letter == "r" else (1, 2)
        expected = [[shrunk, 0, grown], [shrunk, grown, 0]]
        np.testing.assert_array_equal(side_of_points(points, grid, "".join(code)), expected)
    assert side_of_points(np.array([[0, 0, 400.0]]), grid, "air", midplane=410.0) == [1]
    with pytest.raises(ValueError, match="orientation 'aip' has no single left-right axis"):
        side_of_points(np.zeros((1, 3)), grid, "aip")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda a, s, i: (a.astype(np.float32), s, i), "of type float32; wanted integers"),
        (lambda a, s, i: (a.astype(np.int64) - 1, s, i), "wanted ids of 0 and above"),
        (lambda a, s, i: (a, s[1:], i), r"sides at .* have the shape"),
        (lambda a, s, i: (a, s, i[:1]), r"intensities at .* have the shape"),
        (lambda a, s, i: (a, s + 1, i), "sides at .* hold 3"),
    ],
)
def test_bad_blocks_are_refused(sample, change, words):
    where = tuple(slice(0, n) for n in GRID.shape)
    with pytest.raises(ValueError, match=words):
        measure_regions([MeasuredBlock(where, *change(*sample))], GRID, ("a", "b"), ONTOLOGY)


def test_nothing_measured_is_an_empty_table_with_the_same_columns(sample):
    full = measure_regions(blocks(sample, (8, 10, 12)), GRID, ("a", "b"), ONTOLOGY)
    assert list(measure_regions([], GRID, ("a", "b"), ONTOLOGY)) == list(full)
