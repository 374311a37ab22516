"""Starts of an affine that a person gives: a matrix, a motion, landmarks or a file of a transform."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from weft.grid import Grid
from weft.quality.landmarks import read_landmarks
from weft.registration.linear_model import LinearModel
from weft.registration.orientation import orientation_matrix
from weft.transforms.model import Affine, Sequence, open_transform

_FLAT = (
    1e-3  # smallest spread of landmarks over their largest, below which they lie in a plane (or on a line)
)


def given_start(
    start: Mapping[str, Any],
    fixed: Grid,
    moving: Grid,
    codes: tuple[str | None, str | None],
    model: LinearModel,
) -> np.ndarray:
    """The affine that settings describe.

    Parameters
    ----------
    start
        Exactly one of ``matrix``, ``motion``, ``landmarks`` and ``transform`` (and ``unit``), as in
        `weft.config.registration.Start`.
    fixed, moving
        Grids of the images at full resolution.
    codes
        Their orientation codes; None where nothing is known.
    model
        What landmarks determine.

    Returns
    -------
    ndarray
        (4, 4) float64, um, (z, y, x), fixed space to moving space.

    Raises
    ------
    FileNotFoundError
        When a file is missing.
    ValueError
        When the matrix is not one of an affine, too few landmarks are given, or the file holds anything else.
    """
    if start.get("matrix") is not None:
        try:
            return Affine(np.asarray(start["matrix"], float)).matrix
        except ValueError as error:
            raise ValueError(f"affine.start.matrix: {error}") from None
    if start.get("motion") is not None:
        return motion(start["motion"], fixed, moving, codes)
    if start.get("landmarks"):
        paths = start["landmarks"]
        found = read_landmarks(paths, fixed, moving)
        try:
            return fit_landmarks(found.fixed, found.moving, model)
        except ValueError as error:
            raise ValueError(f"{', '.join(map(str, paths))}: {error}") from None
    return read_affine(start["transform"], float(start.get("unit") or 1.0))


def motion(
    values: Mapping[str, Any], fixed: Grid, moving: Grid, codes: tuple[str | None, str | None]
) -> np.ndarray:
    """The affine of a translation, a rotation and scales as CloudReg takes them.

    About the middles of the two images, in (x, y, z): first the axes are turned as the orientation codes say (left as
    they run where one is missing), then come rotations about x, then y, then z (the axes that stay in place), the
    translation, and last the scales: ``scale * (R O x + t)``.

    Parameters
    ----------
    values
        ``x``, ``y``, ``z``: translation, um. ``yz``, ``xz``, ``xy``: rotation about x, y, z, degrees (the plane that
        turns). ``scale``: one number, or three along x, y, z.
    fixed, moving
        Grids of the images.
    codes
        Orientation codes of the two.
    """
    turned = orientation_matrix(codes[0], codes[1]) if codes[0] and codes[1] else np.eye(3)
    rotation = np.eye(3)
    for number, plane in enumerate(("yz", "xz", "xy")):
        angle = np.deg2rad(float(values.get(plane, 0.0)))
        first, second = (axis for axis in range(3) if axis != number)
        # A positive angle turns x to y, y to z and z to x.
        sine = -np.sin(angle) if number == 1 else np.sin(angle)
        step = np.eye(3)
        step[first, first] = step[second, second] = np.cos(angle)
        step[first, second], step[second, first] = -sine, sine
        rotation = step @ rotation
    shift = np.array([float(values.get(axis, 0.0)) for axis in "xyz"])
    scale = np.broadcast_to(np.asarray(values.get("scale", 1.0), float), 3)
    matrix = np.eye(4)
    matrix[:3, :3] = (np.diag(scale) @ rotation)[::-1, ::-1] @ turned
    middles = [0.5 * (grid.lower + grid.upper) for grid in (fixed, moving)]
    matrix[:3, 3] = middles[1] + (scale * shift)[::-1] - matrix[:3, :3] @ middles[0]
    return matrix


def fit_landmarks(fixed: np.ndarray, moving: np.ndarray, model: LinearModel) -> np.ndarray:
    """The affine of a model that brings points onto their partners with least squares.

    Rigid motions and similarities by Umeyama (1991); a mirror image is not one of them.

    Parameters
    ----------
    fixed, moving
        Points, (n, 3) um.
    model
        Rigid and similarity need 3 points that are not on a line, an affine 4 that are not in a plane; one point less
        in a plane.

    Returns
    -------
    ndarray
        (4, 4) float64, um, fixed space to moving space.

    Raises
    ------
    ValueError
        When there are too few points, or they lie in a plane or on a line.
    """
    axes = slice(3 - model.axes, 3)
    centres = fixed.mean(axis=0), moving.mean(axis=0)
    a, b = (points[:, axes] - centre[axes] for points, centre in zip((fixed, moving), centres, strict=True))
    # Of a rigid motion, one direction follows from the others.
    rank = model.axes if model.kind == "affine" else model.axes - 1
    spread = np.linalg.svd(a, compute_uv=False)
    if len(a) <= rank or not spread[0] > 0 or spread[rank - 1] < _FLAT * spread[0]:
        shape = {1: "at one place", 2: "on a line", 3: "in a plane"}[rank]
        raise ValueError(
            f"found {len(a)} landmarks; wanted at least {rank + 1} that do not lie {shape}, for model {model.kind!r}"
        )
    matrix = np.eye(4)
    if model.kind == "affine":
        matrix[axes, axes] = np.linalg.lstsq(a, b, rcond=None)[0].T
    else:
        left, singular, right = np.linalg.svd(b.T @ a)
        signs = np.ones(model.axes)
        signs[-1] = np.sign(np.linalg.det(left @ right))
        scale = float(singular @ signs / (a * a).sum()) if model.kind == "similarity" else 1.0
        matrix[axes, axes] = scale * left @ np.diag(signs) @ right
    matrix[:3, 3] = centres[1] - matrix[:3, :3] @ centres[0]
    return matrix


def read_affine(path: str | Path, unit: float = 1.0) -> np.ndarray:
    """The affine in a file.

    Parameters
    ----------
    path
        ``.json``: an ``affine.json`` of weft. ``.tfm``, ``.txt``, ``.mat``, ``.h5``, ``.hdf5``: of ITK or ANTs, whose
        axes (x, y, z) are turned round. A folder: a Zarr group with a scene of OME-NGFF.
    unit
        Size of an ITK unit, um (1000 for files in mm).

    Returns
    -------
    ndarray
        (4, 4) float64, um, (z, y, x), fixed space to moving space.

    Raises
    ------
    FileNotFoundError
        When there is no such file.
    ValueError
        When it cannot be read, or holds more than affines.
    """
    sequence = _open(Path(path), unit)
    matrix = np.eye(4)
    for step in sequence.steps:
        if not isinstance(step, Affine):
            raise ValueError(f"{path}: holds a displacement field; wanted a file with nothing but affines")
        matrix = step.matrix @ matrix
    return matrix


def _open(path: Path, unit: float) -> Sequence:
    if path.suffix == ".json":
        return open_transform(path)
    if path.is_dir():
        from weft.transforms.formats.scene import read_scene

        return read_scene(path)
    from weft.transforms.formats.itk import read_itk

    return read_itk(path, unit=unit)
