"""Transforms: affine maps, displacement fields and sequences of them, in physical space."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from weft import receipts
from weft.grid import Grid
from weft.transforms.formats.ngff import open_field
from weft.transforms.interpolate import Field, check_field, crop_field, sample_field

INVERSE_NAME = {"transform.json": "inverse.json", "inverse.json": "transform.json"}


@dataclass(frozen=True, eq=False)
class Affine:
    """An affine map of points.

    Parameters
    ----------
    matrix
        (4, 4) float64 on homogeneous points (z, y, x, 1), um.

    Raises
    ------
    ValueError
        When the matrix is not (4, 4), not finite, singular or its last row is not (0, 0, 0, 1).
    """

    matrix: np.ndarray

    def __post_init__(self) -> None:
        matrix = np.array(self.matrix, float)
        if (
            matrix.shape != (4, 4)
            or not np.isfinite(matrix).all()
            or not np.allclose(matrix[3], (0, 0, 0, 1))
        ):
            raise ValueError(
                f"an affine needs a finite 4 x 4 matrix with last row 0 0 0 1; found {matrix.tolist()}"
            )
        if abs(np.linalg.det(matrix[:3, :3])) < 1e-12:
            raise ValueError(f"an affine must be invertible; found {matrix.tolist()}")
        object.__setattr__(self, "matrix", matrix)

    @property
    def inverse(self) -> Affine:
        """The map back."""
        return Affine(np.linalg.inv(self.matrix))

    def apply(self, points: Any) -> np.ndarray:
        """Map points, (n, 3) um: (n, 3) float64."""
        return as_points(points) @ self.matrix[:3, :3].T + self.matrix[:3, 3]

    def inside(self, points: Any) -> np.ndarray:
        """Where the map is defined, (n,) bool: everywhere."""
        return np.ones(len(as_points(points)), bool)


@dataclass(frozen=True, eq=False)
class Displacements:
    """A displacement field: x -> x + u(x), u interpolated linearly between samples.

    Outside its grid u is that of the nearest point of the grid's outermost samples, so that the map is defined, and
    continuous, everywhere: along an axis that is left, it goes on as a translation.

    Parameters
    ----------
    field
        u: (3, z, y, x) float32, um, components z, y, x. An array, or a `Field` of which only what is needed is read.
    grid
        Where its samples lie.

    Raises
    ------
    ValueError
        When the field does not lie on the grid.
    """

    field: Field
    grid: Grid

    def __post_init__(self) -> None:
        if isinstance(self.field, np.ndarray):
            object.__setattr__(self, "field", np.ascontiguousarray(self.field, np.float32))
        check_field(self.field, self.grid)

    @classmethod
    def zero(cls, grid: Grid) -> Displacements:
        """The field that moves nothing."""
        return cls(np.zeros((3, *grid.shape), np.float32), grid)

    def apply(self, points: Any) -> np.ndarray:
        """Map points, (n, 3) um: (n, 3) float64."""
        points = as_points(points)
        return points + sample_field(self.field, self.grid, points)

    def inside(self, points: Any) -> np.ndarray:
        """Which points, (n, 3) um, lie on the field's grid: (n,) bool."""
        return self.grid.contains(as_points(points))

    def within(self, lower: Any, upper: Any) -> Displacements:
        """The part that acts on a box with these corners, (3,) um, in memory; see `crop_field`."""
        return Displacements(*crop_field(self.field, self.grid, lower, upper))

    def load(self) -> Displacements:
        """The whole field in memory."""
        return Displacements(np.asarray(self.field[:], np.float32), self.grid)


Step = Affine | Displacements


