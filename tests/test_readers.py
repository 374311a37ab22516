"""Readers: bit-equal to the libraries that own the formats, lazy, and plain about bad input."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
import tensorstore
import tifffile
import zarr

from weft import readers
from weft.grid import Grid
from weft.image import Image, TileSet
from weft.readers import detect_format, open_source, register_reader
from weft.readers.colm import open_colm
from weft.readers.fingerprint import fingerprint, source_files
from weft.readers.n5 import open_n5
from weft.readers.ome_zarr import open_ome_zarr
from weft.readers.precomputed import open_precomputed
from weft.readers.tiff import plane_header, read_plane
from weft.readers.tiff_stack import open_tiff_stack
from weft.readers.tiff_tiles import open_tiff_tiles
from weft.readers.volume_file import open_volume

ROOT = Path(__file__).resolve().parents[1]
BLOCK = (slice(20, 24), slice(100, 140), slice(30, 70))


def voxels(shape, seed=0, dtype="u2"):
    return np.random.default_rng(seed).integers(0, 60000, shape).astype(dtype)


def travelled(source):
    """A source as another process gets it (of dask's workers, which speak pickle)."""
    return pickle.loads(pickle.dumps(source))  # noqa: S301


# ---------------------------------------------------------------------------------------- small sources
def write_planes(folder: Path, volume: np.ndarray, stem="plane", **options) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for z, plane in enumerate(volume):
        tifffile.imwrite(folder / f"{stem}{z}.tif", plane, **options)
    return folder


def write_colm(folder: Path, tiles: dict[int, np.ndarray], rows=2, columns=2, **changes) -> Path:
    """A COLM acquisition of tiles (c, z, y, x) by LOC number; ``changes`` replace values of the settings."""
    first = next(iter(tiles.values()))
    values = {
        "Num Horizontal": columns,
        "Num Vertical": rows,
        "Stack Step (mm)": 0.0025,
        "Num in stack (Top Left Corner)": first.shape[1],
        "X Resolution": first.shape[3],
        "Num Enabled Channels": first.shape[0],
        "Actual Horizontal Overlap (%)": 12.5,
        "Actual Vertical Overlap (%)": 15,
        "North": "Olympus XLPLN10XSVMP 10x NA 0.6",
    } | changes
    sections = {
        "North Scan Region": ["Num Horizontal", "Num Vertical", "Stack Step (mm)"],
        "Experiment Settings": ["Num in stack (Top Left Corner)", "X Resolution", "Num Enabled Channels"],
        "North Scan Region Stats": ["Actual Horizontal Overlap (%)", "Actual Vertical Overlap (%)"],
        "Objectives": ["North"],
    }
    folder.mkdir(parents=True)
    lines = []
    for section, keys in sections.items():
        lines += [f"[{section}]", *(f'{key} = "{values[key]}"' for key in keys if values[key] is not None)]
    (folder / "Experiment.ini").write_text("\n".join(lines))
    cells = [
        ",".join('"1"' if c + r * columns in tiles else '"0"' for c in range(columns)) for r in range(rows)
    ]
    (folder / "Scanned Cells.txt").write_text("\r\n".join(cells) + "\r\n")
    for number, tile in tiles.items():
        place = folder / "VW0" / f"LOC{number:03}"
        place.mkdir(parents=True)
        for c, channel in enumerate(tile):
            for z, plane in enumerate(channel):
                tifffile.imwrite(place / f"LOC{number:03}_CHN0{c}_PLN{z:04}.tif", plane)
    return folder


def write_n5(folder: Path, volume: np.ndarray, attributes: dict) -> Path:
    spec = {
        "driver": "n5",
        "kvstore": {"driver": "file", "path": f"{folder}/"},
        "metadata": {
            "dimensions": list(volume.shape[::-1]),
            "blockSize": [32, 32, 32],
            "dataType": volume.dtype.name,
            "compression": {"type": "gzip"},
        },
        "create": True,
    }
    tensorstore.open(spec).result().write(volume.T).result()
    place = folder / "attributes.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | attributes))
    return folder


def write_ome_zarr(
    folder: Path, levels, *, version="0.5", axes="czyx", unit="micrometer", scale=1.0, **extra
) -> Path:
    """Levels of the given axes; scale of level n is ``scale * 2**n`` in z, y, x."""
    group = zarr.open_group(str(folder), mode="w", zarr_format=3 if version == "0.5" else 2)
    datasets = []
    for n, level in enumerate(levels):
        chunks = tuple(
            1 if axis in "tc" else min(32, size) for axis, size in zip(axes, level.shape, strict=True)
        )
        array = group.create_array(str(n), shape=level.shape, chunks=chunks, dtype=level.dtype)
        array[:] = level
        step = [scale * 2**n if axis in "zyx" else 1.0 for axis in axes]
        datasets.append({"path": str(n), "coordinateTransformations": [{"type": "scale", "scale": step}]})
    kinds = {"t": "time", "c": "channel"}
    named = [
        {"name": a, "type": kinds.get(a, "space"), **({"unit": unit} if a in "zyx" and unit else {})}
        for a in axes
    ]
    multiscales = [{"axes": named, "datasets": datasets, "version": version} | extra.pop("multiscale", {})]
    metadata = {"multiscales": multiscales, **extra}
    group.attrs.update({"ome": {"version": version, **metadata}} if version == "0.5" else metadata)
    return folder


def build(kind: str, folder: Path) -> tuple[Path, dict]:
    """A source of (64, 256, 256) random voxels, 8 MB, that no compression shrinks much."""
    volume = voxels((64, 256, 256))
    um = {"spacing": (2, 1, 1)}
    folder.mkdir(parents=True)
    if kind == "colm":
        return write_colm(folder / "raw", {0: volume[None], 1: volume[None]}, 1, 2), {}
    if kind == "tiff_tiles":
        tifffile.imwrite(folder / "a.tif", volume, compression="zlib")
        (folder / "tiles.csv").write_text("tile,path,z,y,x\na,a.tif,0,0,0\n")
        return folder, um
    if kind == "tiff_planes":
        return write_planes(folder / "planes", volume, compression="zlib"), um
    if kind == "tiff_plain":
        tifffile.imwrite(folder / "a.tif", volume)
        return folder / "a.tif", um
    if kind == "tiff_pages":
        tifffile.imwrite(folder / "a.tif", volume, compression="zlib", tile=(64, 64))
        return folder / "a.tif", um
    if kind in ("ome_zarr_0.4", "ome_zarr_0.5"):
        return write_ome_zarr(folder / "a.zarr", [volume[None]], version=kind[-3:]), {}
    if kind == "ome_zarr_zyx":
        return write_ome_zarr(folder / "a.zarr", [volume], axes="zyx"), {}
    if kind == "n5":
        return write_n5(folder / "a.n5", volume, {"pixelResolution": [1, 1, 2]}), {}
    if kind == "nifti":
        nibabel.save(nibabel.Nifti1Image(volume.T, np.diag([0.001, 0.001, 0.002, 1])), folder / "a.nii")
        return folder / "a.nii", {}
    if kind in ("nrrd", "mha"):
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume), folder / f"a.{kind}", False)
        return folder / f"a.{kind}", {"spacing_unit": "um"}
    if kind == "precomputed":
        from weft.image import Level
        from weft.stores.precomputed import write_precomputed

        image = Image(
            (Level(zarr.array(volume[None], chunks=(1, 32, 32, 32)), Grid(volume.shape, (2, 1, 1))),)
        )
        write_precomputed(image, folder / "pc", segmentation=False, chunk=(32, 32, 32))
        return folder / "pc", {}
    raise AssertionError(kind)


