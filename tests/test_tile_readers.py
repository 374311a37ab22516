"""Readers of tiles: grids by file names, tile configurations, pictures and colours as tiles."""

from __future__ import annotations

import json
import pickle
import struct
from pathlib import Path

import h5py
import imagecodecs
import nibabel
import numpy as np
import pytest
import SimpleITK
import tifffile
from test_czi import write_czi
from test_hcs import write_image, write_well

from weft.readers import open_source
from weft.readers.bdv_volumes import Hdf5Volume
from weft.readers.czi import open_czi
from weft.readers.fingerprint import fingerprint
from weft.readers.hcs import open_hcs
from weft.readers.terastitcher import BlockFiles
from weft.readers.tiff_grid import open_tiff_grid
from weft.readers.tiff_tiles import open_tiff_tiles

PLANE = (slice(0, 1), slice(3, 9), slice(2, 11))


def voxels(shape, seed=0, dtype="u2"):
    return np.random.default_rng(seed).integers(0, 60000 if dtype == "u2" else 250, shape).astype(dtype)


def write_picture(path: Path, pixels: np.ndarray) -> None:
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(pixels, isVector=pixels.ndim == 3), str(path))


# ---------------------------------------------------------------------------------------- grids by file names
def write_grid(folder: Path, name: str, *, rows=2, columns=3, skip=(), planes=None, channels=("a", "b")):
    """Tiles of a grid, each voxel different; their truth by (row, column)."""
    truth = {}
    for row in range(rows):
        for column in range(columns):
            if (row, column) in skip:
                continue
            truth[row, column] = voxels((len(channels), planes or 2, 10, 12), seed=10 * row + column)
            for c, channel in enumerate(channels):
                for z in range(planes or 1):
                    place = folder / name.format(row=row + 1, column=column, channel=channel, z=f"{z + 5:03}")
                    place.parent.mkdir(parents=True, exist_ok=True)
                    part = truth[row, column][c, z] if planes else truth[row, column][c]
                    tifffile.imwrite(place, part, photometric="minisblack")
    return truth


def test_a_grid_of_planes_is_found_by_its_names(tmp_path):
    name = "r{row}/c{column}_z{z}_ch-{channel}.tif"
    truth = write_grid(tmp_path, name, planes=3, skip=[(1, 2)])
    tiles = open_source(tmp_path, "tiff_grid", pattern=name, overlap="25,50", spacing=(5, 2, 0.5))
    assert (tiles.shape, tiles.channels, tiles.missing) == ((3, 10, 12), ("a", "b"), ("r1_c2",))
    for n, tile in enumerate(tiles.tiles):
        assert tile.position == (0, tile.row * 15, tile.column * 3)
        for c in range(2):
            np.testing.assert_array_equal(tiles.read(n, c), truth[tile.row, tile.column][c])
    travelled = pickle.loads(pickle.dumps(tiles))  # noqa: S301
    np.testing.assert_array_equal(travelled.read(1, 1, PLANE), truth[0, 1][1][PLANE])
    turned = open_tiff_grid(
        tmp_path, pattern=name, step="7,9", flip="yx", channels=["b"], spacing=(5, 2, 0.5)
    )
    assert turned.tiles[0].position == (0, 7, 18)
    np.testing.assert_array_equal(turned.read(0), truth[0, 0][1])


