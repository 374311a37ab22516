"""An affine by itk-elastix (mutual information of locally normalised images), from a given start."""

from __future__ import annotations

import numpy as np

from weft.grid import Grid
from weft.registration.contract import Initial
from weft.registration.elastix_maps import own_map
from weft.registration.features import local_feature
from weft.registration.itk_elastix import run_elastix
from weft.registration.linear_model import Kind, LinearModel
from weft.registration.pull import pull

_TRANSFORMS = {"rigid": "EulerTransform", "similarity": "SimilarityTransform", "affine": "AffineTransform"}
_METRIC = "AdvancedMattesMutualInformation"
_WINDOW = 6.0  # of the local normalisation, voxels
_MARGIN = 0.15  # of the fixed image's extent, added on every side: what the start misses may lie there


def refine_with_elastix(
    fixed: np.ndarray,
    fixed_grid: Grid,
    moving: np.ndarray,
    moving_grid: Grid,
    matrix: np.ndarray,
    spacing: float,
    kind: Kind = "affine",
    seed: int = 0,
    *,
    masks: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
    iterations: int = 300,
    samples: int = 4096,
    levels: int = 3,
) -> np.ndarray:
    """Refine an affine.

    Parameters
    ----------
    fixed, moving
        (z, y, x) arrays of any real dtype.
    fixed_grid, moving_grid
        Their grids, um.
    matrix
        (4, 4), um, fixed space to moving space: the start.
    spacing
        Isotropic voxel size, um, that elastix works at.
    kind
        Of the model: what is put behind the start is a rigid motion, a similarity or an affine.
    seed
        Of the random samples.
    masks
        (z, y, x) bool, where the fixed and where the moving image counts; None: everywhere.
    iterations, samples, levels
        Of elastix: iterations per level, voxels drawn per iteration, resolutions.

    Returns
    -------
    ndarray
        (4, 4) float64, um, fixed space to moving space.

    Raises
    ------
    ValueError
        For an unknown kind, or images of a single plane.
    RuntimeError
        When elastix fails.
    """
    LinearModel(kind)
    if 1 in (fixed.shape[0], moving.shape[0]):
        raise ValueError("the affine's method is 'elastix', but an image is a single plane; wanted 'native'")
    reference = local_feature(fixed, fixed_grid, spacing, _WINDOW * spacing, masks[0])
    other = local_feature(moving, moving_grid, spacing, _WINDOW * spacing, masks[1])
    grid = reference.grid
    z, y, x = (int(np.ceil(_MARGIN * n)) for n in grid.shape)
    margin = (z, y, x)
    padded_grid = grid.pad(margin)
    seen, covered = pull(other.image, other.grid, None, Initial(matrix), padded_grid)
    # elastix knows nothing of the margin: both images get it.
    padded = np.pad(reference.image, [(m, m) for m in margin])
    wanted = np.pad(np.ones(grid.shape, bool), [(m, m) for m in margin])
    parameters = own_map(_TRANSFORMS[kind], _METRIC, levels=levels, iterations=iterations, samples=samples)
    (found,), _ = run_elastix(padded, seen, (wanted, covered), [parameters], seed)
    return matrix @ _matrix(found, padded_grid)


def _matrix(found: dict[str, list[str]], grid: Grid) -> np.ndarray:
    """(4, 4), um, (z, y, x), of elastix' linear transform of the voxels of a grid."""
    values = np.array([float(v) for v in found["TransformParameters"]])
    centre = np.array([float(v) for v in found["CenterOfRotationPoint"]])
    kind = found["Transform"][0]
    if kind == "AffineTransform":
        linear, shift = values[:9].reshape(3, 3), values[9:]
    elif kind == "SimilarityTransform":
        linear, shift = values[6] * _from_versor(values[:3]), values[3:6]
    else:
        linear, shift = _from_euler(values[:3]), values[3:6]
    voxels = np.eye(4)
    voxels[:3, :3] = linear[::-1, ::-1]
    voxels[:3, 3] = (shift + centre - linear @ centre)[::-1]
    return grid.matrix() @ voxels @ np.linalg.inv(grid.matrix())


def _from_versor(versor: np.ndarray) -> np.ndarray:
    """Rotation matrix of the vector part of a unit quaternion."""
    x, y, z = versor
    w = np.sqrt(max(0.0, 1 - versor @ versor))
    return np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )


def _from_euler(angles: np.ndarray) -> np.ndarray:
    """Rotation matrix of ITK's Euler angles: about z, then x, then y, as factors from left to right."""
    (cx, cy, cz), (sx, sy, sz) = np.cos(angles), np.sin(angles)
    about_x = np.array([[1, 0, 0], [0, cx, -sx], [0, sx, cx]])
    about_y = np.array([[cy, 0, sy], [0, 1, 0], [-sy, 0, cy]])
    about_z = np.array([[cz, -sz, 0], [sz, cz, 0], [0, 0, 1]])
    return about_z @ about_x @ about_y