KINDS = (
    *("colm", "tiff_tiles", "tiff_planes", "tiff_plain", "tiff_pages", "ome_zarr_0.4", "ome_zarr_0.5"),
    *("ome_zarr_zyx", "n5", "nifti", "nrrd", "mha", "precomputed"),
)

COUNT = """
import json, sys
from weft.readers import open_source

def read(path, options):
    source = open_source(path, **options)
    block = tuple(slice(*part) for part in json.loads(sys.argv[2]))
    level = source.levels[0] if hasattr(source, "levels") else source
    return level.read(0, region=block)

def count():
    with open("/proc/self/io") as file:
        return int(file.readline().split()[1])

for warm, cold, options in json.loads(sys.argv[1]):
    read(warm, options)  # imports and first-use set-up do not count
    before = count()
    found = read(cold, options)
    print(json.dumps([count() - before, int(found.sum())]))
"""


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> dict[str, tuple[Path, dict]]:
    base = tmp_path_factory.mktemp("sources")
    return {kind: build(kind, base / kind) for kind in KINDS}


@pytest.mark.skipif(not Path("/proc/self/io").exists(), reason="counts bytes where Linux does")
def test_one_block_reads_a_fraction_of_the_bytes(sources, tmp_path):
    jobs = [(str(build(kind, tmp_path / kind)[0]), str(sources[kind][0]), sources[kind][1]) for kind in KINDS]
    region = json.dumps([[part.start, part.stop] for part in BLOCK])
    run = subprocess.run(
        [sys.executable, "-c", COUNT, json.dumps(jobs), region],
        capture_output=True, text=True, cwd=ROOT, check=False,
    )  # fmt: skip
    assert run.returncode == 0, run.stderr
    block = voxels((64, 256, 256))[BLOCK]
    for kind, line in zip(KINDS, run.stdout.splitlines(), strict=True):
        read, total = json.loads(line)
        size = sum(file.stat().st_size for file in source_files(sources[kind][0]))
        assert total == block.sum(), kind
        assert block.nbytes <= read < size / 5, (kind, read, size)