@pytest.mark.parametrize(
    ("order", "places"),
    [
        ("rows", [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 2)]),
        ("snake_rows", [(0, 0), (0, 1), (0, 2), (1, 2), (1, 1), (1, 0)]),
        ("columns", [(0, 0), (1, 0), (2, 0), (0, 1), (1, 1), (2, 1)]),
        ("snake_columns", [(0, 0), (1, 0), (2, 0), (2, 1), (1, 1), (0, 1)]),
    ],
)
def test_numbered_tiles_are_counted_in_the_order_of_the_scan(tmp_path, order, places):
    for n in range(6):
        tifffile.imwrite(tmp_path / f"cycle2_tile{n + 8}.tif", np.full((10, 12), n, "u2"))
        tifffile.imwrite(tmp_path / f"cycle1_tile{n + 8}.tif", np.full((10, 12), 99, "u2"))
    options = {"pattern": "cycle{round}_tile{tile}.tif", "columns": "3", "overlap": 10}
    tiles = open_tiff_grid(tmp_path, **options, order=order, select="round:2", spacing=(1, 1, 1))
    found = {int(tiles.read(n)[0, 0, 0]): (tile.row, tile.column) for n, tile in enumerate(tiles.tiles)}
    assert [found[n] for n in range(6)] == places
    with pytest.raises(ValueError, match="field 'round' of the pattern has the values 1, 2; say which"):
        open_tiff_grid(tmp_path, **options, spacing=(1, 1, 1))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pattern": "*.tif"}, "wanted the path of a file with the fields"),
        ({"pattern": "../{tile}.tif"}, "wanted a path below the folder"),
        ({"pattern": "{row}{column}{row}.tif"}, "each field a different word"),
        ({"pattern": "x{row}_{column}.tif"}, "no TIFF file matches the pattern"),
        ({"pattern": "t{tile}.tif"}, "columns is missing"),
        (
            {"pattern": "t{tile}.tif", "columns": "1.5"},
            "columns is '1.5'; wanted a whole number of at least 1",
        ),
        ({"pattern": "t{tile}.tif", "columns": 2}, "wanted either `overlap` in percent, or `step`"),
        ({"pattern": "t{tile}.tif", "columns": 2, "overlap": "120"}, "overlap is '120'"),
        ({"pattern": "t{tile}.tif", "columns": 2, "overlap": 9, "order": "zigzag"}, "order is 'zigzag'"),
        ({"pattern": "t{tile}.tif", "columns": 2, "overlap": 9, "flip": "z"}, "flip is 'z'"),
        ({"pattern": "t{tile}.tif", "columns": 2, "overlap": 9, "select": "a:1"}, "select names 'a'"),
        ({"pattern": "t{tile}_*.tif", "columns": 2, "overlap": 9}, "are the same tile"),
        (
            {"pattern": "p{tile}_{z}.tif", "columns": 2, "overlap": 9},
            "plane 1 of the tile of p0_0.tif is missing",
        ),
        (
            {"pattern": "{channel}{tile}.tif", "columns": 2, "overlap": 9},
            "channel 'u' of the tile of p0_0.tif is not",
        ),
        ({"pattern": "u{tile}.tif", "columns": 2, "overlap": 9}, "the tile is uint8; wanted uint16"),
    ],
)
def test_grids_refuse_what_makes_no_sense(tmp_path, options, message):
    for name in ("t0", "t1", "t0_a", "t0_b", "p0_0", "p0_2", "u1"):
        tifffile.imwrite(tmp_path / f"{name}.tif", np.zeros((10, 12), "u2"))
    tifffile.imwrite(tmp_path / "u3.tif", np.zeros((10, 12), "u1"))
    with pytest.raises(ValueError, match=message):
        open_tiff_grid(tmp_path, **options, spacing=(1, 1, 1))


# ---------------------------------------------------------------------------------------- tables
def test_a_tile_configuration_is_in_voxels(tmp_path):
    truth = voxels((3, 2, 10, 12))
    for n, tile in enumerate(truth):
        tifffile.imwrite(tmp_path / f"{n}.tif", tile, photometric="minisblack")
    (tmp_path / "TileConfiguration.txt").write_text(
        "# by hand\ndim = 3\n\n0.tif; ; (0.0, 0.0, 0.0)\n1.tif; ; (10.5, -1.0, 1.0)\n2.tif;;(20,2,0) # last\n"
    )
    tiles = open_source(tmp_path, spacing=(4, 2, 3))
    assert [t.position for t in tiles.tiles] == [(0, 0, 0), (4, -2, 31.5), (0, 4, 60)]
    assert [t.name for t in tiles.tiles] == ["0", "1", "2"]
    for n in range(3):
        np.testing.assert_array_equal(tiles.read(n), truth[n])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0.tif; ; (0, 0)\n", "after `dim = 2`"),
        ("dim = 2\n0.tif; ; (0, 0, 0)\n", "line 2 is '0.tif; ; \\(0, 0, 0\\)'"),
        ("dim = 2\n0.tif; ; (0, here)\n", "line 2 is ' here'; wanted a number"),
        ("dim = 2\nmultiseries = true\n", "wanted a file for each tile"),
        ("dim = 2\n../0.tif; ; (0, 0)\n", "the path '../0.tif' leaves"),
        ("dim = 2\n/etc/0.tif; ; (0, 0)\n", "the path '/etc/0.tif' leaves"),
        ("dim = 2\n1.tif; ; (0, 0)\n", "1.tif: no such source"),
    ],
)
def test_tile_configurations_are_checked(tmp_path, text, message):
    tifffile.imwrite(tmp_path / "0.tif", np.zeros((10, 12), "u2"))
    (tmp_path / "TileConfiguration.txt").write_text(text)
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        open_tiff_tiles(tmp_path, spacing=(1, 1, 1))


