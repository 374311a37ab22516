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
    sample, tent = np.empty(1, np.float32), np.ones(1, np.float32)
    p = np.empty(3)
    first, second, part = np.empty(3, np.int64), np.empty(3, np.int64), np.empty(3, np.float32)
    for plane in range(planes[0], planes[1]):
        for y in range(total.shape[1]):
            for x in range(total.shape[2]):
                inside = True
                side = 1.0
                for k in range(3):
                    place = matrix[k, 0] * plane + matrix[k, 1] * y + matrix[k, 2] * x + matrix[k, 3]
                    inside = inside and -slack <= place <= shape[k] - 1 + slack
                    p[k] = min(max(place, 0.0), shape[k] - 1.0)
                    side *= _tent(p[k], shape[k])
                if not inside:
                    continue
                if weights_only:
                    whole[plane - planes[0], y, x] += np.float32(side)
                    continue
                for k in range(3):
                    first[k] = int(p[k])
                    part[k] = np.float32(p[k] - first[k])
                    first[k] -= origin[k]
                    second[k] = min(first[k] + 1, values.shape[k] - 1)
                value = np.float32(0.0)
                for corner in range(8):
                    w = one
                    z1, y1, x1 = corner >> 2 & 1, corner >> 1 & 1, corner & 1
                    w *= part[0] if z1 else one - part[0]
                    w *= part[1] if y1 else one - part[1]
                    w *= part[2] if x1 else one - part[2]
                    value += (
                        w
                        * values[
                            second[0] if z1 else first[0],
                            second[1] if y1 else first[1],
                            second[2] if x1 else first[2],
                        ]
                    )
                sample[0] = value
                _mix_row(
                    total[plane - planes[0], y, x : x + 1],
                    weight[plane - planes[0], y, x : x + 1],
                    whole[plane - planes[0], y, x : x + 1],
                    sample,
                    np.float32(side),
                    tent,
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