@pytest.mark.parametrize("kind", KINDS)
def test_blocks_are_the_written_voxels_and_sources_pickle(sources, kind):
    path, options = sources[kind]
    volume = voxels((64, 256, 256))
    source = travelled(open_source(path, **options))
    if isinstance(source, TileSet):
        np.testing.assert_array_equal(source.read(0, 0, BLOCK), volume[BLOCK])
        np.testing.assert_array_equal(source.read(len(source.tiles) - 1), volume)
        assert source.dtype == volume.dtype
        return
    level = source.levels[0]
    assert level.data.shape == (1, *volume.shape)
    assert level.data.dtype == volume.dtype
    assert level.read(0, BLOCK).dtype == volume.dtype
    np.testing.assert_array_equal(level.read(0, BLOCK), volume[BLOCK])
    np.testing.assert_array_equal(level.read(), volume)


@pytest.mark.parametrize(
    ("kind", "stated"),
    [
        *(("tiff_plain", None), ("tiff_planes", None), ("ome_zarr_0.5", (1, 1, 1)), ("n5", (2, 1, 1))),
        *(
            ("nifti", (0.002, 0.001, 0.001)),
            ("nrrd", (1, 1, 1)),
            ("mha", (1, 1, 1)),
            ("precomputed", (2, 1, 1)),
        ),
    ],
)
def test_what_a_source_states_stays_known_where_another_voxel_size_is_given(sources, kind, stated):
    image = open_source(sources[kind][0], spacing=(5, 4, 3))
    assert image.grid.spacing == (5, 4, 3)
    assert image.stated_spacing == (stated and pytest.approx(stated))


def test_lazy_volumes_index_as_arrays_do(sources):
    volume = voxels((64, 256, 256))[None]
    data = open_source(sources["tiff_plain"][0], spacing=(2, 1, 1)).levels[0].data
    for key in [
        (0, 5, slice(None), slice(3, 9)),
        (slice(None), slice(60, 2, -7), slice(0, 256, 50), slice(-9, None)),
        (0, [3, 1, 60], slice(None, 4), slice(250, None)),
        (slice(None), slice(5, 5), slice(None, 4), slice(None)),
    ]:
        np.testing.assert_array_equal(np.asarray(data[key]), volume[key])


# ---------------------------------------------------------------------------------------- registry
def test_formats_are_detected_and_readers_import_lazily(sources):
    expected = {"tiff_planes": "tiff_stack", "tiff_plain": "tiff_stack", "tiff_pages": "tiff_stack"}
    expected |= {"nifti": "volume", "nrrd": "volume", "mha": "volume", "ome_zarr_zyx": "ome_zarr"}
    for kind, (path, _) in sources.items():
        assert detect_format(path) == expected.get(kind, kind.removesuffix("_0.4").removesuffix("_0.5"))
    heavy = "import sys, weft.readers; print([m for m in ('tifffile','zarr','cloudvolume','dask','pandas') if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", heavy], capture_output=True, text=True, cwd=ROOT, check=True)
    assert run.stdout.strip() == "[]"


