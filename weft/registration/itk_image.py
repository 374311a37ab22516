"""Arrays as the images that ITK's programs take, and displacements as they leave them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from weft.grid import Grid

if TYPE_CHECKING:
    import SimpleITK as sitk


def itk_image(
    array: np.ndarray,
    grid: Grid,
    axes: Sequence[int] = (0, 1, 2),
    *,
    vectors: bool = False,
    unit: float = 1.0,
) -> sitk.Image:
    """An ITK image of an array whose axes are these axes of the grid.

    Parameters
    ----------
    array
        (z, y, x), or what is left of it; with `vectors` their components, in ITK's order x, y, z, are the last axis.
    grid
        Spacing and origin, um.
    unit
        What a micrometre is in the image's unit of length.
    """
    import SimpleITK as sitk  # only here: workers that need none are spared its 40 MB

    image = sitk.GetImageFromArray(np.ascontiguousarray(array), isVector=vectors)
    image.SetSpacing([grid.spacing[axis] * unit for axis in reversed(axes)])
    image.SetOrigin([grid.origin[axis] * unit for axis in reversed(axes)])
    return image


def itk_displacement(
    vectors: np.ndarray, shape: Sequence[int], axes: Sequence[int] = (0, 1, 2)
) -> np.ndarray:
    """Displacements as ITK's programs leave them, on a grid's voxels.

    Parameters
    ----------
    vectors
        (z, y, x, 3) or what is left of it for these axes of the grid: components in ITK's order x, y, z are the last axis.
    shape
        (z, y, x) of the grid; an axis that is not among ``axes`` has one voxel.

    Returns
    -------
    (3, z, y, x) float32, components z, y, x; 0 along axes that are left out.
    """
    out = np.zeros((3, *shape), np.float32)
    out[list(axes)] = np.moveaxis(vectors[..., ::-1], -1, 0).reshape(len(axes), *shape)
    return out
