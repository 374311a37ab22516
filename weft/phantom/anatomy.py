"""The phantom's brain: a procedural function of atlas coordinates, evaluated wherever it is asked for.

Tissue is the union of two rounded boxes (a cerebrum and a trunk below it), mirrored about the midline.
Its leaf regions are the cells of a power diagram, with small nuclei nested in them and a ventricle along
the midline; left and right carry the same ids. Vessels are where two smooth random fields vanish together.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numba
import numpy as np

from weft.grid import Grid
from weft.phantom.settings import PhantomSettings

DIVISIONS = 44  # leaf regions that tile the tissue
NUCLEI = 20  # small regions nested in them
REGIONS = DIVISIONS + NUCLEI + 1  # the last one is the ventricle
MARGIN = 8  # atlas voxels around the tissue
TEXTURE_SPACINGS = (8.0, 8.0, 4.0, 2.0)  # control spacing of the random fields, registration voxels
# Folds of the surface, registration voxels. Without them nothing tells how far the outermost tissue slides
# along a smooth surface, whose edge outshines the texture below it.
RELIEF = 1.6
UNIT_VARIANCE = 0.4794 ** (
    -1.5
)  # makes the variance of a cubic spline of white coefficients one (mean over phase)


class Anatomy(NamedTuple):
    """Parameters of the brain, in um of the atlas, (z, y, x); what the kernels read.

    Leaf region ``k`` (0 .. REGIONS - 1) is named by its index here; `weft.phantom.ontology` gives the ids.
    """

    unit: float  # registration voxel
    cerebrum: np.ndarray  # (3, 3) centre, half axes and their inverse
    trunk: np.ndarray  # (3, 3)
    ventricle: np.ndarray  # (3, 3)
    seeds: np.ndarray  # (4, DIVISIONS) z, y, |x - midline|, weight (um^2)
    nuclei: np.ndarray  # (4, NUCLEI) z, y, |x - midline|, squared radius
    level: np.ndarray  # (REGIONS,) brightness in the atlas
    vessel_a: np.ndarray  # spline coefficients of the random fields
    vessel_b: np.ndarray
    coarse: np.ndarray
    fine: np.ndarray


@numba.njit(cache=True, nogil=True, inline="always")
def spline_weights(t):
    """The four cubic B-spline weights at fraction ``t`` of an interval."""
    s = 1.0 - t
    return (
        s * s * s / 6.0,
        (3.0 * t * t * t - 6.0 * t * t + 4.0) / 6.0,
        (3.0 * s * s * s - 6.0 * s * s + 4.0) / 6.0,
        t * t * t / 6.0,
    )


@numba.njit(forceinline=True, cache=True, nogil=True, fastmath=True)
def random_field(coefficients, spacing, z, y, x):
    """Cubic B-spline of a coefficient lattice that starts 4 spacings before the origin (held at its ends)."""
    nz, ny, nx = coefficients.shape
    z = min(max(z / spacing + 4.0, 1.0), nz - 3.0)
    y = min(max(y / spacing + 4.0, 1.0), ny - 3.0)
    x = min(max(x / spacing + 4.0, 1.0), nx - 3.0)
    iz, iy, ix = int(z), int(y), int(x)
    wz, wy, wx = spline_weights(z - iz), spline_weights(y - iy), spline_weights(x - ix)
    total = 0.0
    for a in range(4):
        plane = 0.0
        for b in range(4):
            row = coefficients[iz + a - 1, iy + b - 1]
            plane += wy[b] * (
                wx[0] * row[ix - 1] + wx[1] * row[ix] + wx[2] * row[ix + 1] + wx[3] * row[ix + 2]
            )
        total += wz[a] * plane
    return total


@numba.njit(cache=True, nogil=True)
def _rounded_box(box, z, y, x):
    """Radius of a point relative to the surface (1) of a superellipsoid of fourth order."""
    a, b, c = (z - box[0, 0]) * box[2, 0], (y - box[0, 1]) * box[2, 1], (x - box[0, 2]) * box[2, 2]
    a, b, c = a * a, b * b, c * c
    return math.sqrt(math.sqrt(a * a + b * b + c * c))


@numba.njit(cache=True, nogil=True)
def depth_at(anatomy, z, y, x):
    """Approximate depth below the smooth surface, um; negative outside."""
    cerebrum = (1.0 - _rounded_box(anatomy.cerebrum, z, y, x)) * anatomy.cerebrum[1, 1]
    trunk = (1.0 - _rounded_box(anatomy.trunk, z, y, x)) * anatomy.trunk[1, 2]
    return max(cerebrum, trunk)


@numba.njit(forceinline=True, cache=True, nogil=True, fastmath={"reassoc", "contract"})
def _nearest(sites, limit, z, y, x):
    """Site of the least power distance below ``limit``, else -1; ``sites`` is (4, n): position and weight."""
    best = limit
    found = -1
    for k in range(sites.shape[1]):
        dz, dy, dx = z - sites[0, k], y - sites[1, k], x - sites[2, k]
        distance = dz * dz + dy * dy + dx * dx - sites[3, k]
        if distance < best:
            best = distance
            found = k
    return found


@numba.njit(cache=True, nogil=True)
def anatomy_at(anatomy, z, y, x):
    """Region and brightness of a point.

    Returns
    -------
    region : int
        Leaf region, or -1 outside the tissue.
    brightness : float
        Of the atlas, about 0 .. 1.5, before the edge's fading.
    presence : float
        0 outside, 1 inside, a ramp of one registration voxel at the surface.
    """
    unit = anatomy.unit
    depth = depth_at(anatomy, z, y, x)
    if depth < -3.5 * RELIEF * unit:
        return -1, 0.0, 0.0
    a = random_field(anatomy.vessel_a, 8.0 * unit, z, y, x)
    b = random_field(anatomy.vessel_b, 8.0 * unit, z, y, x)
    depth += RELIEF * unit * min(3.0, max(-3.0, a + b))
    presence = min(1.0, max(0.0, depth / unit + 0.5))
    if presence <= 0.0:
        return -1, 0.0, 0.0

    # borders are curved by the same random fields, mirrored halves by each its own stretch of them
    qz = z + 1.2 * unit * a
    qy = y + 1.2 * unit * b
    side = x - anatomy.cerebrum[0, 2] + 0.8 * unit * (a - b)
    qx = abs(side)

    region = -1
    if _rounded_box(anatomy.ventricle, qz, qy, anatomy.cerebrum[0, 2] + side) < 1.0:
        region = DIVISIONS + NUCLEI
    if region < 0:
        region = _nearest(anatomy.nuclei, 0.0, qz, qy, qx)
        region = region + DIVISIONS if region >= 0 else _nearest(anatomy.seeds, np.inf, qz, qy, qx)

    coarse = random_field(anatomy.coarse, 4.0 * unit, z, y, x)
    fine = random_field(anatomy.fine, 2.0 * unit, z, y, x)
    vessel = math.exp(-(a * a + b * b) / 0.04)
    brightness = anatomy.level[region] + 0.09 * coarse + 0.08 * fine + 0.45 * vessel
    return (region if depth > 0.0 else -1), max(0.02, brightness), presence


@numba.njit(cache=True, nogil=True)
def regions_at(anatomy, points):
    """Leaf region, (n,) int32 (-1: outside), of points, (n, 3) um of the atlas."""
    found = np.empty(points.shape[0], np.int32)
    for i in range(points.shape[0]):
        found[i] = anatomy_at(anatomy, points[i, 0], points[i, 1], points[i, 2])[0]
    return found


@numba.njit(cache=True, nogil=True)
def atlas_plane(anatomy, origin, spacing, plane, template, regions):
    """Fill one plane of the atlas: brightness averaged over 4 points (a tetrahedron) of a voxel,
    region at its centre."""
    for j in range(template.shape[0]):
        for i in range(template.shape[1]):
            z = origin[0] + plane * spacing
            y = origin[1] + j * spacing
            x = origin[2] + i * spacing
            regions[j, i] = anatomy_at(anatomy, z, y, x)[0]
            total = 0.0
            for corner in range(4):
                dz = 0.25 * spacing if corner < 2 else -0.25 * spacing
                dy = 0.25 * spacing if corner & 1 else -0.25 * spacing
                dx = 0.25 * spacing if corner == 0 or corner == 3 else -0.25 * spacing
                _, brightness, presence = anatomy_at(anatomy, z + dz, y + dy, x + dx)
                total += brightness * presence
            template[j, i] = total / 4.0


def make_anatomy(settings: PhantomSettings, rng: np.random.Generator) -> tuple[Anatomy, Grid]:
    """Draw a brain that fits the scan, and the atlas grid around it.

    Returns
    -------
    anatomy
        Parameters for the kernels.
    grid
        Of the atlas: isotropic, origin (0, 0, 0).
    """
    unit = settings.registration_voxel
    depth, height, width = settings.frame
    grain = min(unit, 0.006 * width)  # small structures keep their place in a scan of few voxels
    # proportions that leave the scan's last cell (lower right) empty: a wide cerebrum above a narrow trunk
    half = np.array([0.42 * depth, 0.255 * height, 0.375 * width])
    centre = np.array([half[0], half[1], half[2]]) + MARGIN * unit
    trunk_half = np.array([0.33 * depth, 0.25 * height, 0.13 * width])
    trunk_centre = centre + np.array([0.0, 0.345 * height, 0.0])
    upper = np.array([centre[0] + half[0], trunk_centre[1] + trunk_half[1], centre[2] + half[2]])
    nz, ny, nx = (int(n) for n in np.ceil(upper / unit) + MARGIN)
    grid = Grid((nz, ny, nx), (unit,) * 3)

    ventricle = _box(
        centre - [0.0, 0.25 * half[1], 0.0], np.array([0.62 * half[0], 5.5 * grain, 4.5 * grain])
    )
    lattices = [tuple(int(n / s) + 10 for n in grid.shape) for s in TEXTURE_SPACINGS]
    fields = [(UNIT_VARIANCE * rng.standard_normal(n)).astype(np.float32) for n in lattices]
    # levels are spread evenly and shuffled: neighbours differ, and every seed has the same contrast
    level = np.concatenate([rng.permutation(np.linspace(0.42, 0.82, DIVISIONS)), np.zeros(NUCLEI), [0.22]])
    blank = Anatomy(
        unit=float(unit),
        cerebrum=_box(centre, half),
        trunk=_box(trunk_centre, trunk_half),
        ventricle=ventricle,
        seeds=np.zeros((4, 0)),
        nuclei=np.zeros((4, 0)),
        level=level,
        vessel_a=fields[0],
        vessel_b=fields[1],
        coarse=fields[2],
        fine=fields[3],
    )
    seeds = _spread(blank, grid, rng, DIVISIONS, apart=0.0, below=2.0 * grain)
    nuclei = _spread(blank, grid, rng, NUCLEI, apart=7.0 * grain, below=8.0 * grain)
    radius = grain * rng.permutation(np.linspace(4.0, 5.7, NUCLEI))
    host = np.array([np.argmin(((seeds - n) ** 2).sum(axis=1)) for n in nuclei])
    level[DIVISIONS : DIVISIONS + NUCLEI] = np.where(
        level[host] > 0.62, level[host] - 0.28, level[host] + 0.28
    )
    weight = (4.0 * grain) ** 2 * rng.uniform(-1.0, 1.0, DIVISIONS)
    anatomy = blank._replace(
        seeds=np.vstack([seeds.T, weight]), nuclei=np.vstack([nuclei.T, radius**2]), level=level
    )
    return anatomy, grid


def _box(centre: np.ndarray, half: np.ndarray) -> np.ndarray:
    return np.stack([centre, half, 1.0 / half])


def _spread(anatomy, grid: Grid, rng, count: int, *, apart: float, below: float) -> np.ndarray:
    """Points, (count, 3) um (z, y, |x - midline|), in one half of the tissue, each far from those before.

    ``apart`` keeps them from the midline and ``below`` from the surface (um). Of up to 60 candidates the one
    farthest from its nearest predecessor is taken (Mitchell's best candidate, SIGGRAPH 1991).
    """
    midline = anatomy.cerebrum[0, 2]
    candidates = rng.uniform(0.0, np.asarray(grid.upper), (40_000, 3))
    inside = np.array([depth_at(anatomy, *point) > below for point in candidates])
    candidates = candidates[inside & (candidates[:, 2] - midline >= apart)] - [0.0, 0.0, midline]
    if len(candidates) < count:
        raise ValueError(f"phantom: no room for {count} regions; a larger scan is wanted")
    batches = np.array_split(candidates[: 60 * count], count)
    chosen = [batches[0][0]]
    for batch in batches[1:]:
        gaps = np.min(np.linalg.norm(batch[:, None] - np.array(chosen)[None], axis=2), axis=1)
        chosen.append(batch[np.argmax(gaps)])
    return np.array(chosen)
