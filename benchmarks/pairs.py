"""Synthetic pairs of images whose transform is known: tissue with regions, texture, cells and fibres, imaged twice."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree

GENERATION = "1"  # raise it when the same size and seed give other pairs
MARGIN = 24  # voxels of the scene around the image, so that the fixed image may look beyond the moving one
REGIONS = 40
SMALLEST_LABEL = 500  # voxels of a region in the fixed image below which its Dice is left out
HARD = ("inverted", "missing", "noise")


@dataclass(frozen=True)
class Pair:
    """Two images and the truth between them; voxels of 1 um, all arrays of one shape.

    Parameters
    ----------
    fixed, moving
        (z, y, x) uint16.
    fixed_labels, moving_labels
        Regions of the same scene, (z, y, x) uint8; 0 outside the tissue.
    displacement
        The truth, (3, z, y, x) float32, voxels, components z, y, x: fixed index x lies at x + u(x) in the moving
        image (pull-back).
    mask
        (z, y, x) bool: tissue of the fixed image that the moving image shows too. Scores count it alone.
    """

    fixed: np.ndarray
    moving: np.ndarray
    fixed_labels: np.ndarray
    moving_labels: np.ndarray
    displacement: np.ndarray
    mask: np.ndarray

    def save(self, folder: Path) -> None:
        """Write every array as an .npy file."""
        folder.mkdir(parents=True, exist_ok=True)
        for field in fields(self):
            np.save(folder / f"{field.name}.npy", getattr(self, field.name))

    @classmethod
    def load(cls, folder: Path) -> Pair:
        """The arrays of a folder, mapped into memory."""
        return cls(*(np.load(folder / f"{field.name}.npy", mmap_mode="r") for field in fields(cls)))


def synthetic_pair(edge: int, seed: int, largest: float = 12.0, fine: float = 2.0) -> Pair:
    """A pair of cubes.

    The scene is a rounded body of regions with texture on two scales, cells and fibres. The moving image shows it
    as it is; the fixed image shows it through an affine (4, -3, 5 degrees, 3 % of scale, shear, shift) after a
    smooth random displacement with control points every 1/6 and 1/16 of the edge. Each image has its own bias
    field (20 %), gain, Poisson and Gaussian noise.

    Parameters
    ----------
    edge
        Voxels along each axis.
    seed
        Of everything random.
    largest, fine
        Largest length of the random displacement, and of its fine part, voxels.
    """
    rng = np.random.default_rng(seed)
    shape = (edge,) * 3
    scene, regions = _scene(edge, rng)
    displacement = _true_displacement(edge, largest, fine, rng)
    index = np.indices(shape, np.float32, sparse=True)
    target = [u + i for u, i in zip(displacement, index, strict=True)]
    fixed = ndimage.map_coordinates(scene, [t + MARGIN for t in target], order=3, mode="nearest")
    fixed_labels = ndimage.map_coordinates(regions, [t + MARGIN for t in target], order=0, mode="nearest")
    inner = (slice(MARGIN, -MARGIN),) * 3
    seen = np.logical_and.reduce([(t >= 0) & (t <= edge - 1) for t in target])
    return Pair(
        fixed=_image(fixed, 1.0, rng),
        moving=_image(scene[inner], 0.8, rng),
        fixed_labels=fixed_labels,
        moving_labels=np.ascontiguousarray(regions[inner]),
        displacement=displacement,
        mask=(fixed_labels > 0) & seen,
    )


def harder(pair: Pair, kind: str) -> Pair:
    """A pair made hard to register; the truth stays.

    Parameters
    ----------
    kind
        ``inverted``: every third region of the moving image, over a third of the tissue, in an inverted, non-linear
        contrast. ``missing``: a fifth of the moving tissue cut off and full of holes; scores count what remains.
        ``noise``: Gaussian noise of 300 (the brightest tissue is near 3000) on both images.
    """
    rng = np.random.default_rng(5)
    tissue = np.asarray(pair.moving_labels) > 0
    if kind == "inverted":
        image = np.asarray(pair.moving, np.float32)
        inverted = 4500 * np.exp(-np.clip(image - 100, 0, None) / 1400) + 100
        return replace(
            pair, moving=_as_uint16(np.where(tissue & (pair.moving_labels % 3 == 0), inverted, image))
        )
    if kind == "missing":
        gone = _holes(tissue, rng)
        background = 100 + 34 * rng.standard_normal(gone.shape, dtype=np.float32)
        moving = np.where(gone, _as_uint16(background), pair.moving)
        last = np.reshape(gone.shape, (3, 1, 1, 1)) - 1
        target = np.indices(gone.shape, np.int16)
        target = np.clip(np.rint(target + pair.displacement), 0, last).astype(np.int16)
        return replace(pair, moving=moving, mask=pair.mask & ~gone[tuple(target)])
    if kind == "noise":
        noisy = [
            _as_uint16(image + 300 * rng.standard_normal(image.shape, dtype=np.float32))
            for image in (pair.fixed, pair.moving)
        ]
        return replace(pair, fixed=noisy[0], moving=noisy[1])
    raise ValueError(f"{kind!r} is no kind of hard pair; wanted one of {', '.join(HARD)}")


def best_affine(pair: Pair) -> np.ndarray:
    """The affine nearest to the truth, least squares over the mask: (4, 4), voxels, fixed to moving."""
    step = (slice(None, None, 4),) * 3
    index = np.argwhere(pair.mask[step]) * 4.0
    points = np.column_stack([index, np.ones(len(index))])
    moved = index + pair.displacement[(slice(None), *step)][:, pair.mask[step]].T
    matrix = np.eye(4)
    matrix[:3] = np.linalg.lstsq(points, moved, rcond=None)[0].T
    return matrix


def score(pair: Pair, found: np.ndarray) -> dict[str, float]:
    """How near a transform comes to the truth, over the mask.

    Parameters
    ----------
    found
        (3, z, y, x) float32, voxels: where each fixed voxel goes, less where it is; affine included.

    Returns
    -------
    ``epe`` and ``epe_p95``: mean and 95 % quantile of the endpoint error, voxels; ``dice``: mean over the regions;
    ``folded``: voxels whose Jacobian determinant (central differences) is not positive; ``smallest_jacobian``.
    """
    errors, determinants = [], []
    overlap = np.zeros((REGIONS + 1, REGIONS + 1), np.int64)
    depth = pair.mask.shape[0]
    index = np.indices(pair.mask.shape, np.float32, sparse=True)
    for start in range(0, depth, 32):  # slab by slab: a dense field of a large pair is most of the memory
        slab = slice(start, min(start + 32, depth))
        inside = pair.mask[slab]
        u = found[:, slab]
        errors.append(np.sqrt(((u - pair.displacement[:, slab]) ** 2).sum(0))[inside])
        low, high = max(start - 1, 0), min(slab.stop + 1, depth)
        determinants.append(determinant(found[:, low:high])[slab.start - low : slab.stop - low][inside])
        target = [u[0] + index[0][slab], u[1] + index[1], u[2] + index[2]]
        labels = ndimage.map_coordinates(pair.moving_labels, target, order=0, mode="constant")
        both = pair.fixed_labels[slab].astype(np.int64) * (REGIONS + 1) + labels
        overlap += np.bincount(both.ravel(), minlength=overlap.size).reshape(overlap.shape)
    error, volumes = np.concatenate(errors), np.concatenate(determinants)
    dice = 2 * np.diag(overlap) / np.maximum(overlap.sum(0) + overlap.sum(1), 1)
    counted = overlap.sum(1) > SMALLEST_LABEL
    counted[0] = False
    return {
        "epe": float(error.mean()),
        "epe_p95": float(np.percentile(error, 95)),
        "dice": float(dice[counted].mean()),
        "folded": int((volumes <= 0).sum()),
        "smallest_jacobian": float(volumes.min()),
    }


def _scene(edge: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Brightness, float32, and regions, uint8, of the body with a margin around the cube."""
    size = edge + 2 * MARGIN
    shape = (size,) * 3
    axis = (np.arange(size, dtype=np.float32) - size / 2) / (edge / 2)
    z, y, x = np.meshgrid(axis, axis, axis, indexing="ij", sparse=True)
    outline = _smooth_noise(shape, size / 5, 0.10, rng)
    body = np.sqrt((z / 0.80) ** 2 + (y / 0.86) ** 2 + (x / 0.90) ** 2) + outline < 1.0
    regions = _regions(axis, rng)
    regions = np.where(body, regions, 0).astype(np.uint8)
    means = rng.uniform(0.25, 0.75, REGIONS + 1).astype(np.float32)
    means[0] = 0.03
    scene = ndimage.gaussian_filter(means[regions], 1.2)

    texture = np.zeros(shape, np.float32)
    white = rng.standard_normal(shape).astype(np.float32)
    for sigma, strength in ((2.0, 0.05), (5.0, 0.08)):
        band = ndimage.gaussian_filter(white, sigma)
        texture += strength * band / band.std()
    scene += texture * ndimage.gaussian_filter(body.astype(np.float32), 1.5)

    cells = np.zeros(shape, np.float32)
    centres = rng.integers(0, size, (int(size**3 / 1200.0), 3))
    cells[tuple(centres.T)] += rng.uniform(0.3, 1.0, len(centres))
    scene += ndimage.gaussian_filter(cells * body, 1.6) * (2 * np.pi) ** 1.5 * 1.6**3 * 0.5

    fibres = _fibres(edge, rng)
    scene += ndimage.gaussian_filter(fibres * body, 1.5) * (2 * np.pi * 1.5**2) * 0.6
    return scene, regions


