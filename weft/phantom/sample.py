"""The phantom's sample: what the light-sheet would see at a point, before camera and objective."""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np

from weft.phantom.anatomy import DIVISIONS, NUCLEI, REGIONS, Anatomy, anatomy_at, spline_weights
from weft.phantom.deformation import Deformation, to_sample
from weft.phantom.settings import PhantomSettings

INVERTED = 0.15  # share of the divisions whose inner contrast is inverted
PATTERN_PERIODS = (5.0, 7.0, 7.0)  # of the repeated texture, voxels (z, y, x)
CELL_SIGMA = (0.7, 1.1, 1.1)  # of a cell, voxels (z, y, x), as long as that is above CELL_RADIUS
CELL_RADIUS = 8.0  # um


class Contrast(NamedTuple):
    """How the sample's brightness follows from the atlas's, and what is laid over it."""

    level: np.ndarray  # (REGIONS,) brightness of a region where the atlas shows its own level
    slope: np.ndarray  # (REGIONS,) negative: inverted
    curvature: np.ndarray  # (REGIONS,)
    second: np.ndarray  # (REGIONS,) factor of a region in the second channel
    bias: np.ndarray  # (3, 3) amplitude, waves per um and phase of the slow bias along z, y, x
    pattern: np.ndarray  # (2, 3) lower and upper corner, um, of the box with repeated texture
    period: np.ndarray  # (3,) um
    grain: float  # um, size of the sample's own grain
    seed: int


class Cells(NamedTuple):
    """Labelled cells, sorted by z."""

    sample: np.ndarray  # (n, 3) um of the sample
    atlas: np.ndarray  # (n, 3) um of the atlas
    region: np.ndarray  # (n,) index of the leaf region
    brightness: np.ndarray  # (n,) relative to the brightness of tissue
    sigma: np.ndarray  # (3,) um


def make_contrast(settings: PhantomSettings, anatomy: Anatomy, rng: np.random.Generator) -> Contrast:
    """Draw the sample's contrast: non-linear, another in every region, with a slow bias and one repeated texture."""
    slope = rng.uniform(0.7, 1.3, REGIONS)
    inverted = rng.choice(DIVISIONS, round(INVERTED * DIVISIONS), replace=False)
    slope[inverted] *= -1.0
    level = 0.2 + 0.75 * anatomy.level**1.4 + rng.uniform(-0.04, 0.04, REGIONS)
    level[DIVISIONS + NUCLEI] = 0.15
    spacing, frame = np.asarray(settings.spacing), np.asarray(settings.frame)
    bias = np.stack([[0.08, 0.12, 0.12], 1.0 / (1.3 * frame), rng.uniform(0.0, 1.0, 3)])
    # the overlap of the first two tiles of the middle row, and the widest that jitter can make it
    row = settings.rows // 2
    lower = np.array([-np.inf, row * settings.step, settings.step - settings.jitter]) * spacing
    upper = (
        np.array([np.inf, row * settings.step + settings.pixels, settings.pixels + settings.jitter]) * spacing
    )
    return Contrast(
        level=level,
        slope=slope,
        curvature=rng.uniform(-0.6, 0.6, REGIONS),
        second=rng.uniform(0.8, 1.2, REGIONS),
        bias=bias,
        pattern=np.stack([lower, upper]),
        period=np.array(PATTERN_PERIODS) * spacing,
        grain=0.7 * settings.registration_voxel,
        seed=int(rng.integers(2**31)),
    )


