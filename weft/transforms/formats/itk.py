"""Transforms as ITK composite transforms (HDF5 or text), for SimpleITK, ANTs, 3D Slicer and elastix.

HDF5 files are written here, in the layout of ITK's HDF5TransformIO, slab by slab: ITK's own writer needs the whole field
in memory several times, and names the machine in the file.

The only place, besides backends that call ITK, where axes run (x, y, z). ITK's physical units are the
micrometres of weft unless another size of the unit is given. A composite maps fixed points to moving points
(pull-back), so that ``sitk.Resample(moving, fixed, transform)`` takes it as it is. ITK moves a point outside
the field's grid by zero, weft by the border's displacement: the two agree inside the grid.
"""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import SimpleITK as sitk

from weft.grid import Grid
from weft.transforms.model import Affine, Displacements, Sequence, Step, as_points

BINARY = (".h5", ".hdf5")
SUFFIXES = (*BINARY, ".tfm", ".txt")
SLAB = 2_000_000  # samples of a field that are written at once


def write_itk(path: str | Path, sequence: Sequence, *, unit: float = 1.0) -> None:
    """Write a transform as an ITK composite transform; of a field, HDF5 files take 12 bytes a sample (float32).

    The same transform gives the same HDF5 file to the byte.

    Parameters
    ----------
    path
        File to write: ``.h5``, ``.hdf5`` (binary), ``.tfm`` or ``.txt`` (text).
    sequence
        The transform.
    unit
        Size of an ITK unit, um: 1 for images written in micrometres, 1000 for millimetres.

    Raises
    ------
    ValueError
        When the file's suffix is not one of ITK's.
    """
    if Path(path).suffix not in SUFFIXES:
        raise ValueError(
            f"{path}: ITK transforms are named {', '.join(SUFFIXES)}; found suffix {Path(path).suffix!r}"
        )
    # ITK applies the transform that was added last first.
    steps = sequence.steps[::-1]
    if Path(path).suffix in BINARY:
        _write_hdf5(path, steps, unit)
        return
    composite = sitk.CompositeTransform(3)
    for step in steps:
        composite.AddTransform(_to_itk(step, unit))
    sitk.WriteTransform(composite, str(path))


def read_itk(path: str | Path, *, unit: float = 1.0) -> Sequence:
    """Read an ITK transform: linear transforms, displacement fields and composites of them.

    Parameters
    ----------
    path
        File that ITK wrote.
    unit
        Size of an ITK unit, um.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When ITK cannot read it, or it holds a transform of another kind, not of three dimensions, or a field
        whose grid is turned against the axes.
    """
    return Sequence(tuple(_from_itk(path, _open(path), unit)))


def check_itk(path: str | Path, sequence: Sequence, points: np.ndarray, *, unit: float = 1.0) -> float:
    """Largest distance, um, between what ITK makes of a file and what weft makes of the transform.

    Parameters
    ----------
    path
        File that `write_itk` wrote.
    sequence
        The transform that was written.
    points
        Probe points, (n, 3) um, (z, y, x); those outside the transform's domain are left out.
    unit
        As in `write_itk`.

    Raises
    ------
    ValueError
        When no probe point lies in the transform's domain.
    """
    points = as_points(points)
    points = points[sequence.inside(points)]
    if not len(points):
        raise ValueError(f"{path}: none of the probe points lies in the transform's domain")
    transform = _open(path)
    moved = [transform.TransformPoint(tuple(p[::-1] / unit)) for p in points]
    difference = np.array(moved)[:, ::-1] * unit - sequence.apply(points)
    return float(np.linalg.norm(difference, axis=1).max())


def _open(path: str | Path) -> sitk.Transform:
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: there is no such file; wanted an ITK transform")
    try:
        transform = sitk.ReadTransform(str(path))
    except RuntimeError as error:
        reason = str(error).strip().splitlines()[-1]
        raise ValueError(f"{path}: ITK cannot read it as a transform ({reason})") from None
    if transform.GetDimension() != 3:
        raise ValueError(f"{path}: the transform has {transform.GetDimension()} dimensions; wanted 3")
    return transform