def test_registry_refuses_and_extends(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"nowhere: no such source"):
        open_source(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(ValueError, match="none of the formats"):
        open_source(tmp_path / "notes.txt")
    with pytest.raises(ValueError, match="unknown format 'mrc'"):
        open_source(tmp_path / "notes.txt", "mrc")
    with pytest.raises(ValueError, match="has no option 'spacng'"):
        open_source(tmp_path / "notes.txt", "volume", spacng=(1, 1, 1))
    with pytest.raises(ValueError, match="one of weft's own"):
        register_reader("colm", open_colm)

    def open_notes(path, *, size=2):
        return Image((readers_level(np.full((1, size, size, size), len(Path(path).read_text()))),))

    register_reader("notes", open_notes)
    try:
        assert open_source(tmp_path / "notes.txt", "notes", size=3).levels[0].read().tolist()[0][0] == [
            5,
            5,
            5,
        ]
        assert "notes" in readers.formats()
        assert "open_notes@" in readers.reader_identity("notes")
        assert readers.reader_identity("colm") == "weft"
    finally:
        readers._registered.pop("notes")


def readers_level(data):
    from weft.image import Level

    return Level(data, Grid(data.shape[1:], (1, 1, 1)))


def test_readers_come_through_entry_points(tmp_path):
    (tmp_path / "outside.py").write_text(
        "def open_outside(path, **options):\n    return str(path), options\n"
    )
    info = tmp_path / "outside-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: outside\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[weft.readers]\noutside = outside:open_outside\n")
    code = (
        "from weft.readers import formats, open_source, reader_identity;"
        "print('outside' in formats(), open_source('there', 'outside', a=1), reader_identity('outside'))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True, text=True, check=True, env=os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"},
    )  # fmt: skip
    assert run.stdout.startswith("True ('there', {'a': 1}) outside.open_outside@")


# ---------------------------------------------------------------------------------------- fingerprint
def test_fingerprint_sees_every_change_and_imports_only_the_standard_library(tmp_path):
    folder = write_planes(tmp_path / "a", voxels((3, 8, 8)))
    (folder / "sub").mkdir()
    (folder / "sub" / "up").symlink_to(folder)  # a link upwards is not followed for ever
    os.utime(folder / "plane1.tif", ns=(5, 5))
    first = fingerprint(folder)
    assert fingerprint(folder) == first
    assert fingerprint(folder.rename(tmp_path / "b")) != ""
    folder = tmp_path / "b"
    os.utime(folder / "plane1.tif", ns=(5, 6))
    changed = fingerprint(folder)
    (folder / "plane2.tif").rename(folder / "plane3.tif")
    renamed = fingerprint(folder)
    (folder / "plane3.tif").unlink()
    assert len({first, changed, renamed, fingerprint(folder)}) == 4
    assert [f.name for f in source_files(folder) if f.suffix == ".tif"] == ["plane0.tif", "plane1.tif"]
    with pytest.raises(FileNotFoundError, match="no such source"):
        fingerprint(tmp_path / "none")
    code = "import sys; sys.modules.update(numpy=None, zarr=None); import weft.readers.fingerprint as f; print(f.fingerprint(sys.argv[1]))"
    run = subprocess.run(
        [sys.executable, "-c", code, folder], capture_output=True, text=True, cwd=ROOT, check=False
    )
    assert (run.stdout.strip() or run.stderr) == fingerprint(folder)


# ---------------------------------------------------------------------------------------- COLM
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


# ---------------------------------------------------------------------------------------- TIFF
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


# ---------------------------------------------------------------------------------------- OME-Zarr
def test_ome_zarr_composes_transformations_in_micrometres(tmp_path):
    levels = [voxels((4, 8, 8)), voxels((2, 4, 4))]
    whole = [
        {"type": "scale", "scale": [2.0, 1.0, 0.5]},
        {"type": "translation", "translation": [0.01, 0.0, -0.02]},
    ]
    path = write_ome_zarr(
        tmp_path / "a.zarr", levels, axes="zyx", unit="millimeter", scale=0.004,
        multiscale={"coordinateTransformations": whole},
    )  # fmt: skip
    group = zarr.open_group(str(path), mode="r+")
    ome = dict(group.attrs["ome"])
    shift = {"type": "translation", "translation": [0.002, 0.002, 0.002]}
    ome["multiscales"][0]["datasets"][1]["coordinateTransformations"].append(shift)
    group.attrs["ome"] = ome
    image = open_ome_zarr(path)
    np.testing.assert_allclose(image.levels[0].grid.spacing, (8, 4, 2))
    np.testing.assert_allclose(image.levels[0].grid.origin, (10, 0, -20))
    np.testing.assert_allclose(image.levels[1].grid.spacing, (16, 8, 4))
    np.testing.assert_allclose(image.levels[1].grid.origin, (14, 2, -19))
    np.testing.assert_array_equal(image.levels[1].read(), levels[1])
    image = open_ome_zarr(path, spacing=(4, 4, 4))
    np.testing.assert_allclose(image.levels[1].grid.spacing, (8, 8, 8))
    np.testing.assert_allclose(image.levels[1].grid.origin, (2, 2, 2))


