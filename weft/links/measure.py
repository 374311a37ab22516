"""Measure one link: band-passed phase correlation in a window, scored and refined by NCC."""

from __future__ import annotations

import dataclasses
import functools
from typing import TYPE_CHECKING

import numpy as np

from weft.image import Region, TileSet
from weft.links.balance import balanced
from weft.links.blocks import BLOCK, SMALL_BLOCK, agreed, match_blocks
from weft.links.kernels import band_pass
from weft.links.mip_ncc import mip_ncc
from weft.links.model import Link, LinkSettings, Status
from weft.links.search import climb, parabola, search
from weft.links.signals import corrected_signals, crops, log_signals, most_structured, noise_variance

if TYPE_CHECKING:  # the illumination room measures links itself
    from weft.illumination.model import Illumination

# A rival peak of less than this part of the best one's NCC is not looked at again.
_RIVAL = 0.5
# Two that lead up to peaks no farther apart than this, voxels, are one.
_APART = 2

# Where the fine structures do not give a link, those of twice and four times the size are looked at, as long as
# their band-pass still removes what changes across the overlap: vignetting would correlate with itself.
_SCALES = (1, 2, 4)

# Times as many blocks where they have to show how a tile is deformed.
_MORE = 8

# Binning leaves at least this many voxels of a crop along each axis, and of the window's half-width.
_FEWEST, _NARROWEST = 16, 2


def measure_link(
    tiles: TileSet,
    i: int,
    j: int,
    channel: int,
    illumination: Illumination | None = None,
    *,
    search_voxels: tuple[float, float, float] | None = None,
    search_um: tuple[float, float, float] | None = None,
    positions: np.ndarray | None = None,
    settings: LinkSettings | None = None,
) -> Link:
    """Measure where tile ``j`` lies relative to tile ``i``.

    The parts of both tiles that may overlap within the search window are read, corrected, brought to a
    logarithmic scale (so that a gain becomes an offset) and band-passed (which removes it). The highest
    peaks of their phase correlation inside the window are scored by the NCC of the band-passed overlap;
    the best is followed uphill at full resolution and placed between voxels by what pulls either way (see
    `balanced`). Large crops are
    read some planes at a time and binned for this; then a few blocks, spread over the overlap where it shows
    most, are read and matched at full resolution. So memory is bounded by ``settings.whole``.

    Parameters
    ----------
    tiles
        Raw tiles.
    i, j
        Places of the two tiles in the set.
    channel
        Channel to measure on.
    illumination
        Gain and dark of the channel, or None.
    search_voxels, search_um
        Half-width of the window around the stage's displacement, (z, y, x); give exactly one.
    positions
        Where to search around, (n, 3) um, instead of the stage positions.
    settings
        Thresholds; None takes the defaults.

    Returns
    -------
    Link
        With its status; the stage's displacement where nothing was measured.

    Raises
    ------
    ValueError
        When not exactly one search window is given, it is negative, or i and j are the same tile.
    """
    settings = settings or LinkSettings()
    if (search_voxels is None) == (search_um is None):
        raise ValueError("measure_link takes a search window in voxels or in um, and just one of them")
    if i == j:
        raise ValueError(f"a link needs two tiles; found tile {i} twice")
    spacing = np.asarray(tiles.spacing)
    window = np.asarray(search_voxels, float) if search_um is None else np.asarray(search_um, float) / spacing
    if window.shape != (3,) or not (window >= 0).all():
        raise ValueError(
            f"the search window must be three lengths (z, y, x) of at least zero; found {window}"
        )
    stage = tiles.positions() if positions is None else np.asarray(positions, float)
    expected = (stage[j] - stage[i]) / spacing
    shape = np.asarray(tiles.shape)
    reach = np.ceil(window).astype(int)
    crop_i, crop_j = crops(expected, shape, reach)
    if crop_i is None or crop_j is None:
        return _no_link(i, j, stage[j] - stage[i], "empty")
    regions = most_structured(tiles, (i, j), channel, crop_i, crop_j, expected, reach, settings)
    overlap = _Overlap(tiles, (i, j), channel, illumination, regions, expected, window, settings)
    if settings.method == "mip_ncc":
        return overlap.projected()
    found = []
    for scale in _SCALES:
        if scale == 1 or settings.large_box * scale <= overlap.breadth / 3:
            found.append(overlap.measured(scale))
            if found[-1].status == "ok":
                return found[-1]
    return max(found, key=lambda link: (link.status != "empty", link.ncc))


