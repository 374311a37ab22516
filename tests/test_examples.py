"""The script that cuts tiles from a real block, on a block made here."""

from __future__ import annotations

import runpy
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
