"""Readers: lazy, bit-equal to what was written, found by name and by what lies there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from reader_sources import BLOCK, KINDS, build, travelled, voxels, write_planes

from weft import readers
from weft.grid import Grid
from weft.image import Image, TileSet
from weft.readers import detect_format, open_source, register_reader
from weft.readers.colm import open_colm
from weft.readers.fingerprint import fingerprint, source_files

ROOT = Path(__file__).resolve().parents[1]


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
    ("kind", "stated", "in_um"),
    [
        *(("tiff_plain", None, False), ("tiff_planes", None, False)),
        *(("ome_zarr_0.5", (1, 1, 1), True), ("n5", (2, 1, 1), True), ("precomputed", (2, 1, 1), True)),
        # Headers that state no unit; millimetres by convention, but for NRRD.
        *(("nifti", (0.002, 0.001, 0.001), False), ("nrrd", (1, 1, 1), False), ("mha", (1, 1, 1), False)),
    ],
)
def test_what_a_source_states_stays_known_where_another_voxel_size_is_given(sources, kind, stated, in_um):
    image = open_source(sources[kind][0], spacing=(5, 4, 3))
    assert image.grid.spacing == (5, 4, 3)
    assert image.stated_spacing == (stated and pytest.approx(stated))
    assert image.stated_um is in_um


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
