"""The reader of COLM's acquisitions."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from reader_sources import voxels, write_colm

from weft.readers import open_source
from weft.readers.colm import open_colm


@pytest.fixture
def tile():
    return voxels((2, 5, 16, 16), 3)


def test_colm_places_tiles_and_lists_what_was_not_scanned(tmp_path, tile):
    path = write_colm(tmp_path / "raw", {n: tile + np.uint16(n) for n in (0, 1, 2, 4, 5)}, rows=2, columns=3)
    tiles = open_source(path, orientation="PSL", channels=["red", "green"])
    assert [t.name for t in tiles.tiles] == ["LOC000", "LOC001", "LOC002", "LOC004", "LOC005"]
    assert tiles.missing == ("LOC003",)
    assert (tiles.shape, tiles.channels, tiles.orientation) == ((5, 16, 16), ("red", "green"), "psl")
    side = 0.585 * 2048 / 16
    np.testing.assert_allclose(tiles.spacing, (2.5, side, side), rtol=1e-12)
    # Row 1, column 2; overlaps 15 % and 12.5 %, and nothing is rounded to whole pixels or micrometres.
    np.testing.assert_allclose(
        tiles.tiles[-1].position, (0, 16 * 0.85 * side, 2 * 16 * 0.875 * side), rtol=1e-12
    )
    assert (tiles.tiles[-1].row, tiles.tiles[-1].column) == (1, 2)
    region = (slice(1, 4), slice(2, 9), slice(5, 16))
    np.testing.assert_array_equal(tiles.read(3, 1, region), tile[1][region] + 4)
    with pytest.raises(ValueError, match="channel 2 is not there"):
        tiles.read(0, 2)


def test_colm_numbers_more_than_a_thousand_tiles(tmp_path):
    path = write_colm(
        tmp_path / "raw", {n: voxels((1, 1, 2, 2), n) for n in (0, 999, 1000, 1043)}, rows=29, columns=36
    )
    tiles = open_colm(path)
    assert [t.name for t in tiles.tiles] == ["LOC000", "LOC999", "LOC1000", "LOC1043"]
    assert len(tiles.missing) == 29 * 36 - 4
    assert (tiles.tiles[2].row, tiles.tiles[2].column) == (27, 28)
    np.testing.assert_array_equal(tiles.read(2)[0], voxels((2, 2), 1000).reshape(2, 2))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"Stack Step (mm)": 0}, r"'Stack Step \(mm\)' is 0; wanted more than 0"),
        ({"Stack Step (mm)": -0.001}, "wanted more than 0"),
        ({"Stack Step (mm)": None}, r"\[North Scan Region\] 'Stack Step \(mm\)' is missing"),
        ({"Stack Step (mm)": "fine"}, "is 'fine'; wanted a number"),
        ({"North": "20x"}, "'20x'; wanted 4x, 10x or 25x"),
        ({"Num Enabled Channels": 3}, r"LOC000: channel 2 is not there; wanted 5 files named \*CHN02"),
        ({"Num in stack (Top Left Corner)": 6}, r"channel 0 has 5 planes; wanted 6 .* \(look at plane 5\)"),
        ({"Num in stack (Top Left Corner)": 4}, r"channel 0 has 5 planes; wanted 4 .* \(look at plane 4\)"),
        (
            {"Num Horizontal": 3},
            r"Scanned Cells.txt: found 2 lines of \[2\] cells; wanted 2 lines of 3 cells",
        ),
        ({"X Resolution": 20}, r"PLN0000.tif: the plane has shape \(16, 16\); wanted \(20, 20\)"),
        ({"Actual Vertical Overlap (%)": 100}, "wanted 0 to 100"),
        ({"Num Vertical": 1.5}, "is 1.5; wanted a whole number"),
    ],
)
def test_colm_refuses_settings_that_make_no_sense(tmp_path, tile, changes, message):
    path = write_colm(tmp_path / "raw", {0: tile, 1: tile, 3: tile})
    place = path / "Experiment.ini"
    lines = place.read_text().splitlines()
    for key, value in changes.items():
        lines = [f'{key} = "{value}"' if line.startswith(f"{key} =") else line for line in lines]
        lines = [line for line in lines if not (value is None and line.startswith(f"{key} ="))]
    place.write_text("\n".join(lines))
    with pytest.raises(ValueError, match=message):
        open_colm(path)


@pytest.mark.parametrize(
    ("name", "factor"), [("4X/0.28", 1.46), ("Zeiss 25 x", 0.234), ('XLFLUOR 10x"', 0.585)]
)
def test_colm_parses_the_objective(tmp_path, tile, name, factor):
    path = write_colm(tmp_path / "raw", {0: tile}, 1, 1, North=name)
    assert open_colm(path).spacing[1] == pytest.approx(factor * 2048 / 16)


def test_colm_refuses_broken_files_by_name(tmp_path, tile):
    path = write_colm(tmp_path / "raw", {0: tile, 1: tile})
    plane = path / "VW0" / "LOC001" / "LOC001_CHN01_PLN0000.tif"
    good = plane.read_bytes()
    cases = [
        (lambda: plane.write_bytes(b"no tiff"), "CHN01_PLN0000.tif: cannot be read as a TIFF file"),
        (
            lambda: tifffile.imwrite(plane, tile[0, 0, :8]),
            r"PLN0000.tif: the plane has shape \(8, 16\); wanted \(16, 16\)",
        ),
        (
            lambda: tifffile.imwrite(plane, tile[0, 0].astype("u1")),
            "PLN0000.tif: the plane is uint8; wanted uint16",
        ),
        (lambda: tifffile.imwrite(plane, np.zeros((16, 16, 3), "u1")), "wanted one grey plane"),
    ]
    for spoil, message in cases:
        spoil()
        with pytest.raises(ValueError, match=message):
            open_colm(path)
    plane.write_bytes(good)

    late = plane.with_name("LOC001_CHN01_PLN0003.tif")
    tifffile.imwrite(late, tile[0, 0].astype("f4"))
    with pytest.raises(ValueError, match=r"PLN0003.tif: the plane is float32; wanted uint16"):
        open_colm(path, check="full")
    with pytest.raises(ValueError, match=r"PLN0003.tif: the plane is float32"):
        open_colm(path, check="none").read(1, 1)
    for compression in (None, "zlib"):
        tifffile.imwrite(late, tile[0, 0], compression=compression, rowsperstrip=4)
        late.write_bytes(late.read_bytes()[:-200])
        with pytest.raises(ValueError, match=r"PLN0003.tif: cannot be read as a TIFF file .*truncated"):
            open_colm(path).read(1, 1)
    late.unlink()
    with pytest.raises(ValueError, match=r"LOC001: channel 1 has 4 planes; wanted 5 .* \(look at plane 3\)"):
        open_colm(path)
    late.parent.rename(path / "elsewhere")
    with pytest.raises(FileNotFoundError, match="LOC001: no such source"):
        open_colm(path)
