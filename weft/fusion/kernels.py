"""Fusion's inner loops: sample a tile, mix it in, round; on a few planes at a time, which stay in the cache."""

from __future__ import annotations

import math

import numba
import numpy as np

LINEAR, SINUSOIDAL, MEAN, NEAREST, MAX = range(5)


@numba.njit(cache=True, nogil=True, fastmath={"contract"}, forceinline=True)
def _mix_row(out, mix, whole, values, side, tent, blend):
    """Mix the samples ``values`` of one row into ``out``; ``side * tent`` is the distance from the tile's border."""
    one = np.float32(1.0)
    if blend == LINEAR:
        for x in range(values.size):
            w = side * tent[x]
            out[x] += w * values[x]
            mix[x] += w
    elif blend == SINUSOIDAL:
        for x in range(values.size):
            s = np.float32(math.sin(np.float32(0.5 * math.pi) * (side * tent[x] / whole[x])))
            out[x] += s * s * values[x]
            mix[x] += s * s
    elif blend == MEAN:
        for x in range(values.size):
            out[x] += values[x]
            mix[x] += one
    elif blend == NEAREST:
        for x in range(values.size):
            w = side * tent[x]
            if w > mix[x]:
                out[x], mix[x] = values[x], w
    else:
        for x in range(values.size):
            if mix[x] == 0 or values[x] > out[x]:
                out[x], mix[x] = values[x], one


@numba.njit(cache=True, nogil=True, fastmath={"contract"}, error_model="numpy")
def add_tile(
    total,
    weight,
    whole,
    planes,
    raw,
    origin,
    near,
    far,
    dark,
    fraction,
    low,
    size,
    tent_z,
    tent_y,
    tent_x,
    blend,
):
    """Mix the samples of a translated tile into the planes ``planes[0]`` to ``planes[1]`` of a region.

    Parameters
    ----------
    total, weight
        Sums of values and of weights in these planes, (z, y, x) float32.
    whole
        Sum of all tiles' weights there; only the sinusoidal blend reads it.
    raw, origin
        Voxels of the tile, (z, y, x), C order, and the first one that is sampled.
    near, far, dark
        For each row of samples and each column of voxels: factors of the voxel at or before the sample and of the
        one behind it, and what is subtracted, float32 (y, x).
    fraction
        How far behind a voxel the samples lie, (z, x). Where it is 0 the next voxel may not exist, and is not read.
    low, size
        First sample in the region, and number of samples, (z, y, x).
    tent_z, tent_y, tent_x
        Distance of the samples from the tile's border, relative.
    """
    fz, fx = fraction[0], fraction[1]
    one = np.float32(1.0)
    width = size[2] + (1 if fx > 0 else 0)
    line = np.empty(width, np.float32)
    values = line[: size[2]]
    for plane in range(max(low[0], planes[0]), min(low[0] + size[0], planes[1])):
        k = plane - low[0]
        z = origin[0] + k
        z1 = z + 1 if fz > 0 else z
        for j in range(size[1]):
            y = origin[1] + j
            y1 = min(y + 1, raw.shape[1] - 1)  # the factor of a row that does not exist is 0
            a, b = raw[z, y, origin[2] : origin[2] + width], raw[z, y1, origin[2] : origin[2] + width]
            c, d = raw[z1, y, origin[2] : origin[2] + width], raw[z1, y1, origin[2] : origin[2] + width]
            n, f, h = near[j], far[j], dark[j]
            for x in range(width):
                first = (one - fz) * np.float32(a[x]) + fz * np.float32(c[x])
                second = (one - fz) * np.float32(b[x]) + fz * np.float32(d[x])
                line[x] = n[x] * first + f[x] * second - h[x]
            if fx > 0:
                for x in range(size[2]):
                    line[x] = (one - fx) * line[x] + fx * line[x + 1]
            row, start = low[1] + j, low[2]
            _mix_row(
                total[plane - planes[0], row, start : start + size[2]],
                weight[plane - planes[0], row, start : start + size[2]],
                whole[plane - planes[0], row, start : start + size[2]],
                values,
                tent_z[k] * tent_y[j],
                tent_x,
                blend,
            )


@numba.njit(cache=True, nogil=True, fastmath={"contract"})
def add_weights(whole, planes, low, size, tent_z, tent_y, tent_x):
    """Add a tile's weights alone, as `add_tile` takes them."""
    for plane in range(max(low[0], planes[0]), min(low[0] + size[0], planes[1])):
        for j in range(size[1]):
            out = whole[plane - planes[0], low[1] + j, low[2] : low[2] + size[2]]
            side = tent_z[plane - low[0]] * tent_y[j]
            for x in range(size[2]):
                out[x] += side * tent_x[x]


@numba.njit(cache=True, nogil=True, forceinline=True)
def _tent(place, size):
    return max(min(place, size - 1 - place) / max(0.5 * size, 1.0), 1e-4)