def _write_hdf5(path: str | Path, steps: tuple[Step, ...], unit: float) -> None:
    """Write steps, in the order in which ITK adds them, as a composite; a field is read slab by slab."""
    text = h5py.string_dtype("ascii")
    with h5py.File(path, "w") as file:
        group = file.create_group("TransformGroup")
        group.create_dataset("0/TransformType", data=["CompositeTransform_double_3_3"], dtype=text)
        for number, step in enumerate(steps, 1):
            own = group.create_group(str(number))
            if isinstance(step, Affine):
                own.create_dataset("TransformType", data=["AffineTransform_double_3_3"], dtype=text)
                linear, shift = step.matrix[2::-1, 2::-1].ravel(), step.matrix[2::-1, 3] / unit
                own["TransformFixedParameters"] = np.zeros(3)  # the centre
                own["TransformParameters"] = np.concatenate([linear, shift])
                continue
            grid = step.grid
            own.create_dataset("TransformType", data=["DisplacementFieldTransform_double_3_3"], dtype=text)
            own["TransformFixedParameters"] = np.concatenate(
                [
                    grid.shape[::-1],
                    np.array(grid.origin[::-1]) / unit,
                    np.array(grid.spacing[::-1]) / unit,
                    np.eye(3).ravel(),
                ]
            )
            plane = 3 * grid.shape[1] * grid.shape[2]
            vectors = own.create_dataset("TransformParameters", (plane * grid.shape[0],), np.float32)
            depth = max(1, 3 * SLAB // plane)
            for z in range(0, grid.shape[0], depth):
                slab = np.asarray(step.field[:, z : z + depth], np.float32) / np.float32(unit)
                vectors[z * plane : (z + slab.shape[1]) * plane] = np.moveaxis(slab[::-1], 0, -1).ravel()


def _to_itk(step: Step, unit: float) -> sitk.Transform:
    if isinstance(step, Affine):
        affine = sitk.AffineTransform(3)
        affine.SetMatrix(step.matrix[2::-1, 2::-1].ravel().tolist())
        affine.SetTranslation((step.matrix[2::-1, 3] / unit).tolist())
        return affine
    vectors = np.ascontiguousarray(np.moveaxis(step.load().field[:], 0, -1)[..., ::-1], np.float64) / unit
    image = sitk.GetImageFromArray(vectors, isVector=True)
    image.SetSpacing([s / unit for s in reversed(step.grid.spacing)])
    image.SetOrigin([o / unit for o in reversed(step.grid.origin)])
    return sitk.DisplacementFieldTransform(image)


def _from_itk(path: str | Path, transform: sitk.Transform, unit: float) -> list[Step]:
    """The steps of a transform, in the order in which they are applied."""
    transform = transform.Downcast()
    if isinstance(transform, sitk.CompositeTransform):
        parts = [transform.GetNthTransform(i) for i in reversed(range(transform.GetNumberOfTransforms()))]
        return [step for part in parts for step in _from_itk(path, part, unit)]
    if isinstance(transform, sitk.DisplacementFieldTransform):
        image = transform.GetDisplacementField()
        if not np.allclose(image.GetDirection(), np.eye(3).ravel(), atol=1e-6):
            raise ValueError(
                f"{path}: the displacement field's direction is {image.GetDirection()}; wanted the identity"
            )
        vectors = sitk.GetArrayFromImage(image)[..., ::-1] * unit
        spacing, origin = (
            tuple(unit * v for v in reversed(part)) for part in (image.GetSpacing(), image.GetOrigin())
        )
        grid = Grid(vectors.shape[:3], spacing, origin)
        return [Displacements(np.moveaxis(vectors, -1, 0), grid)]
    if transform.IsLinear():
        origin_moved = np.array(transform.TransformPoint((0.0, 0.0, 0.0)))
        columns = [np.array(transform.TransformPoint(tuple(axis))) - origin_moved for axis in np.eye(3)]
        matrix = np.eye(4)
        matrix[:3, :3] = np.column_stack(columns)[::-1, ::-1]
        matrix[:3, 3] = origin_moved[::-1] * unit
        return [Affine(matrix)]
    raise ValueError(
        f"{path}: holds a {transform.GetName()}; wanted linear transforms and displacement fields"
    )
