"""Starts of an affine registration: orientations, rotations and scales, each with its best shifts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numba
import numpy as np
from scipy.ndimage import gaussian_filter

from weft.grid import Grid
from weft.logs import progress
from weft.registration.features import Feature
from weft.registration.linear_model import LinearModel
from weft.registration.refine import AffineRefiner, Fit
from weft.registration.translation import TranslationSearch

_THIN = 0.4  # thickness of the tissue over its width, from which the normal is known better than the rest
LARGEST_TURN = 45.0  # degrees: more belongs to another orientation
_SAME_TURN = 4.0  # degrees
UNCHANGED = np.eye(3)  # what the linear part that is looked for may not be too far from
_GOLDEN = (1 + 5**0.5) / 2


@dataclass(frozen=True)
class Candidate:
    """One start and what became of it.

    Parameters
    ----------
    orientation
        Number of the orientation it belongs to.
    rotation, scale
        Number of the rotation and the scale factor it started from.
    translation_score
        Score of the shift it started from, as `TranslationSearch` gives it.
    fit
        The start, or the refined affine with its NCC and overlap.
    """

    orientation: int
    rotation: int
    scale: float
    translation_score: float
    fit: Fit


class CandidateSearch:
    """Finds and refines starts at half the resolution of a pair of features.

    Parameters
    ----------
    reference, other
        Features of one voxel size. All of the reference is expected to lie in the other image, up to
        `min_overlap`, so it should be the one with less tissue.
    min_overlap
        Least share of the smaller mask that must be covered.
    model
        What the wanted transform may do.
    """

    def __init__(self, reference: Feature, other: Feature, min_overlap: float, model: LinearModel) -> None:
        self.reference, self.other = _halved(reference), _halved(other)
        self._model = model
        self._shifts = TranslationSearch(self.reference.image, self.reference.mask, min_overlap)
        self._smooth = AffineRefiner(smoothed(self.reference, 1.0), smoothed(self.other, 1.0))
        self._sharp = AffineRefiner(self.reference, self.other)

    def starts(
        self,
        orientations: Sequence[tuple[int, np.ndarray]],
        rotations: Sequence[np.ndarray],
        scales: Sequence[float],
        peaks: int = 2,
        moments: bool = False,
        what: str = "affine",
    ) -> list[Candidate]:
        """Every combination with its best shifts, the most significant first.

        Parameters
        ----------
        orientations
            Numbered (3, 3) matrices, reference directions to directions of the other image.
        rotations
            (3, 3) matrices.
        scales
            Lengths in the other image over lengths in the reference.
        peaks
            Shifts kept of each combination.
        moments
            Try the rotations that `moment_rotations` gives as well; they are numbered on.
        what
            Name of the step that lines of progress are about.
        """
        tried = []
        for number, orientation in orientations:
            more = moment_rotations(self.reference, self.other, orientation) if moments else ()
            for turn, rotation in enumerate((*rotations, *more)):
                tried += [(number, turn, scale, orientation @ rotation) for scale in scales]
        found = []
        for number, turn, scale, turned in progress(tried, len(tried), f"{what}: rotations and scales"):
            for score, matrix in self._translations(self._model.scaled(turned, scale), peaks):
                found.append(Candidate(number, turn, scale, score, Fit(matrix, score, 1.0)))
        return sorted(found, key=lambda c: -c.translation_score)

    def refine(self, starts: Sequence[Candidate], what: str = "affine") -> list[Candidate]:
        """The starts after Levenberg-Marquardt, similarity first, best score first; `what` as in `starts`."""
        refined = []
        for start in progress(starts, len(starts), f"{what}: starts refined"):
            fit = self._smooth.run(start.fit.matrix, self._model.at_most_similarity.kind, about=UNCHANGED)
            refined.append(replace(start, fit=self._sharp.run(fit.matrix, self._model.kind, about=UNCHANGED)))
        return sorted(refined, key=lambda c: -c.fit.score)

    def _translations(self, linear: np.ndarray, peaks: int) -> list[tuple[float, np.ndarray]]:
        """The best shifts for a linear part: score and (4, 4) matrix, reference to other."""
        start = np.eye(4)
        start[:3, :3] = linear
        start[:3, 3] = self.other.centroid - linear @ self.reference.centroid
        box = self._box(start)
        # Index of the other image's voxel grid as a function of the index in the box.
        to_other = np.linalg.inv(self.other.grid.matrix()) @ start @ box.matrix()
        if len(self.other.mask) == box.shape[0] == 1:
            to_other[0] = 0  # exactly, or rounding would leave the plane
        image = np.zeros(box.shape, np.float32)
        mask = np.zeros(box.shape, bool)
        resample_both(self.other.image, self.other.mask, to_other[:3, :3], to_other[:3, 3], image, mask)
        if not mask.any():
            return []
        found = []
        for score, shift in self._shifts(image, mask, peaks):
            moved = np.eye(4)
            moved[:3, 3] = (
                np.asarray(box.origin)
                - np.asarray(self.reference.grid.origin)
                - shift * np.asarray(box.spacing)
            )
            found.append((score, start @ moved))
        return found

    def _box(self, start: np.ndarray) -> Grid:
        """The part of the reference's lattice that holds the other image's tissue under a start."""
        occupied = np.argwhere(self.other.mask)
        low, high = occupied.min(axis=0), occupied.max(axis=0)
        tissue = self.other.grid.crop(tuple(slice(a, b + 1) for a, b in zip(low, high, strict=True)))  # type: ignore[arg-type]
        back = np.linalg.inv(start)
        corners = self.reference.grid.to_index(tissue.corners() @ back[:3, :3].T + back[:3, 3])
        # What rounding adds must not make a plane two.
        first = np.floor(corners.min(axis=0) + 1e-6).astype(int)
        last = np.ceil(corners.max(axis=0) - 1e-6).astype(int)
        shape = tuple(int(n) for n in last - first + 1)
        origin = tuple(float(o) for o in self.reference.grid.to_physical(first))
        return Grid(shape, self.reference.grid.spacing, origin)  # type: ignore[arg-type]


def smoothed(feature: Feature, sigma: float) -> Feature:
    """A feature after a Gaussian of `sigma` voxels."""
    return replace(feature, image=gaussian_filter(feature.image, sigma))


def moment_rotations(reference: Feature, other: Feature, orientation: np.ndarray) -> list[np.ndarray]:
    """Rotations that lay the tissue of one image along that of the other.

    One brings the principal axes together; where the tissue is thin, another turns its normal the shortest way.

    Parameters
    ----------
    reference, other
        Features.
    orientation
        (3, 3), reference directions to directions of the other image.

    Returns
    -------
    list of ndarray
        (3, 3) rotations of at most `LARGEST_TURN` degrees, to be applied before the orientation: none, one or two.
    """
    (lengths, axes), (_, other_axes) = (np.linalg.eigh(_moments(feature)) for feature in (reference, other))
    turned = orientation @ axes
    # Of the signs of the axes, those nearest to the orientation; the weakest gives way to keep its handedness.
    along = np.einsum("ij,ij->j", turned, other_axes)
    signs = np.where(along < 0, -1.0, 1.0)
    if np.prod(signs) * np.linalg.det(other_axes) * np.linalg.det(axes) * np.linalg.det(orientation) < 0:
        signs[np.argmin(np.abs(along))] *= -1
    found = [orientation.T @ (other_axes * signs) @ axes.T]
    if lengths[0] < _THIN**2 * lengths[1]:
        normal, wanted = turned[:, 0], other_axes[:, 0] * (-1 if along[0] < 0 else 1)
        axis = np.cross(normal, wanted)
        sine = float(np.linalg.norm(axis))
        if sine > 0:
            turn = rotation_about(axis, np.rad2deg(np.arctan2(sine, normal @ wanted)))
            found.append(orientation.T @ turn @ orientation)
    kept: list[np.ndarray] = []
    for rotation in found:
        known = [np.eye(3), *kept]
        if _angle(rotation) <= LARGEST_TURN and all(_angle(k.T @ rotation) > _SAME_TURN for k in known):
            kept.append(rotation)
    return kept


def _moments(feature: Feature) -> np.ndarray:
    """Covariance, (3, 3), of the places of a mask."""
    return np.asarray(np.cov(np.argwhere(feature.mask).T, bias=True))


def _angle(rotation: np.ndarray) -> float:
    """Angle of a (3, 3) rotation, degrees."""
    return float(np.rad2deg(np.arccos(np.clip((np.trace(rotation) - 1) / 2, -1, 1))))


def turned_by(orientation: np.ndarray, matrix: np.ndarray) -> float:
    """Angle, degrees, from an orientation, (3, 3), to the rotation in an affine, (4, 4), of the same handedness."""
    left, _, right = np.linalg.svd(matrix[:3, :3])
    return _angle(orientation.T @ left @ right)


def rotation_set(count: int, planar: bool = False) -> tuple[np.ndarray, ...]:
    """Rotations that cover those of up to 30 degrees: 1, 13 or 33 matrices, (3, 3), identity first.

    13: by 20 degrees about the 12 corners of an icosahedron; 33: by 14 degrees about these and by 25 about the
    20 corners of a dodecahedron. In a plane: about z in equal steps of up to 30 degrees either way.

    Raises
    ------
    ValueError
        For another count.
    """
    if count not in (1, 13, 33):
        raise ValueError(f"there is no set of {count} rotations; wanted 1, 13 or 33")
    if planar:
        steps = np.linspace(-30.0, 30.0, count) if count > 1 else [0.0]
        angles = sorted(steps, key=abs)
        return tuple(rotation_about(np.array((1.0, 0, 0)), angle) for angle in angles)
    signs = (1.0, -1.0)
    icosahedron = [np.roll((0.0, s, t * _GOLDEN), k) for s in signs for t in signs for k in range(3)]
    dodecahedron = [np.array((a, b, c)) for a in signs for b in signs for c in signs]
    dodecahedron += [
        np.roll((0.0, s / _GOLDEN, t * _GOLDEN), k) for s in signs for t in signs for k in range(3)
    ]
    sets = {
        1: [],
        13: [(axis, 20.0) for axis in icosahedron],
        33: [(axis, 14.0) for axis in icosahedron] + [(axis, 25.0) for axis in dodecahedron],
    }
    return (np.eye(3), *(rotation_about(axis, degrees) for axis, degrees in sets[count]))


def rotation_about(axis: np.ndarray, degrees: float) -> np.ndarray:
    """The (3, 3) rotation about an axis, (3,) (Rodrigues' formula)."""
    z, y, x = np.asarray(axis, float) / np.linalg.norm(axis)
    cross = np.array([[0, -x, y], [x, 0, -z], [-y, z, 0]])
    angle = np.deg2rad(degrees)
    return np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross


@numba.njit(cache=True, nogil=True)
def resample_both(values, known, linear, shift, out, inside):
    """An image and its mask at ``linear @ index + shift``, by linear interpolation, in one pass.

    Parameters
    ----------
    values, known
        (z, y, x) float32 and bool.
    linear, shift
        (3, 3) and (3,) float64, voxels: index of `out` to index of `values`.
    out, inside
        (z, y, x) float32 and bool, filled here: the values; where more than half of the weight is known. Outside the image
        they stay as they are.
    """
    nz, ny, nx = values.shape
    for i in range(out.shape[0]):
        for j in range(out.shape[1]):
            for k in range(out.shape[2]):
                z = shift[0] + linear[0, 0] * i + linear[0, 1] * j + linear[0, 2] * k
                y = shift[1] + linear[1, 0] * i + linear[1, 1] * j + linear[1, 2] * k
                x = shift[2] + linear[2, 0] * i + linear[2, 1] * j + linear[2, 2] * k
                if not (0 <= z <= nz - 1 and 0 <= y <= ny - 1 and 0 <= x <= nx - 1):
                    continue
                iz, iy, ix = int(z), int(y), int(x)
                fz, fy, fx = z - iz, y - iy, x - ix
                value = share = 0.0
                for a in range(2):
                    wz, jz = (fz, min(iz + 1, nz - 1)) if a else (1.0 - fz, iz)
                    for b in range(2):
                        wy, jy = (fy, min(iy + 1, ny - 1)) if b else (1.0 - fy, iy)
                        for c in range(2):
                            wx, jx = (fx, min(ix + 1, nx - 1)) if c else (1.0 - fx, ix)
                            weight = wz * wy * wx
                            value += values[jz, jy, jx] * weight
                            if known[jz, jy, jx]:
                                share += weight
                out[i, j, k] = value
                inside[i, j, k] = share > 0.5


def _halved(feature: Feature) -> Feature:
    """A feature at twice its voxel size: means of 2 x 2 x 2 voxels within the mask (2 x 2 of a plane)."""
    depth = 1 if feature.mask.shape[0] == 1 else 2
    factors = (depth, 2, 2)
    pad = [(0, -n % f) for n, f in zip(feature.mask.shape, factors, strict=True)]
    mask = np.pad(feature.mask, pad).astype(np.float32)
    image = np.pad(feature.image, pad)
    z, y, x = (n // f for n, f in zip(mask.shape, factors, strict=True))

    def mean(values: np.ndarray) -> np.ndarray:
        return values.reshape(z, depth, y, 2, x, 2).mean(axis=(1, 3, 5))

    share = mean(mask)
    half = np.where(share > 0, mean(image * mask) / np.maximum(share, 0.125), 0).astype(np.float32)
    inside = share >= 0.5 if (share >= 0.5).any() else share > 0
    return Feature(np.where(inside, half, 0).astype(np.float32), inside, feature.grid.coarsen(factors))
