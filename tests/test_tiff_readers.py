"""Readers of TIFF stacks and of tables of TIFF tiles."""

from __future__ import annotations

import numpy as np
import pytest
import tifffile
from reader_sources import travelled, voxels, write_planes

from weft.readers import open_source
from weft.readers.tiff import plane_header, read_plane
from weft.readers.tiff_stack import open_tiff_stack
from weft.readers.tiff_tiles import open_tiff_tiles


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_stack_follows_metadata(tmp_path, compression):
    volume = voxels((2, 6, 20, 30))
    tifffile.imwrite(
        tmp_path / "a.ome.tif", volume, compression=compression, metadata={
            "axes": "CZYX", "PhysicalSizeX": 500, "PhysicalSizeXUnit": "nm", "PhysicalSizeY": 0.25,
            "PhysicalSizeZ": 2.0, "Channel": {"Name": ["a", "b"]},
        },
    )  # fmt: skip
    image = open_tiff_stack(tmp_path / "a.ome.tif")
    assert (image.channels, image.grid.spacing) == (("a", "b"), (2.0, 0.25, 0.5))
    np.testing.assert_array_equal(image.levels[0].data[:, 2:5, 3:9, 4:], volume[:, 2:5, 3:9, 4:])

    if compression is None:
        tifffile.imwrite(
            tmp_path / "b.tif", volume.transpose(1, 0, 2, 3), imagej=True, resolution=(2, 4),
            metadata={"axes": "ZCYX", "spacing": 0.003, "unit": "mm"},
        )  # fmt: skip
        image = open_tiff_stack(tmp_path / "b.tif")
        np.testing.assert_allclose(image.grid.spacing, (3, 250, 500))
        np.testing.assert_array_equal(image.levels[0].data, volume)
    tifffile.imwrite(tmp_path / "c.tif", volume[0], compression=compression, bigtiff=True, byteorder=">")
    image = open_tiff_stack(tmp_path / "c.tif", spacing=(2, 1, 1), orientation="air", channels=["x"])
    np.testing.assert_array_equal(image.levels[0].read(), volume[0])
    assert image.dtype == np.dtype("u2")
    assert image.orientation == "air"


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"compression": "zlib"},
        {"compression": "zlib", "rowsperstrip": 7, "predictor": True},
        {"compression": "lzw", "rowsperstrip": 50},
        {"compression": "deflate", "tile": (16, 32)},
        {"tile": (32, 48)},
        {"compression": "zlib", "tile": (16, 16), "predictor": True, "byteorder": ">"},
    ],
)
def test_parts_of_planes_are_those_of_the_whole(tmp_path, options):
    plane = voxels((50, 61))
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, plane, **options)
    wanted = plane_header(path)
    for rows, columns in [
        ((0, 50), (0, 61)),
        ((13, 15), (16, 48)),
        ((48, 50), (60, 61)),
        ((5, 40), (0, 17)),
        ((3, 3), (4, 9)),
    ]:
        part = read_plane(path, slice(*rows), slice(*columns), wanted)
        assert part.dtype == plane.dtype
        np.testing.assert_array_equal(part, plane[slice(*rows), slice(*columns)])


def test_tiff_stack_sorts_naturally_and_takes_channels_by_pattern(tmp_path):
    volume = voxels((2, 12, 8, 9))
    for c in range(2):
        write_planes(tmp_path / "s", volume[c], stem=f"ch{c}_")
    image = open_tiff_stack(
        tmp_path / "s", spacing=(5, 2, 2), channels={"signal": "ch1_*", "background": "ch0_*"}
    )
    assert image.channels == ("signal", "background")
    np.testing.assert_array_equal(image.levels[0].data, volume[::-1])
    (tmp_path / "s" / "ch0_3.tif").unlink()
    with pytest.raises(ValueError, match=r"different numbers of planes, \{'signal': 12, 'background': 11\}"):
        open_tiff_stack(
            tmp_path / "s", spacing=(5, 2, 2), channels={"signal": "ch1_*", "background": "ch0_*"}
        )
    with pytest.raises(ValueError, match=r"no TIFF file matches 'ch7_\*'"):
        open_tiff_stack(tmp_path / "s", spacing=(5, 2, 2), channels={"signal": "ch7_*"})


@pytest.mark.parametrize("spacing", [None, (0, 1, 1), (1, -2, 1), (1, 1), (1, 1, float("nan")), "fine"])
def test_voxel_sizes_are_checked(tmp_path, spacing):
    path = write_planes(tmp_path / "s", voxels((2, 8, 9)))
    with pytest.raises(ValueError, match=r"s: .*voxel size"):
        open_tiff_stack(path, spacing=spacing)


@pytest.mark.parametrize("code", ["xyz", "rra", "rla", "ra", "rasi"])
def test_orientation_codes_are_checked(tmp_path, code):
    path = write_planes(tmp_path / "s", voxels((2, 8, 9)))
    with pytest.raises(ValueError, match=f"orientation is '{code}'; wanted three letters"):
        open_tiff_stack(path, spacing=(1, 1, 1), orientation=code)


