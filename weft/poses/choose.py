"""Whether tiles are turned or stretched against each other, by what the blocks of their overlaps say."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from weft.grid import Shape, Triple
from weft.links.model import Link
from weft.poses.linear import fit_linear, matched_points
from weft.poses.model import Model, Poses, PoseSettings

# From the simplest on.
CANDIDATES: tuple[Model, ...] = ("translation", "rigid", "similarity", "affine")
# Matched blocks that a link needs to tell of more than a translation.
_LEAST_MATCHES = 4
# A model must leave less than this part of what translations leave on blocks that it was not fitted to ...
_BETTER = 0.6
# ... and the simplest that leaves no more than this many times the least is taken.
_AS_GOOD = 1.2


def bent(poses: Poses, links: Sequence[Link], spacing: Triple, settings: PoseSettings) -> bool:
    """Whether blocks of most believed overlaps lie farther from translations than a good link errs (the median one)."""
    believed = [link for link, weight in zip(links, poses.weight, strict=True) if weight > settings.used]
    telling = sum(len(link.matches) >= _LEAST_MATCHES for link in believed)
    if not telling or 2 * telling < len(believed):
        return False
    return float(np.median(_gaps(poses, links, settings))) > settings.link_sigma * float(np.min(spacing))


def choose_model(
    poses: Poses, links: Sequence[Link], shape: Shape, spacing: Triple, settings: PoseSettings
) -> Model:
    """The simplest model that predicts blocks which it was not fitted to about as well as any.

    Each model is fitted to every other block of each link and judged on the rest, and the other way round (twofold
    cross-validation; Stone, 1974, "Cross-validatory choice and assessment of statistical predictions"). Models
    that explain nothing, as of tiles that are distorted in other ways, lose to the translation.

    Parameters
    ----------
    poses
        Translations.
    links
        With their block matches, in the order in which ``poses`` speaks of them.
    shape, spacing
        Of a tile: voxels (z, y, x), and um.
    settings
        Expected errors.
    """
    left = {}
    for model in CANDIDATES:
        wanted = dataclasses.replace(settings, model=model)
        gaps = []
        for fold in (0, 1):
            fitted, others = (_thinned(links, start) for start in (fold, 1 - fold))
            gaps.append(_gaps(fit_linear(poses, fitted, shape, spacing, wanted), others, settings))
        left[model] = float(np.median(np.concatenate(gaps)))
    best = min(left.values())
    simplest = next(model for model in CANDIDATES if left[model] <= _AS_GOOD * best)
    return simplest if left[simplest] < _BETTER * left["translation"] else "translation"


def _thinned(links: Sequence[Link], start: int) -> list[Link]:
    return [dataclasses.replace(link, matches=link.matches[start::2]) for link in links]


def _gaps(poses: Poses, links: Sequence[Link], settings: PoseSettings) -> np.ndarray:
    """Distance, um, between the two places that poses give to each matched point."""
    ends, *offsets = matched_points(poses, links, settings)
    places = []
    for side, offset in enumerate(offsets):
        tile = ends[:, side]
        if poses.linear is not None:
            offset = np.einsum("mij,mj->mi", poses.linear[tile], offset)
        places.append(poses.positions[tile] + offset)
    return np.linalg.norm(places[0] - places[1], axis=1)
