"""Small pairs of blocks of every kind, good and bad, to try a backend and the gates around it on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter, map_coordinates

from weft.grid import Grid
from weft.registration.contract import Initial
from weft.registration.engine import Block, attempt_block

KINDS = (
    "isotropic",
    "unequal_edges",
    "plane",
    "thin",
    "masked",
    "weighted",
    "nearly_empty",
    "empty",
    "constant",
    "saturated",
    "float",
    "inverted",
    "noise",
    "wrong_affine",
    "apart",
    "periodic",
    "cut_off",
    "start_field",
)
SMALLEST, LARGEST = 5, 48  # voxels along an axis
TOP = 4095.0
BACKGROUND = (150.0, 150.0)


@dataclass(frozen=True)
class RandomPair:
    """A block to register.

    Parameters
    ----------
    kind
        One of `KINDS`.
    seed
        What it was made from.
    block
        Both images with their grids, weights and start.
    """

    kind: str
    seed: int
    block: Block

    def register(self, backend: str = "native", **settings: Any) -> tuple[np.ndarray | None, dict[str, Any]]:
        """Register it with all gates of the workflow (`weft.registration.engine.attempt_block`)."""
        return attempt_block(
            self.block,
            backend=backend,
            settings=settings,
            background=BACKGROUND,
            min_content=0.02,
            seed=self.seed,
        )


def random_pair(seed: int) -> RandomPair:
    """The pair of a seed; `KINDS` follow each other, so that any run of seeds holds them all.

    Texture of blobs in the fixed space; the moving image shows it through a smooth displacement of some voxels,
    with its own noise, gain and offset, on its own grid. The kind then spoils or changes one thing.
    """
    rng = np.random.default_rng([seed, 0x5EED])
    kind = KINDS[seed % len(KINDS)]
    shape, spacing = _shape(rng, kind), _spacing(rng, kind)
    fixed_grid = Grid(shape, spacing, tuple(rng.uniform(-50, 50, 3)))
    fixed = _texture(rng, shape, kind)
    moving = _moved(rng, fixed)
    if kind == "cut_off":
        axis = int(rng.integers(3))
        moving = np.take(moving, np.arange(max(1, shape[axis] // 2)), axis)
    moving_grid = Grid(moving.shape, spacing, fixed_grid.origin)
    noise = rng.uniform(0, 80)
    images = [image + rng.normal(0, noise, image.shape) for image in (fixed, rng.uniform(0.5, 1.5) * moving)]
    affine = _small_affine(rng, kind, fixed_grid)
    masks: list[np.ndarray | None] = [None, None]
    field, field_grid = None, None
    side = int(rng.integers(2))
    if kind == "inverted":
        images[1] = TOP - images[1]
    elif kind == "noise":
        images = [rng.normal(1000, 100, image.shape) for image in images]
    elif kind in ("empty", "constant"):
        images[side] = np.full(images[side].shape, 20.0 if kind == "empty" else 900.0)
    elif kind == "nearly_empty":
        images = [
            np.where(rng.random(image.shape) < 0.03, image, rng.poisson(20, image.shape)) for image in images
        ]
    elif kind == "saturated":
        images = [np.minimum(image * 3, TOP) for image in images]
        masks = [image < TOP for image in images]
    elif kind == "masked":
        masks[side] = _blobs(rng, images[side].shape, 3) > rng.uniform(-1, 2)
    elif kind == "weighted":
        masks = [rng.random(image.shape).astype(np.float32) for image in images]
    elif kind == "start_field":
        field_grid = fixed_grid.coarsen((2, 2, 2))
        smooth = np.stack([_blobs(rng, field_grid.shape, 4) for _ in range(3)])
        field = (0.5 * min(spacing) * smooth).astype(np.float32)
    if kind == "float":
        images = [(image - image.mean()) * rng.uniform(0.01, 100) + BACKGROUND[0] for image in images]
    else:
        images = [np.clip(np.rint(image), 0, TOP).astype(np.uint16) for image in images]
    block = Block(
        images[0],
        fixed_grid,
        images[1],
        moving_grid,
        Initial(affine, field, field_grid),
        (masks[0], masks[1]),
    )
    return RandomPair(kind, seed, block)


def _shape(rng: np.random.Generator, kind: str) -> tuple[int, int, int]:
    shape = [int(n) for n in rng.integers(SMALLEST, LARGEST + 1, 3)]
    if kind == "plane":
        shape[0] = 1
    elif kind == "thin":
        for axis in rng.permutation(3)[: rng.integers(1, 4)]:
            shape[axis] = int(rng.integers(1, 4))
    return shape[0], shape[1], shape[2]


def _spacing(rng: np.random.Generator, kind: str) -> tuple[float, float, float]:
    edge = float(np.exp(rng.uniform(-1, 4)))
    unequal = kind == "unequal_edges" or (kind == "plane" and rng.random() < 0.5)
    z, y, x = edge * (rng.choice([1.0, 1.7, 2.0, 4.0, 7.0], 3) if unequal else np.ones(3))
    return float(z), float(y), float(x)


def _blobs(rng: np.random.Generator, shape: tuple[int, ...], sigma: float) -> np.ndarray:
    """Smooth noise of unit deviation, (z, y, x)."""
    values = gaussian_filter(rng.standard_normal(shape), [sigma if n > 1 else 0 for n in shape], mode="wrap")
    return values / max(float(values.std()), 1e-9)


def _texture(rng: np.random.Generator, shape: tuple[int, int, int], kind: str) -> np.ndarray:
    if kind == "periodic":
        index = np.indices(shape).sum(0)
        return 900 + 500 * np.sin(2 * np.pi * index / rng.uniform(4, 9))
    tissue = _blobs(rng, shape, 6) > -0.7
    return np.where(tissue, 900 + 250 * _blobs(rng, shape, 1.5), 30)


def _moved(rng: np.random.Generator, image: np.ndarray) -> np.ndarray:
    """The image through a smooth displacement of up to some voxels, within its axes of more than one voxel."""
    amplitude = rng.uniform(0, 2.5)
    u = [amplitude * _blobs(rng, image.shape, 8) if n > 1 else np.zeros(image.shape) for n in image.shape]
    return map_coordinates(image, np.indices(image.shape) + u, order=1, mode="nearest")


def _small_affine(rng: np.random.Generator, kind: str, grid: Grid) -> np.ndarray:
    """Near the identity about the block's middle; far from it for a wrong one."""
    size = {"wrong_affine": 0.5, "apart": 0.0}.get(kind, 0.02)
    linear = np.eye(3) + size * rng.uniform(-1, 1, (3, 3))
    if kind == "wrong_affine" and rng.random() < 0.3:
        linear[:, 0] *= -1  # mirrored
    if abs(np.linalg.det(linear)) < 0.05:
        linear += np.eye(3)
    middle = (grid.lower + grid.upper) / 2
    matrix = np.eye(4)
    matrix[:3, :3] = linear
    matrix[:3, 3] = middle - linear @ middle + size * grid.extent * rng.uniform(-1, 1, 3)
    if kind == "apart":
        matrix[:3, 3] += grid.extent * rng.choice([-1, 1], 3) * rng.uniform(0.8, 3)
    return matrix