@pytest.mark.parametrize("version", ["0.4", "0.5"])
@pytest.mark.parametrize("axes", ["yx", "cyx", "zyx", "tyx", "tzyx", "tczyx", "czyx"])
def test_ome_zarr_reads_every_subset_of_axes(tmp_path, axes, version):
    sizes = {"t": 3, "c": 2, "z": 5, "y": 6, "x": 7}
    volume = voxels([sizes[axis] for axis in axes])
    path = write_ome_zarr(tmp_path / "a.zarr", [volume], axes=axes, version=version)
    if "t" in axes:
        with pytest.raises(ValueError, match="has 3 time points; say which"):
            open_ome_zarr(path)
        with pytest.raises(ValueError, match="time point 3 is not there"):
            open_ome_zarr(path, time=3)
    image = open_ome_zarr(path, time="1" if "t" in axes else None)
    expected = volume[1] if "t" in axes else volume
    rest = axes.replace("t", "")
    expected = expected.reshape([sizes[a] if a in rest else 1 for a in "czyx"])
    np.testing.assert_array_equal(np.asarray(image.levels[0].data[:]), expected)
    np.testing.assert_array_equal(
        image.levels[0].read(0, (slice(0, 1), slice(1, 4), slice(2, 6))), expected[0, :1, 1:4, 2:6]
    )


def test_ome_zarr_reads_orientation_channels_and_labels(tmp_path):
    volume = voxels((2, 4, 8, 8))
    names = {"omero": {"channels": [{"label": "a"}, {"label": "b"}]}}
    path = write_ome_zarr(tmp_path / "a.zarr", [volume], **names)
    assert open_ome_zarr(path).channels == ("a", "b")
    assert open_ome_zarr(path).orientation is None
    group = zarr.open_group(str(path), mode="r+")
    ome = dict(group.attrs["ome"])
    for axis, value in zip(
        ome["multiscales"][0]["axes"][1:],
        ("posterior-to-anterior", "superior-to-inferior", "left-to-right"),
        strict=True,
    ):
        axis["orientation"] = {"type": "anatomical", "value": value}
    group.attrs["ome"] = ome
    assert open_ome_zarr(path).orientation == "air"
    assert open_ome_zarr(path, orientation="sal").orientation == "sal"

    path = write_ome_zarr(
        tmp_path / "l.zarr", [volume[0].astype("u8") << 40], axes="zyx", **{"image-label": {}}
    )
    image = open_ome_zarr(path)
    assert image.labels
    assert image.dtype == np.uint64
    np.testing.assert_array_equal(image.levels[0].read(), volume[0].astype("u8") << 40)
    path = write_ome_zarr(tmp_path / "f.zarr", [volume[0].astype("f4")], axes="zyx", **{"image-label": {}})
    with pytest.raises(ValueError, match=r"f.zarr: labels are float32"):
        open_ome_zarr(path)


def test_ome_zarr_refuses_what_is_no_image(tmp_path):
    group = zarr.open_group(str(tmp_path / "p.zarr"), mode="w", zarr_format=2)
    with pytest.raises(ValueError, match="has no `multiscales` metadata"):
        open_ome_zarr(tmp_path / "p.zarr")
    group.attrs["plate"] = {"wells": []}
    with pytest.raises(ValueError, match="is a plate; wanted one image of it"):
        open_ome_zarr(tmp_path / "p.zarr")
    zero = write_ome_zarr(tmp_path / "z.zarr", [voxels((4, 8, 8))], axes="zyx", scale=0)
    with pytest.raises(ValueError, match=r"z.zarr/0: voxel size is"):
        open_ome_zarr(zero)
    gone = write_ome_zarr(tmp_path / "g.zarr", [voxels((4, 8, 8))], axes="zyx")
    (gone / "0" / "zarr.json").unlink()
    with pytest.raises(ValueError, match=r"g.zarr/0: cannot be read as a Zarr array"):
        open_ome_zarr(gone)
    odd = write_ome_zarr(tmp_path / "o.zarr", [voxels((4, 8, 8))], axes="zyx", unit="parsec")
    with pytest.raises(ValueError, match="unknown unit of length 'parsec'"):
        open_ome_zarr(odd)


