"""The affine start: found without a good guess, with a score and a margin that announce failure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from weft.grid import Grid
from weft.registration.candidates import Candidate, CandidateSearch, rotation_set, smoothed
from weft.registration.elastix_affine import refine_with_elastix
from weft.registration.features import Feature, local_feature
from weft.registration.orientation import (
    orientation_matrix,
    oriented_code,
    proper_orientations,
    validate_orientation,
)
from weft.registration.refine import AffineRefiner, Fit

Verdict = Literal["accept", "warn", "refuse"]

# How many rotations, which scales, how many starts are refined: tried in turn until one is convincing.
_EFFORTS: tuple[tuple[int, tuple[float, ...], int], ...] = (
    (1, (1.0,), 8),
    (13, (0.78, 1.0, 1.26), 8),
    (33, (0.72, 0.85, 1.0, 1.18, 1.4), 16),
)
_ORIENTATIONS_KEPT = 6  # of those searched, how many go on to the larger efforts
_FINALISTS = 3
_WINDOW = 3.0  # of the local normalisation, voxels of the search level
_DIFFERENT = 4.0  # mean distance, voxels of the search level, from which two affines are rivals
_MIRROR_TIE = 0.01  # difference in score, as a share, that cannot tell a sample from its mirror image
_KEPT_SCORE = 0.9  # share of its score at the search level that a fine affine must keep
_FINE_SAMPLES = 200_000


@dataclass(frozen=True)
class AffineSettings:
    """How an affine is sought.

    Parameters
    ----------
    method
        ``native``: Levenberg-Marquardt on locally normalised images at every level. ``elastix``: the same
        search, then itk-elastix (mutual information) from its result.
    orientation
        ``code``: the orientation codes say how the axes run (searched where one is missing). ``search``:
        found from the images; codes are then used for handedness only.
    handedness
        ``code``: the codes say whether one array is a mirror image of the other (assumed not where one is
        missing). ``search``: mirror images are tried as well, and refused when nothing tells them apart.
    dof
        6, 7 or 12.
    spacing
        Voxel size of the search level, um; None: the longer image has `longest_axis` voxels.
    longest_axis
        See `spacing`.
    finest_spacing
        Voxel size of the last refinement, um; None: a quarter of the search level's, if the images have it.
    min_overlap
        Least share of the smaller tissue mask that must be covered; None: 0.3 where the codes are known,
        0.6 where orientation is searched.
    accept_margin, refuse_margin
        Score of the best affine over the score of the best different one: accepted from the first on, with
        a warning down to the second.
    min_score
        Least score, ``ncc * sqrt(overlap)``.
    """

    method: Literal["native", "elastix"] = "native"
    orientation: Literal["code", "search"] = "code"
    handedness: Literal["code", "search"] = "code"
    dof: int = 12
    spacing: float | None = None
    longest_axis: int = 64
    finest_spacing: float | None = None
    min_overlap: float | None = None
    accept_margin: float = 1.5
    refuse_margin: float = 1.15
    min_score: float = 0.3


@dataclass(frozen=True)
class AffineResult:
    """The affine start of a registration and how far it can be trusted.

    Parameters
    ----------
    matrix
        (4, 4) float64, um, fixed space to moving space (pull-back), on (z, y, x, 1).
    accepted
        ``accept``, ``warn`` (look at the pictures of `matrix` and `rival`) or ``refuse``.
    score
        ``ncc * sqrt(overlap)`` at the search level.
    margin
        Score over the score of the best different affine; None when there is none.
    rival
        That affine, (4, 4), or None.
    orientation
        (3, 3) signed permutation, fixed to moving directions.
    moving_orientation
        The moving image's code that `orientation` means, if the fixed image's is known.
    ncc, overlap
        Correlation of the locally normalised images in both masks, and the share of the smaller mask that
        is covered, at the finest level.
    notes
        Sentences for the report: what was assumed, what is ambiguous, why it was refused.
    trials
        One dict per refined start.
    """

    matrix: np.ndarray
    accepted: Verdict
    score: float
    margin: float | None
    rival: np.ndarray | None
    orientation: np.ndarray
    moving_orientation: str | None
    ncc: float
    overlap: float
    notes: tuple[str, ...]
    trials: list[dict[str, Any]]


def register_affine(
    fixed: np.ndarray,
    fixed_grid: Grid,
    moving: np.ndarray,
    moving_grid: Grid,
    *,
    fixed_orientation: str | None = None,
    moving_orientation: str | None = None,
    settings: AffineSettings | None = None,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
) -> AffineResult:
    """Find the affine between two images.

    Both images become locally normalised features in their tissue masks. Every orientation that is
    possible, then more and more rotations and scales, are tried with all translations by masked NCC; the
    best starts are refined by Levenberg-Marquardt; the winner is refined at finer levels. The image with
    less tissue is the one that is looked for in the other, whichever of them is fixed.

    Parameters
    ----------
    fixed, moving
        (z, y, x) arrays of any real dtype. Voxels of about `finest_level` um suffice.
    fixed_grid, moving_grid
        Where their voxels lie, um, each in its own space.
    fixed_orientation, moving_orientation
        Orientation codes, see `weft.registration.orientation`; None where nothing is known.
    settings
        See `AffineSettings`.
    seed
        For ``method="elastix"``, which samples at random; the native method draws nothing.
    progress
        Called with a sentence at every step.

    Returns
    -------
    AffineResult
        The best affine found, accepted or not.

    Raises
    ------
    ValueError
        When a code or a setting is not valid, or an image is empty or of another shape than its grid.
    """
    settings = settings or AffineSettings()
    tell = progress or (lambda _: None)
    _check(fixed, fixed_grid, "fixed")
    _check(moving, moving_grid, "moving")
    orientations, notes = _orientations(fixed_orientation, moving_orientation, settings)
    spacing = search_level(fixed_grid, moving_grid, settings)
    fixed_feature = local_feature(fixed, fixed_grid, spacing, _WINDOW * spacing)
    moving_feature = local_feature(moving, moving_grid, spacing, _WINDOW * spacing)

    swapped = moving_feature.volume < fixed_feature.volume
    reference, other = (moving_feature, fixed_feature) if swapped else (fixed_feature, moving_feature)
    directions = [matrix.T if swapped else matrix for matrix in orientations]
    default_overlap = 0.3 if len(directions) == 1 else 0.6
    min_overlap = default_overlap if settings.min_overlap is None else settings.min_overlap
    tell(f"looking for {reference.mask.shape} voxels in {other.mask.shape} at {spacing:g} um")
    pool = _search(reference, other, directions, min_overlap, settings, tell)
    if not pool:
        raise ValueError(
            f"no shift of the moving image covers {min_overlap:g} of the smaller tissue mask; "
            "wanted images that show the same specimen (or a smaller min_overlap)"
        )
    best, rival = _finalists(reference, other, pool, settings.dof)
    margin = best.fit.score / max(rival.fit.score, 1e-3) if rival else None
    notes += _mirror_notes(best, rival, directions, settings)

    def outward(matrix: np.ndarray) -> np.ndarray:
        return np.linalg.inv(matrix) if swapped else matrix

    fine = _refine_fine(
        (fixed, fixed_grid), (moving, moving_grid), outward(best.fit.matrix), swapped, spacing, settings, seed
    )
    coarse_score = AffineRefiner(reference, other).measure(outward(fine.matrix)).score
    if coarse_score < _KEPT_SCORE * best.fit.score:
        notes.append("the finer levels lost the match found at the search level, whose affine is kept")
        fine = replace(best.fit, matrix=outward(best.fit.matrix))
    orientation = orientations[best.orientation]
    verdict = _verdict(best.fit.score, margin, settings, notes)
    code = oriented_code(orientation, fixed_orientation) if fixed_orientation else None
    if code and moving_orientation and code != validate_orientation(moving_orientation):
        notes.append(f"the moving image fits as {code!r}, but its orientation code is {moving_orientation!r}")
        verdict = "warn" if verdict == "accept" else verdict
    tell(f"score {best.fit.score:.3f}, margin {margin and round(margin, 2)}: {verdict}")
    return AffineResult(
        matrix=fine.matrix,
        accepted=verdict,
        score=best.fit.score,
        margin=margin,
        rival=outward(rival.fit.matrix) if rival else None,
        orientation=orientation,
        moving_orientation=code,
        ncc=fine.ncc,
        overlap=fine.overlap,
        notes=tuple(notes),
        trials=[_trial(candidate) for candidate in pool],
    )


def search_level(fixed_grid: Grid, moving_grid: Grid, settings: AffineSettings | None = None) -> float:
    """Voxel size, um, of the level that the search runs at."""
    settings = settings or AffineSettings()
    if settings.spacing is not None:
        return settings.spacing
    longest = max(fixed_grid.extent.max(), moving_grid.extent.max())
    return max(float(longest) / settings.longest_axis, _native_spacing(fixed_grid, moving_grid))


def finest_level(fixed_grid: Grid, moving_grid: Grid, settings: AffineSettings | None = None) -> float:
    """Voxel size, um, of the last refinement: what is read of the images need not be finer."""
    settings = settings or AffineSettings()
    spacing = search_level(fixed_grid, moving_grid, settings)
    wanted = spacing / 4 if settings.finest_spacing is None else settings.finest_spacing
    return min(spacing, max(wanted, _native_spacing(fixed_grid, moving_grid)))


def _native_spacing(fixed_grid: Grid, moving_grid: Grid) -> float:
    """The finest voxel size that both images have."""
    return max(min(fixed_grid.spacing), min(moving_grid.spacing))


def _check(array: np.ndarray, grid: Grid, name: str) -> None:
    """Refuse arrays that nothing can be found in."""
    if array.shape != grid.shape:
        raise ValueError(f"the {name} image is of shape {array.shape}, but its grid of shape {grid.shape}")
    if not np.ptp(array) > 0:
        raise ValueError(f"the {name} image has the same value everywhere; wanted an image of a specimen")


def _orientations(
    fixed_code: str | None, moving_code: str | None, settings: AffineSettings
) -> tuple[list[np.ndarray], list[str]]:
    """The orientations to try, fixed to moving directions, and what was assumed."""
    for code in (fixed_code, moving_code):
        if code is not None:
            validate_orientation(code)
    coded = orientation_matrix(fixed_code, moving_code) if fixed_code and moving_code else None
    if settings.orientation not in ("code", "search") or settings.handedness not in ("code", "search"):
        raise ValueError(
            f"orientation is {settings.orientation!r} and handedness {settings.handedness!r}; "
            "wanted 'code' or 'search' for each"
        )
    mirror = np.diag([1.0, 1.0, -1.0])
    if coded is not None and settings.orientation == "code":
        if settings.handedness == "search":
            return [coded, *(coded @ np.diag(1.0 - 2.0 * np.eye(3)[axis]) for axis in range(3))], []
        return [coded], []
    proper = list(proper_orientations())
    if settings.handedness == "search":
        return proper + [matrix @ mirror for matrix in proper], []
    if coded is None:
        return proper, [
            "an orientation code is missing: the sample is taken not to be a mirror image, and left and right "
            "rest on that alone"
        ]
    return (proper if np.linalg.det(coded) > 0 else [matrix @ mirror for matrix in proper]), []


def _search(
    reference: Feature,
    other: Feature,
    directions: Sequence[np.ndarray],
    min_overlap: float,
    settings: AffineSettings,
    tell: Callable[[str], None],
) -> list[Candidate]:
    """Refined starts of larger and larger efforts, best score first, until one is convincing."""
    search = CandidateSearch(reference, other, min_overlap, settings.dof)
    ratio = float((other.volume / reference.volume) ** (1 / 3))
    tissue_known = not (reference.mask.all() or other.mask.all())
    by_volume = (ratio,) if tissue_known and 0.5 < ratio < 2 and abs(ratio - 1) > 0.04 else ()
    numbered = list(enumerate(directions))
    pool: list[Candidate] = []
    for rotations, scales, refined in _EFFORTS:
        factors = (1.0,) if settings.dof == 6 else scales + by_volume
        starts = search.starts(numbered, rotation_set(rotations), factors)
        tell(
            f"{len(numbered)} orientations, {rotations} rotations, {len(factors)} scales: {len(starts)} starts"
        )
        pool = sorted(pool + search.refine(starts[:refined]), key=lambda c: -c.fit.score)
        ranked = list(dict.fromkeys(start.orientation for start in starts))
        if ranked:
            numbered = [(number, directions[number]) for number in sorted(ranked[:_ORIENTATIONS_KEPT])]
        if pool and pool[0].fit.score >= settings.min_score:
            rivals = _different(reference, pool, pool[0])
            if not rivals or pool[0].fit.score >= settings.accept_margin * rivals[0].fit.score:
                break
    return pool


def _finalists(
    reference: Feature, other: Feature, pool: Sequence[Candidate], dof: int
) -> tuple[Candidate, Candidate | None]:
    """The best affine at the search level and the best one that differs from it."""
    chosen: list[Candidate] = []
    for candidate in pool:
        if len(chosen) < _FINALISTS and all(_different(reference, [candidate], c) for c in chosen):
            chosen.append(candidate)
    smooth = AffineRefiner(smoothed(reference, 1.0), smoothed(other, 1.0))
    sharp = AffineRefiner(reference, other)
    final = [replace(c, fit=sharp.run(smooth.run(c.fit.matrix, dof).matrix, dof, 10)) for c in chosen]
    final.sort(key=lambda c: -c.fit.score)
    rivals = _different(reference, final, final[0])
    return final[0], rivals[0] if rivals else None


def _different(reference: Feature, pool: Sequence[Candidate], best: Candidate) -> list[Candidate]:
    """Those of a pool that send the reference's tissue elsewhere than `best` does."""
    index = np.argwhere(reference.mask)
    points = reference.grid.to_physical(index[:: max(1, len(index) // 2000)])

    def distance(candidate: Candidate) -> float:
        difference = candidate.fit.matrix - best.fit.matrix
        return float(np.linalg.norm(points @ difference[:3, :3].T + difference[:3, 3], axis=1).mean())

    # Measured in the other image, in units of the reference: a small scale must not make rivals equal.
    size = abs(np.linalg.det(best.fit.matrix[:3, :3])) ** (1 / 3)
    limit = _DIFFERENT * reference.grid.spacing[0] * min(size, 1.0)
    return [candidate for candidate in pool if distance(candidate) > limit]


def _refine_fine(
    fixed: tuple[np.ndarray, Grid],
    moving: tuple[np.ndarray, Grid],
    matrix: np.ndarray,
    swapped: bool,
    spacing: float,
    settings: AffineSettings,
    seed: int,
) -> Fit:
    """The affine, fixed to moving, after the levels below the search level."""
    finest = finest_level(fixed[1], moving[1], settings)
    if settings.method == "elastix":
        matrix = refine_with_elastix(*fixed, *moving, matrix, max(finest, spacing / 2), settings.dof, seed)
    for level in sorted({max(finest, spacing / 2), finest}, reverse=True):
        features = [local_feature(*image, level, _WINDOW * spacing) for image in (fixed, moving)]
        reference, other = reversed(features) if swapped else features
        start = np.linalg.inv(matrix) if swapped else matrix
        samples = np.count_nonzero(reference.mask)
        stride = max(1, round((samples / _FINE_SAMPLES) ** (1 / 3)))
        refiner = AffineRefiner(reference, other, stride)
        if settings.method == "elastix":
            fit = refiner.measure(start)
        else:
            fit = refiner.run(start, settings.dof, overlap_power=0.0)
        matrix = np.linalg.inv(fit.matrix) if swapped else fit.matrix
    return replace(fit, matrix=matrix)


def _mirror_notes(
    best: Candidate, rival: Candidate | None, directions: Sequence[np.ndarray], settings: AffineSettings
) -> list[str]:
    """What can be said of left and right."""
    if settings.handedness != "search" or rival is None:
        return []
    opposite = np.linalg.det(directions[best.orientation]) * np.linalg.det(directions[rival.orientation]) < 0
    if opposite and rival.fit.score > (1 - _MIRROR_TIE) * best.fit.score:
        return ["a mirror image fits as well: left and right cannot be told from these images"]
    return []


def _verdict(score: float, margin: float | None, settings: AffineSettings, notes: list[str]) -> Verdict:
    """Whether a result may be built on."""
    if score < settings.min_score:
        notes.append(f"the score {score:.3f} is below {settings.min_score:g}: no match was found")
        return "refuse"
    if margin is None or margin >= settings.accept_margin:
        return "accept"
    if margin >= settings.refuse_margin:
        notes.append(f"the best different affine is close (margin {margin:.2f}): compare the two pictures")
        return "warn"
    notes.append(f"a different affine fits as well (margin {margin:.2f})")
    return "refuse"


def _trial(candidate: Candidate) -> dict[str, Any]:
    """A row of the table of trials."""
    return {
        "orientation": candidate.orientation,
        "rotation": candidate.rotation,
        "scale": round(candidate.scale, 4),
        "translation_ncc": round(candidate.translation_ncc, 4),
        "ncc": round(candidate.fit.ncc, 4),
        "overlap": round(candidate.fit.overlap, 4),
        "score": round(candidate.fit.score, 4),
    }
