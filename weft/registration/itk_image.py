"""Arrays as the images that ITK's programs take."""

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