# ---------------------------------------------------------------------------------------- N5
def test_n5_multiplies_the_voxel_size_by_the_downsampling_factors(tmp_path):
    levels = {0: voxels((20, 40, 36)), 1: voxels((10, 20, 18), 1)}
    for c in range(2):
        for n, level in levels.items():
            attributes = {"pixelResolution": [0.5, 1.0, 2.0], "downsamplingFactors": [2**n, 2**n, 2**n]}
            write_n5(tmp_path / "a.n5" / f"c{c}" / f"s{n}", level + np.uint16(c), attributes)
    image = open_source(tmp_path / "a.n5")
    assert image.channels == ("c0", "c1")
    full = Grid((20, 40, 36), (2, 1, 0.5))
    assert [level.grid for level in image.levels] == [full, full.coarsen((2, 2, 2))]
    np.testing.assert_array_equal(image.levels[1].read(1), levels[1] + 1)
    one = open_n5(tmp_path / "a.n5", dataset="c1/s1", spacing=(4, 2, 2))
    assert one.grid == Grid((20, 40, 36), (4, 2, 2)).coarsen((2, 2, 2))
    np.testing.assert_array_equal(one.levels[0].read(), levels[1] + 1)


def test_n5_refuses_what_it_cannot_know(tmp_path):
    write_n5(tmp_path / "a.n5" / "first", voxels((4, 5, 6)), {})
    with pytest.raises(ValueError, match="no voxel size is stated"):
        open_n5(tmp_path / "a.n5")
    write_n5(tmp_path / "a.n5" / "second", voxels((4, 5, 6)), {"pixelResolution": [0, 1, 1]})
    with pytest.raises(ValueError, match="found the data sets first, second; say which"):
        open_n5(tmp_path / "a.n5")
    with pytest.raises(ValueError, match="voxel size is"):
        open_n5(tmp_path / "a.n5", dataset="second")
    with pytest.raises(FileNotFoundError, match="third: no such source"):
        open_n5(tmp_path / "a.n5", dataset="third")


# ---------------------------------------------------------------------------------------- NIfTI, NRRD, MetaImage
# Where the axes of the file's matrix point -> code (z, y, x).
@pytest.mark.parametrize(
    ("columns", "code"), [("RAS", "sar"), ("LPS", "spl"), ("PIR", "rip"), ("SRA", "ars")]
)
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz", ".nrrd", ".mha"])
def test_volume_files_say_where_their_axes_point(tmp_path, columns, code, suffix):
    volume = voxels((5, 6, 7))
    directions = {
        "R": (1, 0, 0),
        "L": (-1, 0, 0),
        "A": (0, 1, 0),
        "P": (0, -1, 0),
        "S": (0, 0, 1),
        "I": (0, 0, -1),
    }
    matrix = np.array(
        [directions[letter] for letter in columns], float
    ).T  # RAS+, a column per array axis (x, y, z)
    path = tmp_path / f"a{suffix}"
    if suffix.startswith(".nii"):
        affine = np.eye(4)
        affine[:3, :3] = matrix * [0.01, 0.02, 0.03]
        nibabel.save(nibabel.Nifti1Image(volume.T, affine), path)
    else:
        image = SimpleITK.GetImageFromArray(volume)
        image.SetSpacing((10, 20, 30))
        image.SetDirection((matrix * [[-1], [-1], [1]]).ravel().tolist())
        SimpleITK.WriteImage(image, path)
    image = open_volume(path, **({} if suffix.startswith(".nii") else {"spacing_unit": "um"}))
    assert image.orientation == code
    assert image.grid.shape == (5, 6, 7)
    np.testing.assert_allclose(image.grid.spacing, (30, 20, 10), rtol=1e-6)
    np.testing.assert_array_equal(image.levels[0].read(), volume)


def test_nifti_slope_is_applied_as_nibabel_does(tmp_path):
    image = nibabel.Nifti1Image(voxels((4, 5, 6), dtype="i2"), np.eye(4))
    image.header.set_slope_inter(0.5, 10)
    for name in ("a.nii", "a.nii.gz"):
        nibabel.save(image, tmp_path / name)
        wanted = np.asarray(nibabel.load(tmp_path / name).dataobj).T
        found = open_volume(tmp_path / name).levels[0]
        assert found.data.dtype == wanted.dtype
        np.testing.assert_array_equal(found.read(), wanted)
        with pytest.raises(ValueError, match="labels are float64, and one of them is"):
            open_volume(tmp_path / name, labels=True).levels[0].read()