class _Overlap:
    """What two tiles may share, read once; shifts are where voxel 0 of crop b lies in crop a."""

    def __init__(
        self,
        tiles: TileSet,
        pair: tuple[int, int],
        channel: int,
        illumination: Illumination | None,
        regions: tuple[Region, Region],
        expected: np.ndarray,
        window: np.ndarray,
        settings: LinkSettings,
    ) -> None:
        self.source = (tiles, pair, channel, illumination)
        self.pair, self.regions, self.settings = pair, regions, settings
        self.expected, self.window = expected, window
        self.shape, self.spacing = np.asarray(tiles.shape), np.asarray(tiles.spacing)
        self.base = np.array([p.start - q.start for p, q in zip(*regions, strict=True)])
        self.factors = _binning(regions, window, self.spacing, settings.whole)
        self.whole = bool((self.factors == 1).all())
        self.breadth = min(part.stop - part.start for part in regions[0][1:])

    @functools.cached_property
    def logs(self) -> list[np.ndarray]:
        """Both crops on a logarithmic scale, binned where they are large."""
        return log_signals(*self.source, self.regions, tuple(int(f) for f in self.factors))

    def measured(self, scale: int) -> Link:
        """The link as structures of this many times the usual size show it."""
        settings = self.settings
        boxes = (settings.small_box * scale) | 1, (settings.large_box * scale) | 1
        noise = [noise_variance(v, boxes) for v in self.logs]
        a, b = (band_pass(v, *boxes) for v in self.logs)
        if any(v.var() <= settings.content * n + 1e-10 for v, n in zip((a, b), noise, strict=True)):
            return self._none("empty")
        center = (self.expected - self.base) / self.factors
        shift, rival, ratio = search(a, b, center, self.window / self.factors, settings, binned=self.whole)
        if shift is None:
            return self._none("low_ncc")
        least = settings.min_shared * min(a.size, b.size)
        shift, ncc = climb(a, b, shift, least)
        part, top = parabola(a, b, shift)
        part, bend = balanced(self.logs, boxes, shift, part)
        displacement = (shift + part) * self.factors + self.base
        distinct, second = False, None
        if rival is not None and ratio > _RIVAL:
            # Followed uphill like the first: the binning of the search may have favoured either.
            rival, _ = climb(a, b, rival, least)
            ratio = 0.0
            if np.abs(rival - shift).max() > _APART:
                rival_part, rival_top = parabola(a, b, rival)
                second = ((rival + rival_part) * self.factors + self.base) * self.spacing
                ratio = float(np.clip(rival_top / max(top, 1e-6), 0, 1))
                distinct = (1 - min(top, 1.0) ** 2) < settings.distinct * (1 - min(rival_top, 1.0) ** 2)
        matches = np.zeros((0, 7))
        place = np.round(displacement).astype(int)
        if not self.whole:
            matches = self._matches(place, a, boxes)
            if not len(matches):
                return self._none("low_ncc")
            displacement, ncc, near = agreed(matches)
            off = matches[:, 3:6] - np.median(matches[:, 3:6], axis=0)
            bend = float(np.median(np.linalg.norm(off, axis=1)))
            matches = matches[near]
        if settings.matches or (settings.matches is None and bend > settings.bent):
            matches = self._matches(place, a, boxes, deformed=True)
        matches[:, :3] *= self.spacing
        matches[:, 3:6] *= self.spacing
        return self._judged(displacement, ncc, ratio, distinct=distinct, rival=second, matches=matches)

    def projected(self) -> Link:
        """The link as maximum projections show it."""
        bins = tuple(int(f) for f in self.factors)
        a, b = corrected_signals(*self.source, self.regions, bins)
        if min(a.std(), b.std()) == 0:
            return self._none("empty")
        center = (self.expected - self.base) / self.factors
        shift, ncc, reliability = mip_ncc(a, b, center, self.window / self.factors, self.settings)
        link = self._judged(shift * self.factors + self.base, ncc, 0.0)
        return dataclasses.replace(link, confidence=reliability if link.status == "ok" else 0.0)

    def _judged(
        self,
        displacement: np.ndarray,
        ncc: float,
        ratio: float,
        *,
        distinct: bool = False,
        rival: np.ndarray | None = None,
        matches: np.ndarray | None = None,
    ) -> Link:
        """The link of a displacement, voxels, after the gates."""
        settings = self.settings
        reach = np.maximum(self.window, 0.5 / settings.border)
        taken = float((np.abs(displacement - self.expected) / reach).max())
        overlap = float(np.prod(np.clip(self.shape - np.abs(displacement), 0, None) / self.shape))
        status: Status = "ok"
        if ncc < settings.min_ncc:
            status = "low_ncc"
        elif ratio > settings.max_peak_ratio and not distinct:
            status = "ambiguous"
        elif taken > settings.border:
            status = "window_border"
        elif overlap < settings.min_overlap:
            status = "small_overlap"
        return Link(
            *self.pair,
            displacement=displacement * self.spacing,
            ncc=float(ncc),
            peak_ratio=ratio,
            overlap=overlap,
            status=status,
            confidence=float(ncc * (1.0 - ratio)) if status == "ok" else 0.0,
            window=min(taken, 1.0),
            rival=rival,
            matches=np.zeros((0, 7)) if matches is None else matches,
        )

    def _matches(
        self, displacement: np.ndarray, a: np.ndarray, boxes: tuple[int, int], *, deformed: bool = False
    ) -> np.ndarray:
        """Blocks of full resolution, looked for around a displacement, (k, 7) voxels; more, and farther, if tiles are deformed."""

        def structure(region: Region) -> float:
            """How much there is to see in a region of tile i, by what the search looked at."""
            bounds = zip(region, self.regions[0], self.factors, strict=True)
            return float(
                a[
                    tuple(slice((r.start - c.start) // f, -(-(r.stop - c.start) // f)) for r, c, f in bounds)
                ].var()
            )

        def logs(p: Region, q: Region) -> list[np.ndarray]:
            return log_signals(*self.source, (p, q))

        slack = self.settings.slack if deformed else 0
        margin = max(2 * int(self.factors.max()) + 1, slack)
        blocks = self.settings.blocks * (_MORE if deformed else 1)
        block = SMALL_BLOCK if deformed else BLOCK
        return match_blocks(
            displacement,
            self.shape,
            self.regions,
            margin,
            block,
            structure,
            logs,
            boxes,
            blocks,
            self.settings,
        )

    def _none(self, status: Status) -> Link:
        return _no_link(*self.pair, self.expected * self.spacing, status)


def _no_link(i: int, j: int, displacement: np.ndarray, status: Status) -> Link:
    return Link(i, j, displacement, 0.0, 1.0, 0.0, status, 0.0)


def _binning(
    regions: tuple[Region, Region], window: np.ndarray, spacing: np.ndarray, whole: int
) -> np.ndarray:
    """Factors, (3,), that bring crops to about ``whole`` voxels: the finest axis with room first."""
    size = np.max([[part.stop - part.start for part in region] for region in regions], axis=0)
    factors = np.ones(3, int)
    while np.prod(-(-size // factors)) > whole:
        room = (size // factors >= 2 * _FEWEST) & ((window / factors >= 2 * _NARROWEST) | (window < 1))
        if not room.any():
            break
        factors[np.argmin(np.where(room, spacing * factors, np.inf))] *= 2
    return factors
