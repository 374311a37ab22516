"""The peers of `kernels.py`: SimpleITK, and itk-dreg where it is installed. Their axes are (x, y, z)."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

import numpy as np
import SimpleITK as sitk

import report  # noqa: F401  (finds the library beside this folder)
from weft.grid import Grid
from weft.registration.itk_image import itk_displacement, itk_image
from weft.transforms.reduce import BlockField

# As weft's inverse, all stop at a hundredth of a sample, in the mean or (iterative, in um) at every sample.
TOLERANCE = 0.01


def itk_warp(
    image: np.ndarray, grid: Grid, affine: np.ndarray, field: np.ndarray, field_grid: Grid
) -> Callable[[], np.ndarray]:
    """SimpleITK's resampling through the same transform."""
    moving = itk_image(image, grid)
    displacement = sitk.DisplacementFieldTransform(itk_image(_vectors(field), field_grid, vectors=True))
    linear = sitk.AffineTransform(3)
    linear.SetMatrix(affine[:3, :3][::-1, ::-1].ravel().tolist())
    linear.SetTranslation(affine[:3, 3][::-1].tolist())
    # A composite applies its last transform first.
    both = sitk.CompositeTransform([linear, displacement])
    # Not a view: it would not keep the image, which nothing else holds, and read memory that is given back.
    return lambda: sitk.GetArrayFromImage(sitk.Resample(moving, moving, both, sitk.sitkLinear, 0.0))


def itk_inverses(u: np.ndarray, grid: Grid) -> dict[str, Callable[[], np.ndarray]]:
    """SimpleITK's two inverses of a displacement field, on the field's own grid, (3, z, y, x) um."""
    image = itk_image(_vectors(u), grid, vectors=True)

    def invert() -> sitk.Image:
        return sitk.InvertDisplacementField(
            image,
            maximumNumberOfIterations=40,
            maxErrorToleranceThreshold=10 * TOLERANCE,
            meanErrorToleranceThreshold=TOLERANCE,
        )

    def iterate() -> sitk.Image:
        return sitk.IterativeInverseDisplacementField(
            image, numberOfIterations=40, stopValue=TOLERANCE * grid.spacing[0]
        )

    def dense(filtered: Callable[[], sitk.Image]) -> Callable[[], np.ndarray]:
        return lambda: itk_displacement(sitk.GetArrayFromImage(filtered()), grid.shape)

    return {"simpleitk": dense(invert), "simpleitk_iterative": dense(iterate)}


def dreg_blend(blocks: Sequence[BlockField]) -> Callable[[np.ndarray], np.ndarray] | None:
    """itk-dreg's blend of blocks, weighted by the distance to a block's faces: points (n, 3) um in, displacements out.

    None where it is not installed.
    """
    try:
        # It brings ITK along, which takes seconds to import.
        from itk_dreg.reduce_dfield.transform_collection import TransformCollection, TransformEntry
    except ImportError:
        return None
    import itk

    logging.getLogger("itk_dreg").setLevel(logging.ERROR)
    vectors = itk.Image[itk.Vector[itk.F, 3], 3]
    entries = []
    for block in blocks:
        image = itk.image_from_array(_vectors(block.field).astype(np.float32), ttype=vectors)
        image.SetSpacing(block.grid.spacing[::-1])
        image.SetOrigin(block.grid.origin[::-1])
        transform = itk.DisplacementFieldTransform[itk.F, 3].New()
        transform.SetDisplacementField(image)
        entries.append(TransformEntry(transform, image))
    collection = TransformCollection(entries)

    def blend(points: np.ndarray) -> np.ndarray:
        there = [collection.transform_point(point[::-1].tolist()) for point in points]
        return np.array(there)[:, ::-1] - points

    return blend


def _vectors(u: np.ndarray) -> np.ndarray:
    """(3, z, y, x) with components z, y, x as (z, y, x, 3) with components x, y, z."""
    return np.ascontiguousarray(np.moveaxis(u, 0, -1)[..., ::-1], float)
