"""Where two tiles meet: the patch that both show, and how well it agrees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from weft.illumination.model import Illumination
from weft.image import Region, TileSet, box
from weft.links.kernels import band_pass, ncc_at
from weft.links.model import LinkSettings
from weft.links.signals import corrected_signals, log_signals

# Longest edge of a patch, and the most planes of it that the NCC is taken over.
_EDGE, _PLANES = 256, 8


@dataclass(frozen=True)
class Seam:
    """What two tiles show of the same place.

    Parameters
    ----------
    first, second
        The middle plane of the patch as either tile shows it, float32 (y, x).
    ncc
        Of the band-passed patch, over some planes; NaN where a tile shows nothing.
    """

    first: np.ndarray
    second: np.ndarray
    ncc: float


def seam(
    tiles: TileSet,
    pair: tuple[int, int],
    channel: int,
    illumination: Illumination | None,
    positions: np.ndarray,
    linear: np.ndarray | None = None,
) -> Seam | None:
    """The middle of what two tiles share at their positions, to the next voxel; None where they do not overlap.

    Parameters
    ----------
    tiles
        Raw tiles; only the patch is read.
    pair
        Places of the two tiles in the set.
    channel
        Channel that is shown.
    illumination
        Gain and dark of the channel, or None.
    positions
        Of all tiles, (n, 3) um.
    linear
        Linear parts of the poses, (n, 3, 3); the patch is small enough to be shifted only, by what they are in its middle.
    """
    i, j = pair
    spacing = np.asarray(tiles.spacing)
    offset = positions[j] - positions[i]
    if linear is not None:
        # The middle of the overlap, from the first voxel of tile i, and what tile j shows there.
        extent = (np.asarray(tiles.shape) - 1) * spacing
        middle = (np.maximum(0, offset) + np.minimum(extent, offset + extent)) / 2
        offset = middle - np.linalg.solve(linear[j], linear[i] @ middle - offset)
    d = np.round(offset / spacing).astype(int)
    low, high = np.maximum(0, d), np.minimum(tiles.shape, d + tiles.shape)
    if (high <= low).any() or (high - low)[1:].min() < 4:
        return None
    size = np.minimum(high - low, (_PLANES, _EDGE, _EDGE))
    start = (low + high - size) // 2
    regions: tuple[Region, Region] = (box(start, start + size), box(start - d, start - d + size))
    settings = LinkSettings()
    logs = log_signals(tiles, pair, channel, illumination, regions)
    a, b = (band_pass(v, settings.small_box, settings.large_box) for v in logs)
    seen = min(float(a.std()), float(b.std())) > 0
    ncc = float(ncc_at(a, b, np.zeros(3, np.int64))[0]) if seen else float("nan")
    first, second = corrected_signals(tiles, pair, channel, illumination, regions)
    return Seam(first[size[0] // 2], second[size[0] // 2], ncc)
