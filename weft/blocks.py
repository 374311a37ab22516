"""Cut a grid into blocks with halos, name them, and deal the names to batches."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

Region = tuple[slice, slice, slice]


def cut(shape: Sequence[int], block: Sequence[int]) -> list[str]:
    """Names ``i.j.k`` of the blocks that tile ``shape``, in z-order (Morton order), so that neighbours stay close.

    Parameters
    ----------
    shape, block
        Voxels per axis, any number of axes; the last block of an axis may be smaller.
    """
    counts = [range(-(-n // b)) for n, b in zip(shape, block, strict=True)]
    indices = sorted(itertools.product(*counts), key=_morton)
    return [".".join(map(str, index)) for index in indices]


def index_of(name: str) -> tuple[int, ...]:
    """Indices of a block along the axes."""
    return tuple(int(part) for part in name.split("."))


def region(name: str, shape: Sequence[int], block: Sequence[int]) -> tuple[slice, ...]:
    """Slices of a block, clipped to ``shape``."""
    return tuple(
        slice(i * b, min((i + 1) * b, n)) for i, n, b in zip(index_of(name), shape, block, strict=True)
    )


def with_halo(core: Sequence[slice], halo: Sequence[int], shape: Sequence[int]) -> tuple[slice, ...]:
    """``core`` enlarged by ``halo`` voxels on either side, clipped to ``shape``."""
    return tuple(
        slice(max(c.start - h, 0), min(c.stop + h, n)) for c, h, n in zip(core, halo, shape, strict=True)
    )


def deal(names: Sequence[str], batch: int, batches: int) -> list[str]:
    """The names of one batch: contiguous, and batches differ by at most one name."""
    n = len(names)
    return list(names[n * batch // batches : n * (batch + 1) // batches])


def _morton(index: tuple[int, ...]) -> int:
    """Interleaved bits of the indices."""
    code = 0
    for bit in range(max(index).bit_length()):
        for axis, i in enumerate(index):
            code |= ((i >> bit) & 1) << (bit * len(index) + len(index) - 1 - axis)
    return code