@pytest.mark.parametrize("name", ["a.nii.gz", "a.nii", "a.nrrd"])
def test_labels_stored_as_whole_floats_become_integers(tmp_path, name):
    wanted = np.random.default_rng(1).integers(0, 2**24, (4, 5, 6)).astype(np.uint32)
    stored = SimpleITK.GetImageFromArray(wanted.astype(np.float32))
    SimpleITK.WriteImage(stored, str(tmp_path / name))
    found = open_volume(tmp_path / name, labels=True, spacing=(1.0, 1.0, 1.0))
    assert found.dtype == np.uint32
    np.testing.assert_array_equal(found.levels[0].read(), wanted)
    for wrong in (-1.0, 0.5, 2.0**32, np.nan):
        voxels = wanted.astype(np.float32)
        voxels[1, 2, 3] = wrong
        SimpleITK.WriteImage(SimpleITK.GetImageFromArray(voxels), str(tmp_path / name))
        with pytest.raises(ValueError, match=f"{name}: labels are float32, and one of them is"):
            open_volume(tmp_path / name, labels=True, spacing=(1.0, 1.0, 1.0)).levels[0].read()


def test_nrrd_needs_a_unit_and_knows_its_space(tmp_path):
    volume = voxels((5, 6, 7), dtype="i4")
    header = (
        "NRRD0005\ntype: int\ndimension: 3\nsizes: 7 6 5\nspacings: 10 20 30\nencoding: raw\nendian: big\n"
    )
    path = tmp_path / "a.nrrd"
    path.write_bytes(header.encode() + b"\n" + volume.astype(">i4").tobytes())
    with pytest.raises(ValueError, match=r"voxel size \[30.0, 20.0, 10.0\] has no unit; give `spacing_unit`"):
        open_volume(path)
    image = open_volume(path, spacing_unit="nm")
    np.testing.assert_allclose(image.grid.spacing, (0.03, 0.02, 0.01))
    assert image.orientation is None
    np.testing.assert_array_equal(image.levels[0].read(), volume)
    np.testing.assert_array_equal(SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(path))), volume)
    path.write_bytes(
        header.replace("encoding", 'units: "mm" "mm" "mm"\nencoding').encode()
        + b"\n"
        + volume.astype(">i4").tobytes()
    )
    np.testing.assert_allclose(open_volume(path).grid.spacing, (30e3, 20e3, 10e3))
    assert open_volume(path, spacing=(1, 2, 3), orientation="lip").grid.spacing == (1, 2, 3)


def test_volume_files_refuse_broken_input(tmp_path):
    volume = voxels((8, 40, 50))
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(volume), tmp_path / "a.nrrd", False)
    nibabel.save(nibabel.Nifti1Image(volume.T, np.eye(4)), tmp_path / "a.nii")
    for name in ("a.nrrd", "a.nii"):
        path = tmp_path / name
        path.write_bytes(path.read_bytes()[:-1000])
        with pytest.raises(ValueError, match=f"{name}: truncated; found .* bytes, wanted"):
            open_volume(path, spacing_unit="um")
    nibabel.save(nibabel.Nifti1Image(volume.T, np.eye(4)), tmp_path / "b.nii.gz")
    path = tmp_path / "b.nii.gz"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ValueError, match=r"b.nii.gz: cannot be read as NIfTI"):
        open_volume(path).levels[0].read()
    nibabel.save(nibabel.Nifti1Image(voxels((4, 5, 6, 2)), np.eye(4)), path)
    with pytest.raises(ValueError, match=r"its shape is \(4, 5, 6, 2\); wanted three axes"):
        open_volume(path)
    (tmp_path / "c.nii").write_bytes(b"junk")
    with pytest.raises(ValueError, match=r"c.nii: cannot be read as NIfTI"):
        open_volume(tmp_path / "c.nii")


# ---------------------------------------------------------------------------------------- real files
def test_real_n5_is_what_tensorstore_reads(data_root):
    path = data_root / "easifish_lowres/resources/fix.n5"
    image = open_source(path)
    store = tensorstore.open(
        {"driver": "n5", "kvstore": {"driver": "file", "path": f"{path}/lowres/"}}
    ).result()
    np.testing.assert_allclose(image.grid.spacing, (1.68, 1.84, 1.84))
    assert image.grid.shape == (149, 241, 456)
    region = (slice(60, 80), slice(100, 200), slice(120, 270))
    np.testing.assert_array_equal(image.levels[0].read(0, region), store[region[::-1]].read().result().T)
    # Not by any library: the first block as the format's text has it, gzip of big-endian numbers behind a header.
    import gzip

    raw = (path / "lowres/0/0/0").read_bytes()
    block = np.frombuffer(gzip.decompress(raw[16:]), ">u2").reshape(70, 128, 128)
    np.testing.assert_array_equal(
        image.levels[0].read(0, (slice(0, 70), slice(0, 128), slice(0, 128))), block
    )


