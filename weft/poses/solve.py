"""One position per tile from links."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

import numpy as np

from weft.grid import Shape, Triple
from weft.links.model import Link
from weft.poses.choose import bent, choose_model
from weft.poses.graph import Claims, System, components
from weft.poses.linear import fit_linear
from weft.poses.model import Poses, PoseSettings
from weft.poses.robust import robust_weights
from weft.poses.spanning_tree import spanning_tree_weights


def solve_poses(
    stage_positions: np.ndarray,
    links: Sequence[Link],
    spacing: Triple,
    *,
    pins: Mapping[int, Triple] | None = None,
    shape: Shape | None = None,
    settings: PoseSettings | None = None,
) -> Poses:
    """Solve one position per tile.

    Weighted least squares over the links that the method believes (see `robust_weights`), each by the voxels that
    it rests on and its confidence. Every pair that
    has a link, trusted or not, is also tied by a weak edge of the stage's own displacement: it helps to tell which
    links are right, and places what none of these ties to the rest. The mean position is the stage's, unless tiles are pinned.

    Parameters
    ----------
    stage_positions
        (n, 3) um.
    links
        Measured pairs, of any status; their order does not matter.
    spacing
        Voxel size, um; errors are weighed in voxels.
    pins
        Positions, um, of tiles that are held where they are.
    shape
        Voxels of a tile, (z, y, x); wanted for poses that are more than translations, or may be.
    settings
        Method and expected errors; None takes the defaults.

    Returns
    -------
    Poses
        Positions with what they rest on.

    Raises
    ------
    ValueError
        When positions are not finite, a link or a pin names a tile that is not there, or the model asks for
        the shape of a tile.
    """
    settings = settings or PoseSettings()
    if settings.model == "auto":
        plain = dataclasses.replace(settings, model="translation")
        poses = solve_poses(stage_positions, links, spacing, pins=pins, settings=plain)
        if shape is None or settings.method != "robust" or not bent(poses, links, spacing, settings):
            return poses
    if settings.model != "translation":
        if shape is None:
            raise ValueError(f"poses of the model {settings.model!r} need the shape of a tile; found none")
        translations = solve_poses(
            stage_positions, links, spacing, pins=pins, settings=_blurred(settings, shape, spacing)
        )
        if settings.model == "auto":
            model = choose_model(translations, links, shape, spacing, settings)
            if model == "translation":
                return poses
            settings = dataclasses.replace(settings, model=model)
        return fit_linear(translations, links, shape, spacing, settings)
    stage = np.asarray(stage_positions, float).reshape(-1, 3)
    n = len(stage)
    held = np.full((n, 3), np.nan)
    for tile, place in (pins or {}).items():
        if not 0 <= tile < n:
            raise ValueError(f"a pin names the tile {tile}; there are {n} tiles")
        held[tile] = np.asarray(place, float) / spacing
    _check(stage, links, n)
    if not links:
        positions = np.where(np.isfinite(held), held * spacing, stage)
        status = tuple("pinned" if p else "stage_only" for p in np.isfinite(held).all(1))
        none = np.zeros(0)
        return Poses(positions, status, none, none, none.astype(bool), none.astype(int), np.arange(n))

    start = stage / spacing
    claims = Claims.of(links, start, np.asarray(spacing, float))
    system = System(start, claims, 0.5 / settings.stage_sigma**2, held)
    find = robust_weights if settings.method == "robust" else spanning_tree_weights
    weights, votes = find(system, claims, settings)
    used = weights > settings.used
    together = components(n, claims.ends[used])
    positions = system.solve(weights * claims.information(links) / settings.link_sigma**2, together)

    tied = np.zeros(n, bool)
    tied[claims.ends[used].ravel()] = True
    near = np.zeros(n, bool)
    near[claims.ends.ravel()] = True
    status = tuple(
        "pinned" if p else "ok" if t else "neighbours" if m else "stage_only"
        for p, t, m in zip(system.pinned, tied, near, strict=True)
    )
    # The claim that speaks for each link: its rival where only that one is used.
    speaks = np.zeros(len(links), int)
    for row in np.argsort(claims.rival, kind="stable"):
        if not claims.rival[row] or weights[row] > weights[speaks[claims.link[row]]]:
            speaks[claims.link[row]] = row
    # Rounded far below what matters, so that the last bits of a solver are not part of a result.
    residual = np.sqrt((((system.incidence @ positions - claims.measured) * spacing) ** 2).sum(1))
    return Poses(
        positions=np.round(positions * spacing, 6),
        status=status,
        residual=np.round(residual[speaks], 6),
        weight=np.round(np.minimum(weights, 1.0)[speaks], 9),
        rival=claims.rival[speaks],
        votes=votes[speaks],
        component=together,
    )


def _blurred(settings: PoseSettings, shape: Shape, spacing: Triple) -> PoseSettings:
    """The settings for translations of tiles that are also deformed: their links agree less well."""
    more = settings.linear_sigma * float(np.max(np.asarray(shape) * spacing)) / 2 / float(np.min(spacing))
    ratio = (settings.link_sigma + more) / settings.link_sigma
    return dataclasses.replace(
        settings,
        model="translation",
        link_sigma=settings.link_sigma * ratio,
        closure=settings.closure * ratio,
    )


def _check(stage: np.ndarray, links: Sequence[Link], n: int) -> None:
    finite = np.isfinite(stage).all(1)
    if not finite.all():
        raise ValueError(f"stage positions must be finite; tile {int(np.argmin(finite))} is not")
    for link in links:
        if not (0 <= link.i < n and 0 <= link.j < n and link.i != link.j):
            raise ValueError(f"a link names the tiles {link.i} and {link.j}; there are {n} tiles")