def test_tiff_stack_refuses_broken_files_float_labels_and_colours(tmp_path):
    um = {"spacing": (1, 1, 1)}
    path = write_planes(tmp_path / "s", voxels((3, 8, 9)).astype("f4"))
    with pytest.raises(ValueError, match="labels are float32; wanted an integer type"):
        open_tiff_stack(path, labels=True, **um)
    tifffile.imwrite(path / "plane2.tif", np.zeros((8, 10), "f4"))
    with pytest.raises(ValueError, match=r"plane2.tif: the plane has shape \(8, 10\); wanted \(8, 9\)"):
        open_tiff_stack(path, check="full", **um)
    whole = tmp_path / "whole.tif"
    tifffile.imwrite(whole, voxels((6, 40, 50)))
    whole.write_bytes(whole.read_bytes()[:-2000])
    with pytest.raises(ValueError, match=r"whole.tif: truncated; found .* bytes, wanted"):
        open_tiff_stack(whole, **um)
    tifffile.imwrite(whole, np.zeros((5, 8, 9, 3), "u1"), photometric="rgb")
    with pytest.raises(ValueError, match="its axes are QYXS"):
        open_source(whole, **um)


def test_truncated_pages_are_refused(tmp_path, caplog):
    path = tmp_path / "pages.tif"
    tifffile.imwrite(path, voxels((6, 40, 50)), compression="zlib", metadata=None)
    path.write_bytes(path.read_bytes()[:-2500])
    with pytest.raises(ValueError, match=r"pages.tif: .*(truncated|pages)"):
        open_tiff_stack(path, spacing=(1, 1, 1)).levels[0].read()


def test_tiff_tiles_follow_their_table(tmp_path):
    volume = voxels((3, 2, 4, 10, 12))
    for t in range(3):
        tifffile.imwrite(
            tmp_path / f"t{t}.tif", volume[t, 0], photometric="minisblack", compression="zlib" if t else None
        )
        write_planes(tmp_path / f"t{t}", volume[t, 1])
    lines = ["tile\tpath\tz\ty\tx\tchannel\trow\tcolumn"]
    for t in range(3):
        lines += [f"tile{t}\tt{t}.tif\t1\t{2.5 * t}\t-3\tred\t0\t{t}"]
        lines += [f"tile{t}\tt{t}{'/*.tif' if t == 1 else ''}\t1\t{2.5 * t}\t-3\tfar red\t0\t{t}"]
    (tmp_path / "tiles.tsv").write_text("\n".join(lines))
    tiles = open_source(tmp_path, spacing=(2, 1, 1))
    assert tiles.channels == ("red", "far red")
    assert [t.position for t in tiles.tiles] == [(1, 2.5 * t, -3) for t in range(3)]
    assert [t.column for t in tiles.tiles] == [0, 1, 2]
    for t in range(3):
        for c in range(2):
            np.testing.assert_array_equal(tiles.read(t, c), volume[t, c])
    region = (slice(1, 3), slice(2, 5), slice(0, 12))
    np.testing.assert_array_equal(travelled(tiles).read(2, 1, region), volume[2, 1][region])
    with pytest.raises(ValueError, match="channel 2 of tile 0 is not there"):
        tiles.read(0, 2)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ("tile,path,z,y\na,a.tif,0,0\n", "column 'x' is missing"),
        ("tile,path,z,y,x\na,a.tif,0,0,here\n", "x of tile 'a' is 'here'; wanted a number"),
        ("tile,path,z,y,x\na,a.tif,0,0,0\na,b.tif,0,0,0\n", "tile 'a' is listed twice"),
        ("tile,path,z,y,x\na,none.tif,0,0,0\n", "none.tif: no such source"),
        (
            "tile,path,z,y,x\na,a.tif,0,0,0\nb,b.tif,0,0,5\n",
            r"b.tif: the tile has shape \(1, 2, 6, 5\); wanted",
        ),
        ("tile,path,z,y,x\na,a.tif,0,0,0\nb,c.tif,0,0,5\n", "c.tif: the tile is uint8; wanted uint16"),
        (
            "tile,path,z,y,x,channel\na,a.tif,0,0,0,r\na,a.tif,0,0,0,g\nb,a.tif,0,0,0,r\n",
            "channel 'g' of tile 'b' is not there",
        ),
        ("tile,path,z,y,x,channel\na,a.tif,0,0,0,r\na,a.tif,0,0,1,g\n", "different positions"),
        ("tile,path,z,y,x\n", "has no tiles"),
    ],
)
def test_tiff_tiles_refuse_bad_tables(tmp_path, table, message):
    tifffile.imwrite(tmp_path / "a.tif", voxels((2, 6, 6)))
    tifffile.imwrite(tmp_path / "b.tif", voxels((2, 6, 5)))
    tifffile.imwrite(tmp_path / "c.tif", voxels((2, 6, 6), dtype="u1"))
    (tmp_path / "tiles.csv").write_text(table)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_tiff_tiles(tmp_path, spacing=(1, 1, 1))
