"""Seams between two tiles, measured and drawn."""

import numpy as np
from matplotlib import image as pictures
from scipy import ndimage

from weft.figures.seams import SeamPicture, composite, seams
from weft.image import Tile, TileSet
from weft.links.seams import seam

SHAPE, STEP = (12, 60, 60), 40


def two_tiles():
    """Two tiles, the second 5 rows and 3 columns off its stage position; stage and true positions."""
    rng = np.random.default_rng(0)
    volume = ndimage.gaussian_filter(rng.standard_normal((12, 80, 120)), 1.2)
    volume = (1000 + 400 * volume / volume.std()).clip(0).astype(np.uint16)
    stage = np.array([(0, 0, 0), (0, 0, STEP)], float)
    true = stage + np.array([(0, 0, 0), (0, 5, -3)])
    cuts = [
        volume[tuple(slice(int(p), int(p) + n) for p, n in zip(place, SHAPE, strict=True))] for place in true
    ]
    reads = []

    def read(tile, channel, region):
        reads.append(cuts[tile][region].size)
        return cuts[tile][region]

    tiles = tuple(Tile(name, tuple(p)) for name, p in zip("ab", stage, strict=True))
    return TileSet(tiles, SHAPE, (1.0, 1.0, 1.0), np.dtype("uint16"), ("0",), read), stage, true, reads


def test_a_seam_agrees_at_the_true_positions_only():
    tiles, stage, true, reads = two_tiles()
    right, wrong = (seam(tiles, (0, 1), 0, None, where) for where in (true, stage))
    assert right.ncc > 0.999
    np.testing.assert_array_equal(right.first, right.second)
    assert right.first.shape == (55, 23)
    assert wrong.ncc < 0.3
    assert max(reads) <= 8 * 60 * 23
    apart = true + np.array([(0, 0, 0), (0, 0, 100.0)])
    assert seam(tiles, (0, 1), 0, None, apart) is None


def test_what_agrees_is_grey():
    x = np.broadcast_to(np.arange(20.0), (20, 20))
    same = composite(x, x)
    np.testing.assert_array_equal(same[..., 0], same[..., 1])
    other = composite(x, x[:, ::-1])
    assert (other[:, 17:, 1] > other[:, 17:, 0] + 0.5).all()  # green where only the first is bright
    assert (other[:, :3, 0] > other[:, :3, 1] + 0.5).all()
    np.testing.assert_array_equal(other[..., 0], other[..., 2])


def test_seams_are_drawn_before_and_after(tmp_path):
    tiles, stage, true, _ = two_tiles()
    before, after = (seam(tiles, (0, 1), 0, None, where) for where in (stage, true))
    drawn = SeamPicture(
        "a - b", "", (before.first, before.second), (after.first, after.second), (before.ncc, after.ncc)
    )
    gone = SeamPicture("a - c", "not used (low_ncc)", None, None, (float("nan"), float("nan")))
    for _ in range(2):
        seams([drawn, gone], tmp_path / "s.png", "Seams")
    image = pictures.imread(tmp_path / "s.png")[..., :3]
    coloured = image.max(-1) - image.min(-1) > 0.3
    left, right = coloured[:, : image.shape[1] // 4], coloured[:, image.shape[1] // 4 : image.shape[1] // 2]
    assert left.sum() > 20 * max(right.sum(), 100)
    seams([], tmp_path / "none.png", "Seams")