def make_cells(
    settings: PhantomSettings,
    anatomy: Anatomy,
    deformation: Deformation,
    upper: np.ndarray,
    rng: np.random.Generator,
) -> Cells:
    """Draw cells in the atlas's tissue, denser in some regions, and carry them to the sample exactly."""
    density = rng.uniform(0.2, 1.0, REGIONS)
    found: list[np.ndarray] = []
    regions: list[np.ndarray] = []
    while sum(map(len, found)) < settings.cells:
        points = rng.uniform(0.0, upper, (20_000, 3))
        region = _regions(anatomy, points)
        kept = (region >= 0) & (rng.uniform(0.0, 1.0, len(points)) < density[region])
        found.append(points[kept])
        regions.append(region[kept])
    atlas = np.concatenate(found)[: settings.cells]
    region = np.concatenate(regions)[: settings.cells]
    sample, _ = to_sample(deformation, atlas)
    order = np.argsort(sample[:, 0], kind="stable")
    brightness = np.exp(rng.normal(0.6, 0.35, settings.cells))
    sigma = np.maximum(CELL_RADIUS, np.array(CELL_SIGMA) * settings.spacing)
    return Cells(sample[order], atlas[order], region[order], brightness, sigma)


@numba.njit(cache=True, nogil=True)
def _regions(anatomy, points):
    found = np.empty(points.shape[0], np.int64)
    for i in range(points.shape[0]):
        found[i] = anatomy_at(anatomy, points[i, 0], points[i, 1], points[i, 2])[0]
    return found


@numba.njit(cache=True, nogil=True, inline="always")
def _hash(seed, z, y, x):
    """A number in -1 .. 1 that looks random, of three integers (mixer of splitmix64)."""
    h = np.uint64(seed)
    h = (h ^ np.uint64(z)) * np.uint64(0x9E3779B97F4A7C15)
    h = (h ^ (h >> np.uint64(29)) ^ np.uint64(y)) * np.uint64(0xBF58476D1CE4E5B9)
    h = (h ^ (h >> np.uint64(32)) ^ np.uint64(x)) * np.uint64(0x94D049BB133111EB)
    h = h ^ (h >> np.uint64(31))
    return np.float64(h >> np.uint64(11)) * (2.0 / 9007199254740992.0) - 1.0


@numba.njit(cache=True, nogil=True)
def _grain(seed, spacing, z, y, x):
    """Value noise: random values at the corners of a lattice, linearly interpolated."""
    z, y, x = z / spacing + 1024.0, y / spacing + 1024.0, x / spacing + 1024.0
    iz, iy, ix = int(z), int(y), int(x)
    fz, fy, fx = z - iz, y - iy, x - ix
    total = 0.0
    for a in range(2):
        wz = fz if a else 1.0 - fz
        for b in range(2):
            wy = fy if b else 1.0 - fy
            left, right = _hash(seed, iz + a, iy + b, ix), _hash(seed, iz + a, iy + b, ix + 1)
            total += wz * wy * (left + fx * (right - left))
    return total


@numba.njit(cache=True, nogil=True)
def _wave(contrast, axis, position):
    amplitude, frequency, phase = contrast.bias[0, axis], contrast.bias[1, axis], contrast.bias[2, axis]
    return 1.0 + amplitude * math.sin(2.0 * math.pi * (frequency * position + phase))


@numba.njit(cache=True, nogil=True)
def _inside(contrast, axis, position):
    """1 in the box of the repeated texture, falling to 0 over a period beyond it."""
    low, high, soft = contrast.pattern[0, axis], contrast.pattern[1, axis], contrast.period[axis]
    return min(1.0, max(0.0, 1.0 + (position - low) / soft), max(0.0, 1.0 + (high - position) / soft))


