"""Kernels of the link measurement: band-pass of the log signal and NCC at a shift."""

from __future__ import annotations

import numba
import numpy as np


@numba.njit(cache=True, nogil=True)
def _box_line(line, radius, out):
    """Mean over ``2 radius + 1`` voxels along a line, over those that exist at its ends."""
    n = line.size
    total = np.float32(0)
    for k in range(min(radius, n)):
        total += line[k]
    for k in range(n):
        if k + radius < n:
            total += line[k + radius]
        if k - radius - 1 >= 0:
            total -= line[k - radius - 1]
        out[k] = total / np.float32(min(n, k + radius + 1) - max(0, k - radius))


@numba.njit(forceinline=True, cache=True, nogil=True, fastmath={"contract", "reassoc"})
def _box_rows(rows, radius, out, total):
    """The same along the first axis of (n, m) rows, a row at a time."""
    n, m = rows.shape
    total[:] = 0
    for k in range(min(radius, n)):
        for x in range(m):
            total[x] += rows[k, x]
    for k in range(n):
        scale = np.float32(1.0 / (min(n, k + radius + 1) - max(0, k - radius)))
        if k + radius < n and k - radius - 1 >= 0:
            for x in range(m):
                total[x] += rows[k + radius, x] - rows[k - radius - 1, x]
        elif k + radius < n:
            for x in range(m):
                total[x] += rows[k + radius, x]
        elif k - radius - 1 >= 0:
            for x in range(m):
                total[x] -= rows[k - radius - 1, x]
        for x in range(m):
            out[k, x] = total[x] * scale