@numba.njit(cache=True, nogil=True, error_model="numpy")
def add_affine(total, weight, whole, planes, values, origin, shape, matrix, slack, blend, weights_only):
    """Mix the samples of a tile under an affine pose into the planes ``planes[0]`` to ``planes[1]`` of a region.

    Parameters
    ----------
    total, weight, whole
        As in `add_tile`; ``weights_only`` adds to ``whole`` and to nothing else.
    values, origin
        Corrected voxels of a box of the tile, (z, y, x) float32, and where in the tile the box starts.
    shape
        Of the tile, voxels.
    matrix
        (3, 4) float64: from an index in the region to one in the tile.
    slack
        Samples this far outside of the voxels' centres, voxels, count as the outermost voxels.
    """
    one = np.float32(1.0)
    nz, ny, nx = values.shape
    line, sides = np.empty(total.shape[2], np.float32), np.empty(total.shape[2], np.float32)
    for plane in range(planes[0], planes[1]):
        for y in range(total.shape[1]):
            z0 = matrix[0, 0] * plane + matrix[0, 1] * y + matrix[0, 3]
            y0 = matrix[1, 0] * plane + matrix[1, 1] * y + matrix[1, 3]
            x0 = matrix[2, 0] * plane + matrix[2, 1] * y + matrix[2, 3]
            first = last = 0  # a tile is convex: of each row it covers one piece
            for x in range(total.shape[2]):
                pz, py, px = z0 + matrix[0, 2] * x, y0 + matrix[1, 2] * x, x0 + matrix[2, 2] * x
                if not (
                    -slack <= pz <= shape[0] - 1 + slack
                    and -slack <= py <= shape[1] - 1 + slack
                    and -slack <= px <= shape[2] - 1 + slack
                ):
                    continue
                if last == 0:
                    first = x
                last = x + 1
                pz = min(max(pz, 0.0), shape[0] - 1.0)
                py = min(max(py, 0.0), shape[1] - 1.0)
                px = min(max(px, 0.0), shape[2] - 1.0)
                sides[x] = _tent(pz, shape[0]) * _tent(py, shape[1]) * _tent(px, shape[2])
                if weights_only:
                    continue
                k, j, i = int(pz), int(py), int(px)
                fz, fy, fx = np.float32(pz - k), np.float32(py - j), np.float32(px - i)
                k, j, i = k - origin[0], j - origin[1], i - origin[2]
                k1, j1, i1 = min(k + 1, nz - 1), min(j + 1, ny - 1), min(i + 1, nx - 1)
                a = (one - fx) * values[k, j, i] + fx * values[k, j, i1]
                b = (one - fx) * values[k, j1, i] + fx * values[k, j1, i1]
                c = (one - fx) * values[k1, j, i] + fx * values[k1, j, i1]
                d = (one - fx) * values[k1, j1, i] + fx * values[k1, j1, i1]
                line[x] = (one - fz) * ((one - fy) * a + fy * b) + fz * ((one - fy) * c + fy * d)
            here = plane - planes[0]
            if weights_only:
                whole[here, y, first:last] += sides[first:last]
            else:
                _mix_row(
                    total[here, y, first:last],
                    weight[here, y, first:last],
                    whole[here, y, first:last],
                    line[first:last],
                    one,
                    sides[first:last],
                    blend,
                )


@numba.njit(cache=True, nogil=True, error_model="numpy")
def divide(total, weight, out, offset):
    """Mean values, float32, 0 without a weight; how many voxels are covered."""
    t, w, o = total.ravel(), weight.ravel(), out.ravel()
    covered = 0
    for i in range(t.size):
        covered += w[i] > 0
        o[i] = t[i] / w[i] + offset if w[i] > 0 else np.float32(0.0)
    return covered, 0, 0


@numba.njit(cache=True, nogil=True, error_model="numpy", fastmath={"reassoc", "nsz"})
def round_half_up(total, weight, out, offset, highest):
    """Mean values, rounded half up and clipped to 0 ... ``highest``; how many are covered, and clipped at either end.

    Counted in float32, a few thousand at a time: exact, and as wide as the voxels, so that the loop is vectorised.
    """
    zero, one = np.float32(0.0), np.float32(1.0)
    half, end = offset + np.float32(0.5), highest + one
    covered = low = high = 0
    for start in range(0, total.size, 4096):
        t = total.ravel()[start : start + 4096]
        w = weight.ravel()[start : start + 4096]
        o = out.ravel()[start : start + 4096]
        here = under = over = zero
        for i in range(t.size):
            value = t[i] / w[i] + half if w[i] > zero else zero
            here += one if w[i] > zero else zero
            under += one if value < zero else zero
            over += one if value >= end else zero
            o[i] = np.int32(min(max(value, zero), highest))  # cut off, which is rounding down from 0 on
        covered += int(here)
        low += int(under)
        high += int(over)
    return covered, low, high
