"""The affine between single planes."""

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, map_coordinates
from test_affine import GRID, specimen

from weft.grid import Grid
from weft.registration.affine import AffineSettings, register_affine
from weft.registration.candidates import rotation_about

PLANE = Grid((1, 300, 260), (7.0, 4.0, 4.0), (21.0, -50.0, 10.0))


def section(turn=0.0, scale=1.0, shift=(0.0, 0.0), mirror=False, seed=0):
    """A textured section, the same one moved, and the transform that did it."""
    rng = np.random.default_rng(seed)
    y, x = np.meshgrid(*[np.linspace(-1, 1, n) for n in PLANE.shape[1:]], indexing="ij")
    body = ((y / 0.7) ** 2 + (x / (0.5 + 0.2 * y)) ** 2 < 1) | ((y - 0.3) ** 2 + (x - 0.45) ** 2 < 0.06)
    texture = sum(gaussian_filter(rng.normal(size=body.shape), s) * 3 * s for s in (3, 8))
    fixed = np.where(body, 800 * np.exp(0.4 * texture), 20.0)
    linear = np.diag([1.0, 1, -1 if mirror else 1]) @ rotation_about((1, 0, 0), turn)
    linear[1:] *= scale
    grid = Grid((1, 400, 420), (11.0, 4.5, 4.5), (-5.0, 300.0, 0.0))
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = grid.to_physical((0, 200, 210)) - linear @ PLANE.to_physical((0, 150, 130))
    matrix[1:3, 3] += shift
    back = np.linalg.inv(matrix)
    points = grid.to_physical(np.indices(grid.shape).reshape(3, -1).T) @ back[:3, :3].T + back[:3, 3]
    index = PLANE.to_index(points)[:, 1:]
    moving = map_coordinates(fixed, index.T, order=1, cval=20.0).reshape(grid.shape)
    noise = rng.normal(size=grid.shape)
    return fixed[None], np.clip(2 * moving**0.9 + 4 * noise, 0, None), grid, matrix


def plane_error(matrix, expected):
    """Mean distance at the corners of the plane, um; a pixel has 4 um."""
    difference = (matrix - expected)[1:3]  # the other side of a plane has the other sign along z
    return np.linalg.norm(PLANE.corners() @ difference[:, :3].T + difference[:, 3], axis=1).mean()


@pytest.mark.parametrize("kind", ["rigid", "similarity", "affine"])
def test_planes_are_registered_in_their_plane(kind):
    fixed, moving, grid, expected = section(17, 1.0 if kind == "rigid" else 1.2, (60, -80))
    result = register_affine(
        fixed,
        PLANE,
        moving,
        grid,
        fixed_orientation="sar",
        moving_orientation="sar",
        settings=AffineSettings(model=kind),
    )
    assert result.accepted == "accept"
    assert plane_error(result.matrix, expected) < 4
    np.testing.assert_array_equal(result.matrix[0, :3], (1, 0, 0))
    np.testing.assert_array_equal(result.matrix[1:3, 0], 0)
    assert result.matrix[0] @ (21.0, 0, 0, 1) == -5.0  # the planes' own places


def test_the_turn_of_a_plane_is_searched():
    fixed, moving, grid, expected = section(97, 1.1)
    result = register_affine(fixed, PLANE, moving, grid, fixed_orientation="sar")
    assert result.accepted == "accept"
    assert result.moving_orientation == "sla"
    assert plane_error(result.matrix, expected) < 4


def test_a_plane_seen_from_the_other_side_is_found_by_its_codes():
    fixed, moving, grid, expected = section(8, mirror=True)
    for search in ("code", "search"):
        result = register_affine(
            fixed,
            PLANE,
            moving,
            grid,
            fixed_orientation="sar",
            moving_orientation="ial",
            settings=AffineSettings(orientation=search),
        )
        assert result.accepted == "accept"
        assert result.moving_orientation == "ial"
        assert plane_error(result.matrix, expected) < 4


def test_planes_that_cannot_lie_on_each_other_are_refused():
    fixed, moving, grid, _ = section()
    with pytest.raises(ValueError, match="two single planes at right angles"):
        register_affine(fixed, PLANE, moving, grid, fixed_orientation="sar", moving_orientation="ars")
    with pytest.raises(ValueError, match="fixed image has 1 planes and the moving image 44"):
        register_affine(fixed, PLANE, specimen(), GRID)