@numba.njit(cache=True, nogil=True)
def band_pass(volume, small, large):
    """Box mean of side ``small`` minus box mean of side ``large``, float32 (z, y, x).

    The in-plane passes run plane by plane, so that a plane stays in the cache.
    """
    nz, ny, nx = volume.shape
    fine, coarse = np.empty_like(volume), np.empty_like(volume)
    plane = np.empty((ny, nx), np.float32)
    total = np.empty(nx, np.float32)
    for z in range(nz):
        for box in range(2):
            radius = (small if box == 0 else large) // 2
            for y in range(ny):
                _box_line(volume[z, y], radius, plane[y])
            _box_rows(plane, radius, fine[z] if box == 0 else coarse[z], total)
    lines = np.empty((nz, nx), np.float32)
    means = np.empty((nz, nx), np.float32)
    for y in range(ny):
        for box in range(2):
            source = fine if box == 0 else coarse
            for z in range(nz):
                lines[z] = source[z, y]
            _box_rows(lines, (small if box == 0 else large) // 2, means, total)
            for z in range(nz):
                if box == 0:
                    fine[z, y] = means[z]
                else:
                    for x in range(nx):
                        fine[z, y, x] -= means[z, x]
    return fine


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def ncc_at(a, b, shift):
    """NCC of the voxels that ``a`` and ``b`` share when voxel 0 of ``b`` lies at voxel ``shift`` of ``a``.

    Returns the NCC and the number of shared voxels; (-1, n) when fewer than two voxels are shared.
    """
    z0, y0, x0 = max(0, shift[0]), max(0, shift[1]), max(0, shift[2])
    z1 = min(a.shape[0], shift[0] + b.shape[0])
    y1 = min(a.shape[1], shift[1] + b.shape[1])
    x1 = min(a.shape[2], shift[2] + b.shape[2])
    if z1 <= z0 or y1 <= y0 or x1 - x0 < 2:
        return -1.0, 0
    sa = sb = saa = sbb = sab = 0.0
    for z in range(z0, z1):
        for y in range(y0, y1):
            p = a[z, y, x0:x1]
            q = b[z - shift[0], y - shift[1], x0 - shift[2] : x1 - shift[2]]
            ra = rb = raa = rbb = rab = np.float32(0)
            for x in range(x1 - x0):
                ra += p[x]
                rb += q[x]
                raa += p[x] * p[x]
                rbb += q[x] * q[x]
                rab += p[x] * q[x]
            sa += float(ra)
            sb += float(rb)
            saa += float(raa)
            sbb += float(rbb)
            sab += float(rab)
    n = (z1 - z0) * (y1 - y0) * (x1 - x0)
    variance = (saa - sa * sa / n) * (sbb - sb * sb / n)
    return (sab - sa * sb / n) / np.sqrt(max(variance, 1e-24)), n


@numba.njit(cache=True, nogil=True, fastmath={"contract", "reassoc"})
def forces_at(a, b, shift):
    """How the difference of two volumes pulls along each axis at a whole shift, float64 (3,).

    The sum over the shared voxels of (slope of a + slope of b) (a - b), both brought to mean 0 and variance 1:
    half the gradient of their squared difference with respect to the shift, where voxel 0 of ``b`` lies at voxel
    ``shift`` of ``a``. It vanishes where both agree, whatever is cut off at the overlap's borders. 0 along axes of
    fewer than three shared voxels.
    """
    z0, y0, x0 = max(0, shift[0]), max(0, shift[1]), max(0, shift[2])
    z1 = min(a.shape[0], shift[0] + b.shape[0])
    y1 = min(a.shape[1], shift[1] + b.shape[1])
    x1 = min(a.shape[2], shift[2] + b.shape[2])
    force = np.zeros(3)
    if z1 <= z0 or y1 - y0 < 3 or x1 - x0 < 3:
        return force
    n = (z1 - z0) * (y1 - y0) * (x1 - x0)
    sa = sb = saa = sbb = 0.0
    for z in range(z0, z1):
        for y in range(y0, y1):
            p = a[z, y, x0:x1]
            q = b[z - shift[0], y - shift[1], x0 - shift[2] : x1 - shift[2]]
            ra = rb = raa = rbb = np.float32(0)
            for x in range(x1 - x0):
                ra += p[x]
                rb += q[x]
                raa += p[x] * p[x]
                rbb += q[x] * q[x]
            sa += float(ra)
            sb += float(rb)
            saa += float(raa)
            sbb += float(rbb)
    ka = np.float32(1.0 / np.sqrt(max(saa / n - (sa / n) ** 2, 1e-24)))
    kb = np.float32(1.0 / np.sqrt(max(sbb / n - (sb / n) ** 2, 1e-24)))
    off = np.float32(ka * sa / n - kb * sb / n)
    deep = z1 - z0 >= 3
    edge = 1 if deep else 0
    for z in range(z0 + edge, z1 - edge):
        w = z - shift[0]
        for y in range(y0 + 1, y1 - 1):
            v = y - shift[1]
            p, q = a[z, y, x0:x1], b[w, v, x0 - shift[2] : x1 - shift[2]]
            pu, qu = a[z, y - 1, x0:x1], b[w, v - 1, x0 - shift[2] : x1 - shift[2]]
            pd, qd = a[z, y + 1, x0:x1], b[w, v + 1, x0 - shift[2] : x1 - shift[2]]
            fx = fy = fz = np.float32(0)
            for x in range(1, x1 - x0 - 1):
                apart = ka * p[x] - kb * q[x] - off
                fx += (ka * (p[x + 1] - p[x - 1]) + kb * (q[x + 1] - q[x - 1])) * apart
                fy += (ka * (pd[x] - pu[x]) + kb * (qd[x] - qu[x])) * apart
            if deep:
                pu, qu = a[z - 1, y, x0:x1], b[w - 1, v, x0 - shift[2] : x1 - shift[2]]
                pd, qd = a[z + 1, y, x0:x1], b[w + 1, v, x0 - shift[2] : x1 - shift[2]]
                for x in range(1, x1 - x0 - 1):
                    apart = ka * p[x] - kb * q[x] - off
                    fz += (ka * (pd[x] - pu[x]) + kb * (qd[x] - qu[x])) * apart
            force[0] += float(fz)
            force[1] += float(fy)
            force[2] += float(fx)
    return force / n