@dataclass(frozen=True, eq=False)
class Sequence:
    """Maps applied one after the other.

    Parameters
    ----------
    steps
        In the order in which they are applied.
    input_space, output_space
        Names of the spaces that it maps from and to.
    backward
        Gives the inverse where that is stored and not computed.
    """

    steps: tuple[Step, ...]
    input_space: str = ""
    output_space: str = ""
    backward: Callable[[], Sequence] | None = field(default=None, repr=False)

    def apply(self, points: Any) -> np.ndarray:
        """Map points of the input space, (n, 3) um: (n, 3) float64 um in the output space."""
        points = as_points(points)
        for step in self.steps:
            points = step.apply(points)
        return points

    def inside(self, points: Any) -> np.ndarray:
        """Which points, (n, 3) um, pass through every field within its grid: (n,) bool."""
        points = as_points(points)
        inside = np.isfinite(points).all(axis=1)
        for step in self.steps:
            inside &= step.inside(points)
            points = step.apply(points)
        return inside

    @property
    def inverse(self) -> Sequence | None:
        """The map back: the stored one, or computed where all steps are affine, else None."""
        if self.backward is not None:
            return self.backward()
        affines = [step for step in self.steps if isinstance(step, Affine)]
        if len(affines) < len(self.steps):
            return None
        steps = tuple(step.inverse for step in reversed(affines))
        return Sequence(steps, self.output_space, self.input_space, lambda: self)

    def split(self) -> tuple[np.ndarray, Displacements | None, np.ndarray]:
        """The sequence as an affine, one field and another affine, applied in this order.

        Returns
        -------
        before, displacements, after
            (4, 4) float64, the field or None (then ``before`` is the identity), (4, 4) float64.

        Raises
        ------
        ValueError
            When there is more than one field.
        """
        before, after = np.eye(4), np.eye(4)
        displacements: Displacements | None = None
        for step in self.steps:
            if isinstance(step, Affine):
                after = step.matrix @ after
            elif displacements is None:
                displacements, before, after = step, after, np.eye(4)
            else:
                raise ValueError(
                    "a sequence with more than one displacement field has no split; reduce it to one field first"
                )
        return before, displacements, after

    def within(self, grid: Grid) -> Sequence:
        """The sequence for points of a grid of its input space, with no more of its fields in memory than these need."""
        corners = grid.corners()
        steps: list[Step] = []
        for step in self.steps:
            if isinstance(step, Displacements):
                step = step.within(corners.min(0), corners.max(0))
                # What comes after a field is reached from its box, moved by at most its largest displacements.
                u = np.asarray(step.field[:]).reshape(3, -1)
                corners = np.stack([corners.min(0) + u.min(1), corners.max(0) + u.max(1)])
                corners = _box_corners(corners[0], corners[1])
            else:
                corners = step.apply(corners)
            steps.append(step)
        return Sequence(tuple(steps), self.input_space, self.output_space)

    def jacobian_determinant(self, grid: Grid, *, affine: bool = False) -> np.ndarray:
        """Local change of volume at the samples of ``grid``; see `weft.transforms.jacobian.determinant`."""
        from weft.transforms.jacobian import sequence_determinant

        return sequence_determinant(self, grid, affine=affine)


def open_transform(path: str | Path) -> Sequence:
    """Open a transform by its receipt. Its displacement field stays on disk; what uses it reads the part that it needs.

    Parameters
    ----------
    path
        ``transform.json``, ``inverse.json`` or ``affine.json``. The inverse of a transform is the file
        ``inverse.json`` beside it (and the other way round), read when asked for.

    Returns
    -------
    A `Sequence` from the input space (fixed, for a transform) to the output space (moving), um.

    Raises
    ------
    FileNotFoundError
        When the receipt or a store that it names is not there.
    ValueError
        When it is no receipt of a transform.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: there is no such transform; wanted a transform.json, inverse.json or affine.json"
        )
    receipt = receipts.read(path)
    if not isinstance(receipt, dict) or not isinstance(receipt.get("sequence"), list):
        raise ValueError(
            f"{path}: field 'sequence' is missing; wanted a list of affine and displacements steps"
        )
    if receipt.get("units", "micrometer") != "micrometer":
        raise ValueError(f"{path}: field 'units' is {receipt['units']!r}; wanted 'micrometer'")
    steps = tuple(_open_step(path, step) for step in receipt["sequence"])
    other = path.with_name(INVERSE_NAME.get(path.name, path.name))
    backward = (lambda: open_transform(other)) if path.name in INVERSE_NAME and other.is_file() else None
    return Sequence(steps, receipt.get("input_space", ""), receipt.get("output_space", ""), backward)


def _open_step(path: Path, step: dict[str, Any]) -> Step:
    kind = step.get("type")
    if kind == "affine":
        return Affine(np.array(step["matrix"], float))
    if kind == "displacements":
        return Displacements(*open_field(path.parent / step["store"], step.get("path", "0")))
    raise ValueError(f"{path}: a step of the sequence has type {kind!r}; wanted 'affine' or 'displacements'")


def _box_corners(lower: np.ndarray, upper: np.ndarray) -> np.ndarray:
    """The 8 corners, (8, 3), of a box."""
    return np.stack(np.meshgrid(*zip(lower, upper, strict=True), indexing="ij"), -1).reshape(-1, 3)


def as_points(points: Any) -> np.ndarray:
    """Points as (n, 3) float64.

    Raises
    ------
    ValueError
        When they are of another shape.
    """
    points = np.asarray(points, float)
    if points.ndim != 2 or points.shape[1] != 3:
        raise ValueError(f"points must be an array (n, 3) of z, y, x in um; found shape {points.shape}")
    return points
