"""How alike two images are before and after a registration: of the whole, of each block, and as a map."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter

from weft.blocks import block_at, blocks_along_axes, cut, within_blocks
from weft.blocks import region as region_of
from weft.grid import Grid
from weft.image import Image, Region, box
from weft.quality.pulled import deep_spacing, pull_image
from weft.sampling import read_at
from weft.transforms.model import Sequence

SAMPLES = 4_000_000  # voxels on which a registration is compared when nothing else is asked for
TILE = 144  # edge of the parts that are in memory at once, voxels of the comparison; whole cells
CELLS = 400_000  # cells of the map of local correlation
SURVEY = 100_000  # voxels that set the limits of the histograms
BINS = 48  # of each image in a joint histogram
MOST_BLOCKS = 4096  # with more blocks, their mutual information is left out: 9 kB each
WINDOW = 3  # cells along each axis of the window of local correlation
VOXELS = 9**3  # of a window, at least, in a plane as in a volume: fewer are alike, or not, by chance
COVERED = 0.5  # share of a window that must lie inside both images
TEXTURE = 0.1  # a window says something when both images vary in it by this part of their own deviation
WORSE = 0.1  # fall of local correlation that counts

STATES = ("affine", "final")
LOCAL = ("local_ncc_affine_median", "local_ncc_median", "local_ncc_p5", "local_ncc_worse_fraction")


@dataclass(frozen=True)
class Likeness:
    """What `compare_images` found.

    Parameters
    ----------
    values
        Numbers of the whole: ``ncc_affine``, ``ncc``, ``ncc_gain``, ``mutual_information_affine``,
        ``mutual_information``, ``mutual_information_gain`` (nats), ``covered_fraction``, ``comparison_spacing_um``;
        and of the absolute local correlations (tissue may show with inverted contrast and yet be aligned)
        ``local_ncc_affine_median``, ``local_ncc_median``, ``local_ncc_p5``, ``local_ncc_worse_fraction``.
    blocks
        By name of a block: ``voxels`` compared, ``ncc_affine``, ``ncc``, ``mutual_information_affine``,
        ``mutual_information``, and of the windows whose middle lies in it those of the local correlations.
    cells
        Grid of the maps.
    local_ncc_affine, local_ncc
        Correlation in a window of `WINDOW` cells around each cell, (z, y, x) float32; NaN where the window lies
        outside of an image, or shows nothing.
    content
        Which cells of the fixed image show something, (z, y, x) bool.
    """

    values: dict[str, float]
    blocks: dict[str, dict[str, float]]
    cells: Grid
    local_ncc_affine: np.ndarray
    local_ncc: np.ndarray
    content: np.ndarray


def comparison_grid(image: Grid, spacing: float | None = None) -> Grid:
    """The grid on which a registration is compared.

    Parameters
    ----------
    image
        Grid of the fixed image.
    spacing
        Voxel size, um; None for the image's largest, coarsened to about `SAMPLES` voxels where there are more than
        twice as many. An axis of one voxel keeps its own.
    """
    deep = np.asarray(image.shape) > 1
    if not deep.any():
        return image
    if spacing is None:
        spacing = max(s for s, d in zip(image.spacing, deep, strict=True) if d)
        voxels = np.prod(image.extent[deep] / spacing)
        spacing *= float((voxels / SAMPLES) ** (1 / deep.sum())) if voxels > 2 * SAMPLES else 1.0
    z, y, x = (float(v) for v in np.where(deep, spacing, image.spacing))
    return image.resample((z, y, x))


def compare_images(
    fixed: tuple[Image, int],
    moving: tuple[Image, int],
    affine: Sequence,
    transform: Sequence,
    grid: Grid,
    plan: Mapping[str, Any] | None,
    background: float,
) -> Likeness:
    """Compare the fixed image with the moving one under the affine alone and under the whole transform.

    Both images are read part by part, antialiased, from the pyramid level that suits the comparison's voxel size;
    memory does not depend on the size of the images. Voxels that both transforms send into the moving image count, where
    tiles cover them and both images are finite.

    Parameters
    ----------
    fixed, moving
        Image and index of its channel.
    affine, transform
        Maps from the fixed to the moving space.
    grid
        Where to compare: `comparison_grid`.
    plan
        Of the stage whose blocks are judged one by one, as `weft.registration.plan.plan_stage` makes it; None for none.
    background
        Value of the fixed image above which a voxel shows something.
    """
    limits = [_limits(*image) for image in (fixed, moving)]
    blocks = blocks_along_axes(plan, grid)
    deep = max(2, sum(n > 1 for n in grid.shape))
    edge = max(math.ceil((grid.size / CELLS) ** (1 / deep)), round(VOXELS ** (1 / deep) / WINDOW))
    cells = grid.coarsen(tuple(min(edge, n) for n in grid.shape))
    moments = np.zeros((len(STATES), 6, *cells.shape), np.float32)
    bright = np.zeros(cells.shape, np.float32)
    sums: dict[tuple[str, str], _PairSums] = {}
    detailed = plan is None or len(plan["ids"]) <= MOST_BLOCKS
    whole = {state: _PairSums(BINS) for state in STATES}
    for part in _tiles(grid.shape, TILE // edge * edge):
        there = grid.crop(part)
        one = _standardised(read_at(*fixed, there), limits[0])
        pulled = pull_image(*moving, (affine, transform), grid, there)
        two = {state: _standardised(found, limits[1]) for state, found in zip(STATES, pulled, strict=True)}
        inside = np.isfinite(two["affine"]) & np.isfinite(two["final"])
        inside &= np.isfinite(one)
        covered = fixed[0].covered(there)
        if covered is not None:
            inside &= covered
        place = box([p.start // edge for p in part], [-(-p.stop // edge) for p in part])
        for n, state in enumerate(STATES):
            moments[(n, slice(None), *place)] += _moments(one, two[state], inside, edge)
        level = (background - limits[0][0]) / (limits[0][1] - limits[0][0])
        bright[place] += _cell_sums((one > level).astype(np.float32), edge)
        for state in STATES:
            for name, within in within_blocks(blocks, part):
                valid = inside[within]
                pair = (one[within][valid], two[state][within][valid])
                whole[state].add(*pair)
                if plan is not None:
                    sums.setdefault((name, state), _PairSums(BINS // 2 if detailed else 0)).add(*pair)
    sizes = _cell_sizes(grid, edge)
    before, after = (_local_ncc(moments[n], sizes) for n in range(len(STATES)))
    share = np.isfinite(before) & np.isfinite(after)
    before, after = (np.where(share, found, np.float32(np.nan)) for found in (before, after))
    values = {
        "ncc_affine": whole["affine"].ncc,
        "ncc": whole["final"].ncc,
        "ncc_gain": whole["final"].ncc - whole["affine"].ncc,
        "mutual_information_affine": whole["affine"].mutual_information,
        "mutual_information": whole["final"].mutual_information,
        "mutual_information_gain": whole["final"].mutual_information - whole["affine"].mutual_information,
        "covered_fraction": whole["final"].count / grid.size,
        "comparison_spacing_um": deep_spacing(grid),
        **_summarise(np.abs(before), np.abs(after)),
    }
    names = [] if plan is None else plan["ids"]
    empty = _PairSums(0)
    everywhere = box((0, 0, 0), cells.shape)
    local = {
        name: _summarise(np.abs(before[within]), np.abs(after[within]))
        for name, within in within_blocks(blocks_along_axes(plan, cells), everywhere)
    }
    return Likeness(
        values,
        {
            name: {
                **_block_row(*(sums.get((name, state), empty) for state in STATES)),
                **{key: local.get(name, {}).get(key, math.nan) for key in LOCAL},
            }
            for name in names
        },
        cells,
        before,
        after,
        bright > 0.5 * sizes,
    )


def worst_regions(likeness: Likeness, plan: Mapping[str, Any] | None, most: int = 10) -> list[dict[str, Any]]:
    """The places of the weakest local correlation (of either sign) after registration, worst first, two windows apart.

    Returns
    -------
    list of dict
        ``region`` (1, 2, ...), ``z_um``, ``y_um``, ``x_um`` (centre of the window), ``local_ncc_affine``, ``local_ncc``, and
        ``block`` (name of the stage's block, or empty).
    """
    left = np.where(np.isfinite(likeness.local_ncc), np.abs(likeness.local_ncc), np.inf)
    rows: list[dict[str, Any]] = []
    while len(rows) < most:
        at = np.unravel_index(int(np.argmin(left)), left.shape)
        if not np.isfinite(left[at]):
            break
        point = likeness.cells.to_physical(at)
        rows.append(
            {
                "region": len(rows) + 1,
                **{f"{axis}_um": float(v) for axis, v in zip("zyx", point, strict=True)},
                "local_ncc_affine": float(likeness.local_ncc_affine[at]),
                "local_ncc": float(likeness.local_ncc[at]),
                "block": "" if plan is None else block_at(plan, point),
            }
        )
        left[tuple(slice(max(0, i - 2 * WINDOW + 1), i + 2 * WINDOW) for i in at)] = np.inf
    return rows


# ---------------------------------------------------------------------- sums
@dataclass
class _PairSums:
    """Sums over pairs of voxels, from which correlation and mutual information follow; they can be added to."""

    bins: int
    count: int = 0
    moments: np.ndarray = field(default_factory=lambda: np.zeros(5))
    joint: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        self.joint = np.zeros((self.bins, self.bins), np.int64 if self.bins == BINS else np.int32)

    def add(self, one: np.ndarray, two: np.ndarray) -> None:
        self.count += one.size
        a, b = one.astype(np.float64), two.astype(np.float64)
        self.moments += [a.sum(), b.sum(), (a * a).sum(), (b * b).sum(), (a * b).sum()]
        if self.bins:
            index = _bin(one, self.bins) * self.bins + _bin(two, self.bins)
            found = np.bincount(index, minlength=self.bins**2)
            self.joint += found.reshape(self.joint.shape).astype(self.joint.dtype)

    @property
    def ncc(self) -> float:
        if not self.count:
            return math.nan
        a, b, aa, bb, ab = self.moments / self.count
        scale = (aa - a * a) * (bb - b * b)
        return float((ab - a * b) / math.sqrt(scale)) if scale > 1e-18 else math.nan

    @property
    def mutual_information(self) -> float:
        total = int(self.joint.sum())
        if not total:
            return math.nan
        share = self.joint / total
        apart = share.sum(1, keepdims=True) * share.sum(0, keepdims=True)
        seen = share > 0
        return float((share[seen] * np.log(share[seen] / apart[seen])).sum())


def _bin(values: np.ndarray, bins: int) -> np.ndarray:
    """Bin of each value; those beyond the limits of the display fall into the outermost ones."""
    return np.clip((values * bins).astype(np.int64), 0, bins - 1)


def _block_row(before: _PairSums, after: _PairSums) -> dict[str, float]:
    return {
        "voxels": float(after.count),
        "ncc_affine": before.ncc,
        "ncc": after.ncc,
        "mutual_information_affine": before.mutual_information,
        "mutual_information": after.mutual_information,
    }


def _moments(one: np.ndarray, two: np.ndarray, inside: np.ndarray, edge: int) -> np.ndarray:
    """Count, sums, squares and product of both images in each cell, (6, z, y, x) float32."""
    a, b = (np.where(inside, v, np.float32(0)) for v in (one, two))
    parts: tuple[Callable[[], np.ndarray], ...] = (
        lambda: inside.astype(np.float32), lambda: a, lambda: b, lambda: a * a, lambda: b * b, lambda: a * b,
    )  # fmt: skip
    return np.stack([_cell_sums(part(), edge) for part in parts])


def _cell_sums(values: np.ndarray, edge: int) -> np.ndarray:
    for axis in range(3):
        values = np.add.reduceat(values, np.arange(0, values.shape[axis], edge), axis=axis)
    return values


def _cell_sizes(grid: Grid, edge: int) -> np.ndarray:
    """Number of voxels in each cell."""
    z, y, x = (np.add.reduceat(np.ones(n), np.arange(0, n, edge)) for n in grid.shape)
    return z[:, None, None] * y[:, None] * x


def _local_ncc(moments: np.ndarray, sizes: np.ndarray) -> np.ndarray:
    """Correlation in windows of cells of so many voxels, (z, y, x) float32; NaN where a window says nothing."""
    count, a, b, aa, bb, ab = (
        uniform_filter(part.astype(np.float64), WINDOW, mode="constant") for part in moments
    )
    full = uniform_filter(sizes, WINDOW, mode="constant")
    n = np.maximum(count, 1e-12)
    variance_a, variance_b = aa / n - (a / n) ** 2, bb / n - (b / n) ** 2
    total = moments.sum(axis=(1, 2, 3), dtype=np.float64)
    least_a, least_b = (
        TEXTURE**2 * (total[square] / max(total[0], 1) - (total[mean] / max(total[0], 1)) ** 2)
        for mean, square in ((1, 3), (2, 4))
    )
    says = (count >= COVERED * full) & (variance_a > max(least_a, 1e-12)) & (variance_b > max(least_b, 1e-12))
    scale = np.sqrt(np.where(says, variance_a * variance_b, 1.0))
    return np.where(says, np.clip((ab / n - a * b / n**2) / scale, -1, 1), np.nan).astype(np.float32)


def _summarise(before: np.ndarray, after: np.ndarray) -> dict[str, float]:
    known = np.isfinite(after)
    if not known.any():
        return dict.fromkeys(LOCAL, math.nan)
    return {
        "local_ncc_affine_median": float(np.median(before[known])),
        "local_ncc_median": float(np.median(after[known])),
        "local_ncc_p5": float(np.percentile(after[known], 5)),
        "local_ncc_worse_fraction": float(np.mean(after[known] < before[known] - WORSE)),
    }


# ---------------------------------------------------------------------- reading
def _limits(image: Image, channel: int) -> tuple[float, float]:
    """The 0.5 and 99.5 % quantiles of what is finite of a coarse view of an image, never equal."""
    values = read_at(image, channel, _survey_grid(image.grid)).astype(np.float64)
    values = values[np.isfinite(values)]
    low, high = (float(v) for v in np.percentile(values, [0.5, 99.5])) if values.size else (0.0, 0.0)
    return (low, high) if high > low else (low, low + 1.0)


def _survey_grid(grid: Grid) -> Grid:
    deep = np.asarray(grid.shape) > 1
    if grid.size <= SURVEY or not deep.any():
        return grid
    least = float((np.prod(grid.extent[deep]) / SURVEY) ** (1 / deep.sum()))
    z, y, x = (float(max(s, least)) if d else float(s) for s, d in zip(grid.spacing, deep, strict=True))
    return grid.resample((z, y, x))


def _standardised(values: np.ndarray, limits: tuple[float, float]) -> np.ndarray:
    """Values so that the limits become 0 and 1, float32: sums of squares then keep their digits."""
    low, high = limits
    return ((values.astype(np.float32) - np.float32(low)) / np.float32(high - low)).astype(np.float32)


def _tiles(shape: tuple[int, int, int], edge: int) -> Iterator[Region]:
    for name in cut(shape, (edge,) * 3):
        z, y, x = region_of(name, shape, (edge,) * 3)
        yield z, y, x