def _regions(axis: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Cells of random points, their walls bent; made on every second voxel."""
    points = rng.uniform(-0.85, 0.85, (REGIONS, 3)).astype(np.float32)
    coarse = np.stack(np.meshgrid(axis[::2], axis[::2], axis[::2], indexing="ij"))
    shape = coarse.shape[1:]
    bend = np.stack([_smooth_noise(shape, shape[0] / 8, 0.12, rng) for _ in range(3)])
    _, nearest = cKDTree(points).query(np.moveaxis(coarse + bend, 0, -1).reshape(-1, 3), workers=1)
    labels = (nearest.reshape(shape) + 1).astype(np.uint8)
    size = len(axis)
    return ndimage.zoom(labels, 2, order=0)[:size, :size, :size]


def _fibres(edge: int, rng: np.random.Generator) -> np.ndarray:
    """Voxels on random walks that keep their direction for a while."""
    size = edge + 2 * MARGIN
    fibres = np.zeros((size,) * 3, np.float32)
    for _ in range(int(120 * (edge / 256) ** 2)):
        place = rng.uniform(MARGIN, size - MARGIN, 3)
        heading = rng.standard_normal(3)
        heading /= np.linalg.norm(heading)
        for _ in range(int(edge * 0.9)):
            voxel = np.round(place).astype(int)
            if (voxel < 0).any() or (voxel >= size).any():
                break
            fibres[tuple(voxel)] = 1
            heading += rng.standard_normal(3) * 0.12
            heading /= np.linalg.norm(heading)
            place = place + heading
    return fibres


def _true_displacement(edge: int, largest: float, fine: float, rng: np.random.Generator) -> np.ndarray:
    """The affine after the random displacement, less the identity."""
    shape = (edge,) * 3
    u = np.stack(
        [
            _smooth_noise(shape, edge / 6, largest / np.sqrt(2), rng)
            + _smooth_noise(shape, edge / 16, fine / np.sqrt(2), rng)
            for _ in range(3)
        ]
    )
    length = np.sqrt((u**2).sum(0)).max()
    if length > largest:
        u *= largest / length
    matrix = np.eye(3)
    for axis, degrees in enumerate((4.0, -3.0, 5.0)):
        matrix = matrix @ rotation(axis, np.deg2rad(degrees))
    matrix = matrix @ np.diag([1.03, 0.97, 1.02])
    matrix[0, 1] += 0.015
    matrix[2, 1] -= 0.01
    linear = matrix - np.eye(3)
    offset = np.indices(shape, np.float32, sparse=True)
    offset = [i - np.float32((edge - 1) / 2) for i in offset]
    for axis, shift in enumerate((4.0, -5.0, 3.0)):
        u[axis] += (
            linear[axis, 0] * offset[0] + linear[axis, 1] * offset[1] + linear[axis, 2] * offset[2] + shift
        )
    return u


def rotation(axis: int, angle: float) -> np.ndarray:
    """(3, 3) matrix of a rotation about an axis, radians."""
    matrix = np.eye(3)
    first, second = (k for k in range(3) if k != axis)
    matrix[first, first] = matrix[second, second] = np.cos(angle)
    matrix[first, second], matrix[second, first] = -np.sin(angle), np.sin(angle)
    return matrix


def _smooth_noise(
    shape: tuple[int, ...], spacing: float, strength: float, rng: np.random.Generator
) -> np.ndarray:
    """Random values at control points ``spacing`` voxels apart, cubic between; the largest is ``strength``."""
    knots = [max(4, int(np.ceil(n / spacing)) + 3) for n in shape]
    values = rng.standard_normal(knots).astype(np.float32)
    factors = [n / k for n, k in zip(shape, knots, strict=True)]
    field = ndimage.zoom(values, factors, order=3, mode="nearest")[tuple(slice(n) for n in shape)]
    return (field / np.abs(field).max() * strength).astype(np.float32)


def _image(scene: np.ndarray, gain: float, rng: np.random.Generator) -> np.ndarray:
    """What a camera sees of the scene: bias field, gain, offset, shot noise and read noise."""
    bias = 1 + _smooth_noise(scene.shape, scene.shape[0] / 3, 0.20, rng)
    light = np.clip(scene, 0, None) * bias * gain * 4000 + 100
    counted = rng.poisson(np.clip(light / 8, 0, None)).astype(np.float32) * 8
    return _as_uint16(counted + rng.standard_normal(scene.shape).astype(np.float32) * 20)


def _holes(tissue: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Voxels beyond an oblique plane and in random balls, until a fifth of the tissue is gone."""
    edge = tissue.shape[0]
    z, y, x = np.indices(tissue.shape, np.float32, sparse=True)
    gone = x + 0.4 * y + 0.2 * z > 285 / 256 * edge
    wanted = 0.2 * tissue.sum()
    while (gone & tissue).sum() < wanted:
        centre = rng.uniform(50, 206, 3) / 256 * edge
        radius = rng.uniform(14, 24) / 256 * edge
        gone |= (z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < radius**2
    return gone


def determinant(u: np.ndarray) -> np.ndarray:
    """Jacobian determinant of x -> x + u(x), by central differences; u (3, z, y, x) in voxels."""
    j = [list(np.gradient(component)) for component in u]
    for axis in range(3):
        j[axis][axis] = j[axis][axis] + 1
    return (
        j[0][0] * (j[1][1] * j[2][2] - j[1][2] * j[2][1])
        - j[0][1] * (j[1][0] * j[2][2] - j[1][2] * j[2][0])
        + j[0][2] * (j[1][0] * j[2][1] - j[1][1] * j[2][0])
    )


def _as_uint16(image: np.ndarray) -> np.ndarray:
    return np.clip(image, 0, 65535).astype(np.uint16)
