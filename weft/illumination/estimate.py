"""Estimate the illumination of a channel from raw tiles, and use it only when it makes held-out data flatter."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from weft.corrections import outcome
from weft.illumination.check import Estimator, held_out_seams, held_out_shading
from weft.illumination.choose import Estimate, choose, estimate, estimators, with_or_without_background
from weft.illumination.dark import regress_dark
from weft.illumination.log_gain import OnBlocks, gain_plane
from weft.illumination.model import Illumination
from weft.illumination.profile import read_profile
from weft.illumination.reading import read_once
from weft.illumination.samples import Samples, draw
from weft.illumination.seams import Seam, read_shared
from weft.image import TileSet
from weft.links.model import Link

Policy = Literal["check", "force", "off"]
METHODS = (
    "auto", "log_irls", "gradients", "quantile", "mean", "median", "percentile", "n4", "basic", "profile", "none"
)  # fmt: skip
POLICIES = ("check", "force", "off")

# Fewer planes than this with tissue are no basis for an estimate.
_LEAST_PLANES = 8
# The brightest block of a slab with tissue exceeds so many times the noise of one.
_BRIGHT = 10.0
# A gain outside these is not a lamp's: the fit ran away where no tissue was.
_PLAUSIBLE = (0.05, 20.0)


def fit_illumination(
    tiles: TileSet,
    channel: int,
    *,
    dark: float | np.ndarray | None = None,
    method: str = "auto",
    policy: str = "check",
    percentile: float = 75.0,
    profile: str | Path | None = None,
    samples: int = 384,
    seed: int = 0,
    links: Sequence[Link] | None = None,
    search_voxels: tuple[float, float, float] = (20.0, 20.0, 20.0),
) -> Illumination:
    """Estimate gain and dark of one channel, for raw = gain * signal + dark.

    Parameters
    ----------
    tiles
        Raw tiles; about ``samples`` planes are read, and the overlaps of up to 24 pairs; see `read_once`.
    channel
        Index of the channel.
    dark
        Counts without light: a number or a plane (y, x); see `resolve_dark`. None regresses it: what the
        empty parts of the tiles show is a smooth plane, dark + light * gain, and the dark is the plane less as
        much light as makes it look least like the gain; 0 where no part of the tiles is empty.
    method
        An estimator, each described where it is defined: ``"log_irls"``, ``"gradients"``, ``"quantile"``, ``"mean"``,
        ``"median"``, ``"percentile"``, ``"n4"``, ``"basic"``; ``"auto"`` takes the one of the first four with
        the least expected error (`weft.illumination.choose.choose`); ``"profile"`` a given gain; ``"none"`` gain 1.
    policy
        ``"check"`` replaces a gain by 1 when it leaves held-out tiles, or the same content in overlaps, no
        flatter; ``"force"`` uses it anyway; ``"off"`` does not look.
    percentile
        For ``"percentile"``.
    profile
        For ``"profile"``: see `read_profile`. The dark that is saved with it is used where none is given.
    samples
        Planes to read, stratified over tiles and depth.
    seed
        Of the choice of planes and of the parts of the jackknife.
    links
        Measured pairs to compare overlaps of; None measures some of the candidates on this channel.
    search_voxels
        Search window of those measurements.

    Returns
    -------
    Illumination
        Its ``report`` holds ``method`` (the one that was used), ``asked``, ``planes``, ``seams``, ``shading_before`` and
        ``shading_after`` (RMS log shading of held-out tiles), ``seam_before`` and ``seam_after`` (RMS log
        ratio of the same content in overlaps), ``expected_error``, ``accepted`` and ``reason``.

    Raises
    ------
    ValueError
        When method or policy are unknown, a profile is missing, or the dark is no plane of the tiles.
    """
    if method not in METHODS:
        raise ValueError(f"illumination knows the methods {', '.join(METHODS)}; found {method!r}")
    if policy not in POLICIES:
        raise ValueError(f"illumination knows the policies {', '.join(POLICIES)}; found {policy!r}")
    tiles = read_once(tiles)
    shape = (tiles.shape[1], tiles.shape[2])
    given = np.asarray(0.0 if dark is None else dark, np.float32)
    if given.shape not in ((), shape):
        raise ValueError(f"the dark must be a number or a plane {shape} (y, x); found {given.shape}")
    plane = np.broadcast_to(given, shape).copy()
    if method == "profile":
        if profile is None:
            raise ValueError(
                "illumination.method 'profile' needs illumination.profile: an image or an illumination.zarr"
            )
        profile_gain, profile_dark = read_profile(profile, channel, shape)
        if dark is None and profile_dark is not None:
            dark = plane = profile_dark
    report: dict[str, Any] = {"asked": method, "method": method, "planes": 0, "seams": 0, "accepted": False}
    if not tiles.tiles or (method == "none" and dark is not None):
        return Illumination.identity(shape, plane, **report, reason="no gain asked for")

    drawn = draw(tiles, channel, plane, samples, np.random.default_rng(seed))
    report.update(
        planes=drawn.planes, empty_share=round(drawn.background.share, 6) if drawn.background else 0.0
    )

    def darkened(gain: np.ndarray) -> np.ndarray:
        return plane if dark is not None else regress_dark(drawn.background, gain)

    def identity(reason: str) -> Illumination:
        return Illumination.identity(shape, darkened(np.ones(shape, np.float32)), **report, reason=reason)

    if method == "none":
        return identity("no gain asked for")
    useful = int((drawn.signal.max((1, 2)) > _BRIGHT * drawn.noise).sum()) * drawn.planes // len(drawn.tile)
    report.update(planes_with_tissue=useful)
    if method != "profile" and useful < min(_LEAST_PLANES, len(tiles.tiles) * tiles.shape[0] // 2):
        return identity("too few planes with tissue")
    wants_seams = policy != "off" or method in ("auto", "log_irls", "gradients")
    shared = read_shared(tiles, channel, plane, drawn, links, search_voxels) if wants_seams else []
    found_background = drawn.background is not None
    drawn, seams = with_or_without_background(drawn, shared)
    report["seams"] = len(seams)
    report["background"] = "taken off" if drawn.background else "content" if found_background else "none"

    if method == "auto":
        found, report["expected_errors"] = choose(drawn, seams, seed)
        report["method"] = found.method
    elif method == "profile":
        y, x = (np.arange(n, dtype=float) for n in shape)
        found = Estimate(method, OnBlocks(np.log(profile_gain), y, x), None, None)
    else:
        found = estimate(method, estimators(percentile)[method], drawn, seams, seed)
    gain = gain_plane(found.log_gain, shape)
    report.update(gain_min=round(float(gain.min()), 6), gain_max=round(float(gain.max()), 6))
    reason = ""
    if found.error is not None:
        report["expected_error"] = round(found.error, 6)
    if policy != "off":
        fit = estimators(percentile).get(found.method, lambda samples, seams: found.log_gain)
        reason = _objection(fit, found, drawn, seams, gain, report)
    verdict = outcome(reason, policy)
    if not verdict["accepted"]:
        return identity(reason)
    return Illumination(gain, darkened(gain), {**report, **verdict})


def _objection(
    fit: Estimator,
    found: Estimate,
    samples: Samples,
    seams: Sequence[Seam],
    gain: np.ndarray,
    report: dict[str, Any],
) -> str:
    """Why the gain should not be used; empty when nothing speaks against it. Notes what was measured."""
    if len(samples.tile) < 2:
        return "there are too few planes to leave any out"
    before, after = held_out_shading(fit, samples, seams, found.kept)
    report.update(shading_before=round(before, 6), shading_after=round(after, 6))
    objections = (
        [] if after < before or found.method == "profile" else ["held-out tiles are no flatter with it"]
    )
    if len(seams) >= 2:
        before, after = held_out_seams(fit, samples, seams)
        report.update(seam_before=round(before, 6), seam_after=round(after, 6))
        if not after < before:
            objections.append("the same content in overlaps agrees no better with it")
    if gain.min() < _PLAUSIBLE[0] or gain.max() > _PLAUSIBLE[1]:
        objections.append("the gain leaves what is plausible")
    return "; ".join(objections)