def test_pictures_and_one_of_their_colours_are_tiles(tmp_path):
    colours = voxels((2, 10, 12, 3), dtype="u1")
    lines = ["tile,path,z,y,x"]
    for n, pixels in enumerate(colours):
        write_picture(tmp_path / f"{n}.png", pixels)
        lines.append(f"t{n},{n}.png,0,0,{n * 9}")
    (tmp_path / "tiles.csv").write_text("\n".join(lines))
    tiles = open_tiff_tiles(tmp_path, spacing=(1, 1, 1))
    assert tiles.shape == (1, 10, 12)
    np.testing.assert_array_equal(tiles.read(1, 2, PLANE)[0], colours[1, 3:9, 2:11, 2])
    green = open_tiff_tiles(tmp_path, spacing=(1, 1, 1), sample="green")
    assert green.channels == ("0",)
    np.testing.assert_array_equal(green.read(0)[0], colours[0, ..., 1])
    with pytest.raises(ValueError, match="sample is '3'; its pixels have 3"):
        open_tiff_tiles(tmp_path, spacing=(1, 1, 1), sample="3")


@pytest.mark.parametrize("planar", ["contig", "separate"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_sample_of_colour_files_is_read_when_it_is_named(tmp_path, planar, compression):
    colours = voxels((4, 10, 12, 3), dtype="u1")
    stored = colours if planar == "contig" else np.moveaxis(colours, -1, 1)
    options = {"photometric": "rgb", "planarconfig": planar, "compression": compression}
    tifffile.imwrite(tmp_path / "stack.tif", stored, **options)
    (tmp_path / "planes").mkdir()
    for z, plane in enumerate(stored):
        tifffile.imwrite(tmp_path / "planes" / f"{z}.tif", plane, **options)
    for path in (tmp_path / "stack.tif", tmp_path / "planes"):
        image = open_source(path, "tiff_stack", spacing=(1, 1, 1), sample="blue")
        np.testing.assert_array_equal(image.levels[0].read(0), colours[..., 2])
        with pytest.raises(ValueError, match="`sample` to say which colour is read"):
            open_source(path, "tiff_stack", spacing=(1, 1, 1))


# ---------------------------------------------------------------------------------------- what has to be named
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_frame_of_a_nifti_of_four_axes_is_read_when_it_is_named(tmp_path, suffix):
    truth = voxels((4, 10, 12, 3), dtype="i2" if suffix == ".nii" else "u1")  # x, y, z, t
    path = tmp_path / f"series{suffix}"
    nibabel.save(nibabel.Nifti1Image(truth, np.eye(4)), path)
    image = open_source(path, frame="2")
    np.testing.assert_array_equal(image.levels[0].read(), truth[..., 2].T)
    with pytest.raises(ValueError, match="`frame` to say which is read"):
        open_source(path)
    with pytest.raises(ValueError, match="frame is '3'; it has 3"):
        open_source(path, frame="3")


def lz4_stream(data: bytes, size=100) -> bytes:
    """A stream of lz4-java: blocks with a head of their own, the last one empty; one of them is stored plain."""
    out = b""
    for start in range(0, len(data), size):
        part = data[start : start + size]
        packed = part if start == size else bytes(imagecodecs.lz4_encode(part))
        token = 0x10 if start == size else 0x20
        out += b"LZ4Block" + struct.pack("<Biii", token | 5, len(packed), len(part), 0) + packed
    return out + b"LZ4Block" + struct.pack("<Biii", 0x15, 0, 0, 0)


def test_n5_in_lz4_is_read(tmp_path):
    truth = voxels((5, 9, 11))
    block = 2, 4, 6  # z, y, x
    for z, y, x in np.ndindex(3, 3, 2):
        if (z, y, x) == (1, 0, 1):
            truth[2:4, :4, 6:] = 0  # a block that is not there
            continue
        part = truth[2 * z : 2 * z + 2, 4 * y : 4 * y + 4, 6 * x : 6 * x + 6]
        file = tmp_path / f"a.n5/{x}/{y}/{z}"
        file.parent.mkdir(parents=True, exist_ok=True)
        head = struct.pack(">HH3I", 0, 3, *part.shape[::-1])
        file.write_bytes(head + lz4_stream(part.astype(">u2").tobytes()))
    facts = {"dimensions": truth.shape[::-1], "blockSize": block[::-1], "dataType": "uint16"}
    facts |= {"compression": {"type": "lz4", "blockSize": 65536}, "pixelResolution": [1, 1, 2]}
    (tmp_path / "a.n5/attributes.json").write_text(json.dumps(facts))
    image = open_source(tmp_path / "a.n5")
    assert (image.grid.shape, image.dtype, image.levels[0].data.chunksize) == ((5, 9, 11), "u2", (1, *block))
    np.testing.assert_array_equal(image.levels[0].read(), truth)
    region = (slice(1, 4), slice(3, 9), slice(5, 7))
    np.testing.assert_array_equal(image.levels[0].read(0, region), truth[region])
    file = tmp_path / "a.n5/0/0/0"
    file.write_bytes(file.read_bytes()[:60])
    with pytest.raises(ValueError, match=r"0/0/0: it is no LZ4 stream, or truncated"):
        image.levels[0].read()


def test_a_table_stands_for_the_files_that_it_names(tmp_path):
    (tmp_path / "tiles.tsv").write_text("tile\tpath\tz\ty\tx\na\ta.tif\t0\t0\t0\n")
    (tmp_path / "a.tif").write_bytes(b"1")
    before = fingerprint(tmp_path / "tiles.tsv")
    (tmp_path / "a.tif").write_bytes(b"22")
    assert fingerprint(tmp_path / "tiles.tsv") != before


# ---------------------------------------------------------------------------------------- laziness
def lazy_sources(folder: Path, volume: np.ndarray):
    """Readers ``read(region)`` of the same tile in several formats, by name."""
    (folder / "grid").mkdir(parents=True)
    for z, plane in enumerate(volume):
        tifffile.imwrite(folder / f"grid/r0_c0_z{z:03}.tif", plane)
    blocks = [folder / f"block{n}.tif" for n in range(6)]
    for n, file in enumerate(blocks):
        tifffile.imwrite(
            file, volume[4 * n : 4 * n + 4], photometric="minisblack", compression="zlib", rowsperstrip=16
        )
    write_czi(folder / "m.czi", [({"Z": z, "M": 0}, (0, 0), plane) for z, plane in enumerate(volume)])
    with h5py.File(folder / "d.h5", "w") as file:
        file.create_dataset("cells", data=volume.view("i2"), chunks=(4, 64, 64))
    images = write_image(folder / "well/0", volume[None, :1])
    del images["0"]
    images.create_array("0", data=volume[None], chunks=(1, 4, 64, 64), compressors=None)
    write_well(folder / "well", [("0", 0)])
    options = {"pattern": "r{row}_c{column}_z{z}.tif", "overlap": 10, "spacing": (1, 1, 1)}
    return {
        "tiff_grid": lambda region: open_tiff_grid(folder / "grid", **options).read(0, 0, region),
        "terastitcher": lambda region: BlockFiles(blocks, [4] * 6, range(24), 24).read(0, region),
        "czi": lambda region: open_czi(folder / "m.czi").read(0, 0, region),
        "bdv": lambda region: Hdf5Volume(folder / "d.h5", "cells").read(0, region),
        "hcs": lambda region: open_hcs(folder / "well").read(0, 0, region),
    }


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts bytes where Linux does")
def test_a_region_of_a_tile_costs_a_fraction_of_its_bytes(tmp_path):
    volume = voxels((24, 256, 256))
    region = (slice(9, 11), slice(100, 140), slice(30, 70))
    for read in lazy_sources(tmp_path / "warm", volume).values():
        read(region)  # imports and first-use set-up do not count

    def count():
        return int(Path("/proc/self/io").read_text().split()[1])

    for kind, read in lazy_sources(tmp_path / "cold", volume).items():
        before = count()
        found = read(region)
        assert count() - before < volume.nbytes / 5, kind
        np.testing.assert_array_equal(found, volume[region])
