"""The models of a linear registration: which of an affine's parameters are free."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np

Kind = Literal["rigid", "similarity", "affine"]
KINDS: tuple[Kind, ...] = ("rigid", "similarity", "affine")

LARGEST_SCALE = 2.0  # of any direction; inverted, the smallest
LARGEST_RATIO = 1.6  # of the largest scale to the smallest
SPATIAL = 12  # parameters of an affine: the 9 of the linear part, row by row, then the 3 of the shift
_ROTATIONS = np.array(
    [
        [[0, 0, 0], [0, 0, -1], [0, 1, 0]],
        [[0, 0, 1], [0, 0, 0], [-1, 0, 0]],
        [[0, -1, 0], [1, 0, 0], [0, 0, 0]],
    ],
    float,
)


@dataclass(frozen=True)
class LinearModel:
    """What an affine may do.

    Parameters
    ----------
    kind
        ``rigid`` (rotation and shift), ``similarity`` (and one scale) or ``affine``.
    planar
        The images are single planes: rotation about z, and neither shift, scale nor shear along z.

    Raises
    ------
    ValueError
        For another kind.
    """

    kind: Kind = "affine"
    planar: bool = False

    def __post_init__(self) -> None:
        if self.kind not in KINDS:
            raise ValueError(f"the model is {self.kind!r}; wanted one of {', '.join(KINDS)}")

    @property
    def axes(self) -> int:
        """How many axes it acts on."""
        return 2 if self.planar else 3

    @property
    def at_most_similarity(self) -> LinearModel:
        """The model for the first steps from a poor start."""
        return LinearModel("rigid" if self.kind == "rigid" else "similarity", self.planar)

    def directions(self, linear: np.ndarray) -> np.ndarray:
        """Directions in which the parameters may move, (12, k), at a linear part, (3, 3), of isotropic voxels."""
        moved: list[np.ndarray] = []
        if self.kind == "affine":
            moved = list(np.eye(9).reshape(9, 3, 3))
        else:
            moved = [rotation @ linear for rotation in _ROTATIONS]
            moved += [linear] if self.kind == "similarity" else []
        columns = [np.concatenate([direction.ravel(), np.zeros(3)]) for direction in moved]
        columns += [np.concatenate([np.zeros(9), shift]) for shift in np.eye(3)]
        basis = np.array(columns).T
        if not self.planar:
            return basis
        # z is held: rotations about y and x and the shift along z have nothing left.
        basis[[0, 1, 2, 3, 6, 9]] = 0
        if self.kind != "affine":
            basis[:, 1:3] = 0
        return basis[:, np.any(basis, axis=0)]

    def nearest(self, linear: np.ndarray, scale: float | None = None) -> np.ndarray:
        """The linear part that this model allows and that is nearest to a matrix, (3, 3), of isotropic voxels.

        Parameters
        ----------
        linear
            Any matrix; rotary reflections stay such.
        scale
            Of a rigid motion or a similarity; its own when None.
        """
        held = linear.copy()
        if self.planar:
            held[0, 1:] = held[1:, 0] = 0
        if self.kind != "affine":
            part = held[-self.axes :, -self.axes :]
            left, singular, right = np.linalg.svd(part)
            part[...] = (singular.mean() if scale is None else scale) * (left @ right)
        return held

    def stretches(self, linear: np.ndarray) -> np.ndarray:
        """Singular values of a linear part, (3, 3), along the axes that the model acts on: largest first."""
        return np.linalg.svd(linear[-self.axes :, -self.axes :], compute_uv=False)

    def plausible(self, linear: np.ndarray) -> bool:
        """Whether a linear part, (3, 3), of isotropic voxels is one of a specimen: neither flattened nor sheared.

        Correlation alone does not tell: it is often high where all of an image is sent to a smooth place of the other.
        """
        most, least = self.stretches(linear)[[0, -1]]
        return bool(1 / LARGEST_SCALE <= least <= most <= min(LARGEST_SCALE, LARGEST_RATIO * least))

    def scale(self, linear: np.ndarray) -> float:
        """Mean scale of a linear part, (3, 3)."""
        return float(self.stretches(linear).mean())

    def scaled(self, linear: np.ndarray, factor: float) -> np.ndarray:
        """A linear part, (3, 3), enlarged along the axes that the model acts on."""
        enlarged = linear.copy()
        enlarged[-self.axes :] *= factor
        return enlarged