@numba.njit(cache=True, nogil=True)
def sample_plane(anatomy, deformation, contrast, origin, spacing, plane, signal, regions):
    """Fill one plane of the sample at its true place, without cells.

    Parameters
    ----------
    origin
        Sample point of voxel (0, 0, 0), um.
    spacing
        Voxel size, um, (z, y, x).
    plane
        Index of the plane.
    signal
        (2, y, x) float32 output: relative brightness of both channels (tissue is about 0.2 .. 1).
    regions
        (y, x) int32 output: index of the leaf region, -1 outside the tissue.
    """
    d = deformation
    z = origin[0] + plane * spacing[0]
    bias_z, box_z = _wave(contrast, 0, z), math.sin(2.0 * math.pi * z / contrast.period[0])
    control = np.empty((3, d.lattice.shape[3]))
    uz = min(max((z - d.origin[0]) / d.spacing, 1.0), d.lattice.shape[1] - 3.0)
    kz = int(uz)
    wz = spline_weights(uz - kz)
    for j in range(regions.shape[0]):
        y = origin[1] + j * spacing[1]
        bias_y, box_y = (
            bias_z * _wave(contrast, 1, y),
            box_z + math.sin(2.0 * math.pi * y / contrast.period[1]),
        )
        in_row = _inside(contrast, 1, y)
        # z and y are the same along a row: what is left of the spline is one-dimensional
        uy = min(max((y - d.origin[1]) / d.spacing, 1.0), d.lattice.shape[2] - 3.0)
        ky = int(uy)
        wy = spline_weights(uy - ky)
        for c in range(3):
            for k in range(control.shape[1]):
                total = 0.0
                for a in range(4):
                    for b in range(4):
                        total += wz[a] * wy[b] * d.lattice[c, kz + a - 1, ky + b - 1, k]
                control[c, k] = total
        for i in range(regions.shape[1]):
            x = origin[2] + i * spacing[2]
            ux = min(max((x - d.origin[2]) / d.spacing, 1.0), control.shape[1] - 3.0)
            kx = int(ux)
            w0, w1, w2, w3 = spline_weights(ux - kx)
            at = [0.0, 0.0, 0.0]
            for c in range(3):
                at[c] = (
                    w0 * control[c, kx - 1]
                    + w1 * control[c, kx]
                    + w2 * control[c, kx + 1]
                    + w3 * control[c, kx + 2]
                )
                at[c] += d.inverse_shift[c] + d.inverse_linear[c, 0] * z
                at[c] += d.inverse_linear[c, 1] * y + d.inverse_linear[c, 2] * x
            region, brightness, presence = anatomy_at(anatomy, at[0], at[1], at[2])
            regions[j, i] = region
            signal[0, j, i] = 0.0
            signal[1, j, i] = 0.0
            if presence <= 0.0:
                continue
            named = max(region, 0)
            apart = brightness - anatomy.level[named]
            value = contrast.level[named] + contrast.slope[named] * apart
            value += contrast.curvature[named] * apart * apart
            value += 0.07 * _grain(contrast.seed, contrast.grain, at[0], at[1], at[2])
            window = in_row * _inside(contrast, 2, x)
            if window > 0.0:
                value += 0.12 * window * (box_y + math.sin(2.0 * math.pi * x / contrast.period[2]))
            value = presence * bias_y * _wave(contrast, 2, x) * max(value, 0.05)
            signal[0, j, i] = value
            signal[1, j, i] = 0.6 * contrast.second[named] * value


@numba.njit(cache=True, nogil=True)
def add_cells(positions, brightness, sigma, origin, spacing, plane, signal):
    """Add the Gaussian spots of cells, (n, 3) um and (n,), to one channel's plane, (y, x) float32."""
    z = origin[0] + plane * spacing[0]
    for n in range(positions.shape[0]):
        dz = (positions[n, 0] - z) / sigma[0]
        if abs(dz) > 4.0:
            continue
        peak = brightness[n] * math.exp(-0.5 * dz * dz)
        cy, cx = (positions[n, 1] - origin[1]) / spacing[1], (positions[n, 2] - origin[2]) / spacing[2]
        ry, rx = 4.0 * sigma[1] / spacing[1], 4.0 * sigma[2] / spacing[2]
        for j in range(max(0, math.ceil(cy - ry)), min(signal.shape[0], math.floor(cy + ry) + 1)):
            for i in range(max(0, math.ceil(cx - rx)), min(signal.shape[1], math.floor(cx + rx) + 1)):
                dy, dx = (j - cy) * spacing[1] / sigma[1], (i - cx) * spacing[2] / sigma[2]
                signal[j, i] += peak * math.exp(-0.5 * (dy * dy + dx * dx))
