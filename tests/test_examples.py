"""The script that cuts tiles from a real block, on a block made here."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
import SimpleITK
import tifffile

from weft.readers import open_source

SCRIPT = Path(__file__).resolve().parents[1] / "config/examples/make_cellfinder_tiles.py"


@pytest.fixture
def source(tmp_path):
    """A block of one channel and a flat-field, in the layout that the script reads."""
    random = np.random.default_rng(1)
    block = random.integers(200, 4000, (10, 130, 110)).astype(np.uint16)
    folder = tmp_path / "data/cellfinder_block/tests/data/signal"
    folder.mkdir(parents=True)
    for z, plane in enumerate(block):
        tifffile.imwrite(folder / f"plane{z:03}.tif", plane)
    y, x = np.mgrid[-1:1:200j, -1:1:300j]
    profile = (8000 * np.exp(-(x**2) - y**2)).astype(np.uint16)
    place = tmp_path / "data/fractal_illum/tests/data/illumination_correction/flatfield_corr_matrix.png"
    place.parent.mkdir(parents=True)
    SimpleITK.WriteImage(SimpleITK.GetImageFromArray(profile), str(place))
    return tmp_path, block


def make(source, monkeypatch, name: str, seed: int) -> Path:
    folder = source[0]
    out = folder / name
    arguments = ["make", "--data", str(folder / "data"), "--out", str(out), "--seed", str(seed)]
    monkeypatch.setattr("sys.argv", arguments)
    runpy.run_path(str(SCRIPT), run_name="__main__")
    return out


def test_tiles_are_the_block_under_gain_and_dark_where_the_truth_says(source, monkeypatch):
    out = make(source, monkeypatch, "tiles", 3)
    tiles = open_source(out, "colm", spacing=(5, 2, 2))
    gain = tifffile.imread(out / "gain.tif")
    truth = np.genfromtxt(out / "truth.tsv", skip_header=1, usecols=range(1, 7))
    assert gain.shape == tiles.shape[1:]
    assert gain.mean() == pytest.approx(1, abs=1e-5)
    assert np.ptp(gain) > 0.5
    stage = np.array([tile.position for tile in tiles.tiles])
    np.testing.assert_allclose(stage, truth[:, 3:], atol=1e-3)
    error = (truth[:, :3] - truth[:, 3:]) / (5, 2, 2)
    assert (np.abs(error) <= (2, 8, 8)).all()
    assert (error != 0).any(axis=0).all()
    whole = tuple(slice(0, size) for size in tiles.shape)
    for number, position in enumerate(truth[:, :3]):
        corner = np.rint(position / (5, 2, 2)).astype(int) + np.array([2, 8, 8])
        region = tuple(slice(low, low + size) for low, size in zip(corner, tiles.shape, strict=True))
        rest = tiles.reader(number, 0, whole) - (gain * source[1][region] + 100.0)
        assert abs(rest.mean()) < 0.5
        assert rest.std() == pytest.approx(4.0, abs=0.3)


def test_rounds_are_acquisitions_of_a_well_whose_fields_lie_where_the_truth_says(data_root, tmp_path):
    data = data_root
    for folder in ("easifish_lowres", "fractal_illum"):
        if not (data / folder).is_dir():
            pytest.skip(f"{folder} is not there")
    examples = str(SCRIPT.parent)
    sys.path.insert(0, examples)
    try:
        made = runpy.run_path(str(SCRIPT.with_name("make_easifish_plate.py")))
    finally:
        sys.path.remove(examples)
    made["write_plate"](data, tmp_path / "out", 3)
    truth = np.genfromtxt(tmp_path / "out/truth.tsv", skip_header=1)
    for number, name in enumerate(("fix", "mov")):
        tiles = open_source(tmp_path / "out/plate.zarr/A/1", "hcs", acquisition=number)
        image = open_source(data / f"easifish_lowres/resources/{name}.n5")
        rows = truth[truth[:, 1] == number]
        assert [tile.name for tile in tiles.tiles] == [f"{row[0]:g}" for row in rows]
        np.testing.assert_allclose(tiles.positions(), rows[:, 5:], atol=1e-3)
        start = np.rint(rows[0, 2:5] / tiles.spacing).astype(int) + np.array([2, 6, 6])
        whole = tuple(slice(p, p + n) for p, n in zip(start, tiles.shape, strict=True))
        signal = np.asarray(image.levels[0].read(0, whole)).astype(float)
        gain = (tiles.read(0).astype(float) - 100).sum(0) / signal.sum(0)
        assert gain.mean() == pytest.approx(1, abs=0.01)
        assert np.ptp(gain) > 1


def test_the_same_seed_writes_the_same_bytes(source, monkeypatch):
    first, again, other = (
        make(source, monkeypatch, name, seed) for name, seed in (("a", 0), ("b", 0), ("c", 1))
    )
    files = sorted(path.relative_to(first) for path in first.rglob("*") if path.is_file())
    assert all((first / path).read_bytes() == (again / path).read_bytes() for path in files)
    assert (first / "truth.tsv").read_text() != (other / "truth.tsv").read_text()


def test_an_existing_folder_is_not_written_to(source, monkeypatch, capsys):
    (source[0] / "tiles").mkdir()
    with pytest.raises(SystemExit):
        make(source, monkeypatch, "tiles", 0)
    assert "exists already; give another folder" in capsys.readouterr().err
