"""What tiles cover, and what comes of it: the stepped border of a stitched image is no tissue."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import zarr
from scipy.ndimage import gaussian_filter

from weft import receipts
from weft.config import Store
from weft.config.assembly import Pyramid
from weft.coverage import Coverage
from weft.grid import Grid
from weft.image import Image, Level, box
from weft.quality.pulled import sliced_fixed, sliced_moving
from weft.registration import survey
from weft.registration.affine import AffineSettings
from weft.registration.candidates import rotation_about
from weft.registration.engine import cut_block
from weft.registration.plan import plan_stage
from weft.registration.start import find_affine
from weft.registration.survey import overview
from weft.registration.unseen import seen
from weft.steps.resample_image import resample_image
from weft.steps.sources import open_received
from weft.stores import open_image
from weft.stores.ome_zarr import create_image, open_level, write_region
from weft.transforms.model import Sequence

GRID = Grid((44, 84, 124), (4.0, 4.0, 4.0))
TILE = (40, 44, 44)  # voxels


def test_covered_is_what_lies_a_voxel_within_the_tiles():
    grid = Grid((6, 12, 20), (2.0, 1.0, 1.0), (10.0, 0.0, -5.0))
    # Two tiles side by side, that meet without a gap; the second is two voxels lower in y.
    tiles = Coverage((6, 10, 10), grid.spacing, np.array([[10.0, 0, -5], [10, 2, 5]]))
    wanted = np.zeros(grid.shape, bool)
    wanted[:, :10, :10] = wanted[:, 2:, 10:] = True
    # Every voxel of which a neighbour is not covered is lost; beyond the box of all tiles there is nothing to lose.
    wanted[:, 9, :10] = wanted[:, 2, 10:] = wanted[:, :3, 9] = wanted[:, 9:, 10] = False
    np.testing.assert_array_equal(tiles.on(grid), wanted)
    whole = dataclasses.replace(
        tiles, positions=np.array([[10.0, 0, -5], [10, 2, -5], [10, 2, 5], [10, 0, 5]])
    )
    assert whole.on(grid).all()


def test_covered_at_a_coarse_voxel_larger_than_a_tile():
    tiles = Coverage((4, 4, 4), (1.0, 1.0, 1.0), np.argwhere(np.ones((8, 8, 8))) * 4.0)
    grid = Grid((4, 4, 4), (8.0, 8.0, 8.0), (3.5, 3.5, 3.5))
    assert tiles.on(grid).all()
    corner = dataclasses.replace(tiles, positions=tiles.positions[(tiles.positions < 16).all(axis=1)])
    covered = corner.on(Grid((8, 8, 8), (4.0, 4.0, 4.0), (1.5, 1.5, 1.5)))
    assert covered[:4, :4, :4].all()


def test_covered_by_a_turned_tile():
    turn = rotation_about(np.array([1.0, 0, 0]), 30)
    size = (1, 60, 80)
    tiles = Coverage(size, (1.0, 1.0, 1.0), np.array([[0.0, 50.0, 10.0]]), turn[None])
    grid = Grid((1, 130, 130), (1.0, 1.0, 1.0))
    points = np.stack(np.meshgrid(*(np.arange(n) for n in grid.shape), indexing="ij"), -1)
    index = (points - tiles.positions[0]) @ turn  # of the tile: its inverse is its transpose
    inside = np.min(np.minimum(index, np.array(size) - 1 - index)[..., 1:], axis=-1)
    covered = tiles.on(grid)
    assert covered.any()
    assert not covered.all()
    assert not covered[inside < 0.4].any()
    assert covered[inside > 1.0].all()


def test_coverage_is_written_with_an_image(tmp_path):
    tiles = Coverage(
        TILE, GRID.spacing, np.array([[0.0, 1, 2], [3, 4, 5]]), np.stack([np.eye(3), 1.1 * np.eye(3)])
    )
    create_image(tmp_path / "image.ome.zarr", [GRID], np.uint16, coverage=tiles)
    create_image(tmp_path / "whole.ome.zarr", [GRID], np.uint16)
    assert open_image(tmp_path / "whole.ome.zarr").coverage is None
    found = open_image(tmp_path / "image.ome.zarr").coverage
    assert found is not None
    assert found.to_json() == tiles.to_json()


@pytest.mark.parametrize("value", ["1.0", [1, 2], 3])
def test_an_attribute_of_another_form_is_named(tmp_path, value):
    """Another program may call one of its own so."""
    path = tmp_path / "image.ome.zarr"
    create_image(path, [GRID], np.uint16)
    zarr.open_group(str(path), mode="a").attrs["weft"] = value
    with pytest.raises(ValueError, match=r"attribute weft is .*; wanted a mapping") as caught:
        open_image(path)
    assert str(path) in str(caught.value)


def test_a_copy_with_cubic_voxels_knows_what_its_tiles_cover(tmp_path):
    grid = Grid((6, 24, 40), (10.0, 5.0, 5.0))
    tiles = Coverage((6, 24, 20), grid.spacing, np.array([[0.0, 0, 0], [0, 40, 100]]))
    path = tmp_path / "image.ome.zarr"
    create_image(path, [grid], np.uint16, coverage=tiles)
    write_region(
        open_level(path / "0"), 0, box((0, 0, 0), grid.shape), np.full(grid.shape, 7, np.uint16), "0"
    )
    facts = {"store": path.name, "channels": ["0"], "orientation": "sal", "labels": False}
    receipts.write(tmp_path / "image.json", {**facts, "data": "1", "grid": grid.to_json()})
    resample_image(
        image=str(tmp_path / "image.json"),
        edge=10.0,
        pyramid=Pyramid().model_dump(mode="json"),
        store=Store().model_dump(mode="json"),
        code="",
        receipt=str(tmp_path / "isotropic.json"),
        threads=1,
    )
    copy, _ = open_received(tmp_path / "isotropic.json")
    assert copy.grid.spacing == (10.0, 10.0, 10.0)
    covered = copy.covered(copy.grid)
    # The first tile is the left half but for what lies below it, the second one the right half from 40 um down.
    assert covered is not None
    assert covered[:, 1:3, :9].all()
    assert covered[:, 6:11, 11:].all()
    assert not covered[:, :3, 11:].any()


@pytest.mark.parametrize(
    "field", [{"shape": [4, 4]}, {"positions": []}, {"spacing": "a"}, {"linear": [1, 2]}]
)
def test_coverage_of_another_form_is_named(field):
    value = Coverage(TILE, GRID.spacing, np.zeros((1, 3))).to_json() | field
    with pytest.raises(ValueError, match="tiles: found"):
        Coverage.from_json(value)


def stitched(points: np.ndarray, seed: int) -> Image:
    """Cells of a brightness of their own, over an even background, in the fields of six tiles whose places vary."""
    random = np.random.default_rng(seed)
    voxels = np.zeros(GRID.shape, np.float32)
    index = np.rint(GRID.to_index(points)).astype(int)
    inside = np.all((index >= 0) & (index < GRID.shape), axis=1)
    np.add.at(voxels, tuple(index[inside].T), np.exp(random.normal(0, 0.5, inside.sum())))
    voxels = 400 + 1500 * gaussian_filter(voxels, 1.2) + 12 * random.normal(size=GRID.shape)
    room = np.array(GRID.shape) - TILE
    corners = np.array([np.array([0.5, j, 0.5 * i]) * room for j in range(2) for i in range(3)])
    corners = np.clip(corners + random.integers(-4, 5, corners.shape), 0, room).round()
    seen = np.zeros(GRID.shape, bool)
    for corner in corners.astype(int):
        seen[tuple(slice(a, a + n) for a, n in zip(corner, TILE, strict=True))] = True
    voxels = np.where(seen, np.clip(voxels, 1, None), 0).astype(np.uint16)
    tiles = Coverage(TILE, GRID.spacing, corners * GRID.spacing)
    return Image((Level(voxels[None], GRID),), orientation="sal", coverage=tiles)


@pytest.fixture(scope="module")
def rounds() -> tuple[Image, Image, np.ndarray]:
    """Two rounds of one specimen, and the affine between them."""
    random = np.random.default_rng(7)
    places = random.uniform(-0.2, 1.2, (4000, 3)) * GRID.extent
    truth = np.eye(4)
    truth[:3, :3] = rotation_about(np.array([1.0, 0.3, 0.2]), 3) @ np.diag([0.95, 1.02, 1.0])
    middle = 0.5 * GRID.extent
    truth[:3, 3] = middle - truth[:3, :3] @ middle + np.array([4.0, -14.0, -75.0])
    moved = places @ truth[:3, :3].T + truth[:3, 3] + random.normal(0, 1.5, places.shape)
    return stitched(places, 1), stitched(moved, 2), truth


@pytest.mark.parametrize("known", [True, False])
def test_the_affine_does_not_align_the_borders_of_stitched_images(rounds, known):
    fixed, moving, truth = rounds
    if not known:  # as when another program stitched them
        fixed, moving = (dataclasses.replace(image, coverage=None) for image in (fixed, moving))
    result = find_affine((fixed, 0), (moving, 0), AffineSettings(), 0)
    assert result.accepted == "accept"
    corners = GRID.corners()
    difference = (result.matrix - truth)[:3]
    errors = np.linalg.norm(corners @ difference[:, :3].T + difference[:, 3], axis=1)
    assert errors.mean() < 0.01 * GRID.extent.max()


def test_blocks_and_background_leave_out_what_no_tile_covers(rounds):
    fixed, moving, _ = rounds
    block = cut_block([(fixed, 0)], [(moving, 0)], GRID, GRID, np.eye(4), None, 8)
    for image, weights in zip((fixed, moving), block.masks, strict=True):
        assert weights is not None
        assert (weights[image.levels[0].read(0) == 0] == 0).all()
        assert weights.mean() > 0.5
    # Half of what lies above the background.
    assert overview(fixed, 0).background == pytest.approx(200, abs=20)


def test_pictures_leave_out_what_no_tile_covers(rounds):
    """Else both images would be stretched from the zeros there, and tissue that is brighter than these would be no background."""
    for image in rounds[:2]:
        fixed, moving = sliced_fixed(image, 0, GRID), sliced_moving(image, 0, Sequence(()), GRID)
        empty = image.levels[0].read(0)[7] == 0
        assert 0 < empty.mean() < 0.9
        for shown in (fixed[7], moving[7]):
            assert np.isnan(shown[empty]).all()
            assert np.isnan(shown).mean() < empty.mean() + 0.1  # half a voxel of every border


def image_statistics(parts, spacing, settings):
    """What a backend might want to know of whole images (this module is one): its stages tell it of parts of them."""
    return {"parts": len(parts), "lowest": min(int(part.min()) for part in parts)}


def test_statistics_are_taken_of_what_tiles_cover(rounds, monkeypatch):
    """Voxels that are covered are 1 at least here, all others 0."""
    monkeypatch.setattr(survey, "PIECE", 28)
    stage = {
        "name": "one",
        "level": 4.0,
        "block": 44,
        "overlap": 8,
        "backend": "test_coverage:none",
        "settings": {},
    }
    plan = plan_stage(GRID, stage)

    def told(images):
        return survey.survey_images(plan, stage, *([overview(image, 0)] for image in images))["intensity"]

    for found in told(rounds[:2]).values():
        assert found["lowest"] > 0
        assert found["parts"] == survey.PIECES
    blind = told([dataclasses.replace(image, coverage=None) for image in rounds[:2]])
    assert min(found["lowest"] for found in blind.values()) == 0
    # Where no part is covered as a whole, those are taken of which most is.
    monkeypatch.setattr(survey, "PIECE", 200)
    assert told(rounds[:2])["fixed"]["parts"] == survey.PIECES


def test_padding_is_told_from_the_dark_around_a_specimen(rounds):
    stitched_voxels = rounds[0].levels[0].read(0)
    found = seen(stitched_voxels)
    assert found is not None
    assert not found[stitched_voxels == 0].any()
    assert found.mean() > 0.8
    random = np.random.default_rng(0)
    z, y, x = np.indices(GRID.shape)
    brain = ((z - 22) / 20) ** 2 + ((y - 42) / 40) ** 2 + ((x - 62) / 60) ** 2 < 1
    assert seen(np.where(brain, 500.0, 0.0)) is None  # an atlas: its outline is round
    assert seen(stitched_voxels + np.uint16(1)) is not None  # whatever the value
    dark = np.clip(random.normal(0, 20, GRID.shape), 0, None)
    dark[:, :8] = 0
    assert seen(dark) is None  # a camera without offset: zeros are everywhere
    assert seen(np.full(GRID.shape, 7)) is None
    plane = np.full((1, 90, 90), 200.0)
    plane[:, :20, :50] = 0
    wanted = np.ones(plane.shape, bool)
    wanted[:, :21, :51] = False
    np.testing.assert_array_equal(seen(plane), wanted)