def test_real_tiff_stacks_are_what_tifffile_reads(data_root):
    folder = data_root / "cellfinder_block/tests/data/signal"
    image = open_source(folder, spacing=(5, 2, 2))
    files = sorted(folder.glob("*.tif"))
    np.testing.assert_array_equal(
        image.levels[0].read(0, (slice(7, 10), slice(0, 1116), slice(0, 627))), tifffile.imread(files[7:10])
    )
    folder = data_root / "brainreg_mouse/tests/data/input/brain"
    image = open_source(folder, spacing=(50, 40, 40), orientation="air")
    assert image.grid.shape == (270, 193, 271)
    np.testing.assert_array_equal(
        image.levels[0].read(0, (slice(100, 102), slice(0, 193), slice(0, 271))),
        tifffile.imread(sorted(folder.glob("*.tif"))[100:102]),
    )


def test_real_volumes_are_what_simpleitk_and_nibabel_read(data_root):
    folder = data_root / "allen_ccf_cloudreg/cloudreg/registration/atlases"
    image = open_source(folder / "annotation_100.nrrd", spacing_unit="um", orientation="lip", labels=True)
    wanted = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(str(folder / "annotation_100.nrrd")))
    assert (image.dtype, image.grid.spacing, image.orientation) == (np.uint32, (100, 100, 100), "lip")
    np.testing.assert_array_equal(image.levels[0].read(), wanted)
    path = data_root / "jlf_brains/data/JLF/ilist1.nii.gz"
    nifti = nibabel.load(path)
    image = open_source(path)
    assert image.orientation == "".join(nibabel.aff2axcodes(nifti.affine))[::-1].lower() == "rsp"
    assert image.grid.spacing == (1000, 1000, 1000)
    np.testing.assert_array_equal(image.levels[0].read(), np.asarray(nifti.dataobj).T)


def test_real_ome_zarr_is_what_zarr_reads(data_root):
    path = next((data_root / "ez_zarr/tests/example_data_zarr3").glob("*.zarr"))
    image = open_source(path)
    assert image.channels == ("LaminB1", "Dapi")
    np.testing.assert_array_equal(
        np.asarray(image.levels[0].data[:]), zarr.open_array(str(path / "2"), mode="r")[:]
    )
    path = data_root / "ez_zarr/tests/example_data_5d/tubhiswt4D_sub.zarr"
    for place, index in ((path, (2,)), (path / "labels/embryo", (2, None))):
        image = open_source(place, time=2)
        assert image.labels == (len(index) == 2)
        assert len(image.levels) == 3
        np.testing.assert_array_equal(
            np.asarray(image.levels[1].data), zarr.open_array(str(place / "1"), mode="r")[:][index]
        )
    # Paths of this plate's levels are integers, not strings.
    path = data_root / "ez_zarr/tests/example_data/plate_ones_mip.zarr"
    assert open_source(path / "B/03/0").levels[0].read(1, (slice(0, 1), slice(0, 5), slice(0, 5))).shape == (
        1,
        5,
        5,
    )
    with pytest.raises(ValueError, match="is a plate"):
        open_source(path)


def test_real_precomputed_is_what_cloudvolume_reads(data_root):
    from cloudvolume import CloudVolume

    path = data_root / "cloudvolume_seg/test/test_seg_unsharded"
    image = open_precomputed(path)
    assert image.labels
    assert [level.grid.spacing for level in image.levels] == [
        (0.04, 0.008, 0.008),
        (0.04, 0.016, 0.016),
        (0.04, 0.032, 0.032),
    ]
    assert image.levels[2].grid == image.levels[0].grid.coarsen((1, 4, 4))
    volume = CloudVolume(f"file://{path}", mip=2, progress=False)
    region = (slice(120, 135), slice(10, 200), slice(50, 70))
    wanted = np.asarray(volume[region[::-1]])[..., 0].T
    assert len(np.unique(wanted)) > 10
    np.testing.assert_array_equal(image.levels[2].read(0, region), wanted)
