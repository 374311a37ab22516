"""The affine start: found without a good guess, with a score and a margin that announce failure."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from weft.grid import Grid
from weft.registration.candidates import LARGEST_TURN, UNCHANGED, Candidate, turned_by
from weft.registration.confidence import Thresholds, Verdict, judge, mirror_note
from weft.registration.elastix_affine import refine_with_elastix
from weft.registration.features import Feature, finite, local_feature
from weft.registration.linear_model import Kind, LinearModel
from weft.registration.orientation import (
    nearest_orientation,
    oriented_code,
    possible_orientations,
    validate_orientation,
)
from weft.registration.refine import AffineRefiner, Fit
from weft.registration.search import finalists, margin_of, search
from weft.registration.unseen import seen

_WINDOW = 3.0  # of the local normalisation, voxels of the search level
_PLANE = 4  # times as many voxels along the longest axis of a plane as of a volume
_FINER = 0.85  # share of the level from which a finer one is worth its cost
_KEPT_SCORE = 0.9  # share of its score at the search level that a fine affine must keep
_FEWEST = 40_000  # voxels of tissue at the search level: a thin slab's length alone would ask for few
_FINE_SAMPLES = 200_000
_LARGEST_RATIO = 32.0  # of the lengths of the two images: half of the search level's `longest_axis`

_Seen = tuple[np.ndarray, Grid, np.ndarray | None]  # an image, its grid, and where it counts


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
    model
        ``rigid``, ``similarity`` or ``affine``. Images of a single plane are moved in their plane only.
    spacing
        Voxel size of the search level, um; None: the longer image has `longest_axis` voxels (planes: four
        times as many).
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
        Least score, ``ncc * sqrt(overlap)``; half of it where the margin is twice `accept_margin`, and for single
        planes a quarter of it where the margin is `refuse_margin`.
    """

    method: Literal["native", "elastix"] = "native"
    orientation: Literal["code", "search"] = "code"
    handedness: Literal["code", "search"] = "code"
    model: Kind = "affine"
    spacing: float | None = None
    longest_axis: int = 64
    finest_spacing: float | None = None
    min_overlap: float | None = None
    accept_margin: float = 1.5
    refuse_margin: float = 1.15
    min_score: float = 0.3

    @property
    def thresholds(self) -> Thresholds:
        """What a result is judged by."""
        return Thresholds(self.accept_margin, self.refuse_margin, self.min_score)


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
    start: np.ndarray | None = None,
    refine: bool = True,
    masks: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
    efforts: int | None = None,
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
    start
        (4, 4), um, fixed to moving: used instead of a search. It is judged by its score alone.
    refine
        Whether a given start is refined.
    masks
        (z, y, x) bool, where the fixed and where the moving image counts; None: everywhere but in padding, as
        `weft.registration.unseen.seen` finds it.
    efforts
        Of the search, how many at most; None: all.

    Returns
    -------
    AffineResult
        The best affine found, accepted or not.

    Raises
    ------
    ValueError
        When a code or a setting is not valid, an image is empty or of another shape than its grid, one is a
        plane and the other a volume, or one is more than 32 times as long as the other and no start is given.
    """
    settings = settings or AffineSettings()
    tell = progress or (lambda _: None)
    _check(fixed, fixed_grid, masks[0], "fixed")
    _check(moving, moving_grid, masks[1], "moving")
    if start is None:
        check_sizes(fixed_grid, moving_grid)
    counts = [
        seen(finite(a)) if mask is None else mask for a, mask in zip((fixed, moving), masks, strict=True)
    ]
    images = (fixed, fixed_grid, counts[0]), (moving, moving_grid, counts[1])
    model = LinearModel(settings.model, is_planar(fixed_grid, moving_grid))
    thresholds = replace(settings.thresholds, planar=model.planar)
    orientations, notes = possible_orientations(
        fixed_orientation,
        moving_orientation,
        settings.orientation == "search",
        settings.handedness == "search",
        model.planar,
    )
    spacing, fixed_feature, moving_feature = _search_features(*images, settings)

    swapped = moving_feature.volume < fixed_feature.volume
    reference, other = (moving_feature, fixed_feature) if swapped else (fixed_feature, moving_feature)
    directions = [matrix.T if swapped else matrix for matrix in orientations]
    default_overlap = 0.3 if len(directions) == 1 else 0.6
    min_overlap = default_overlap if settings.min_overlap is None else settings.min_overlap
    about = UNCHANGED
    tell(f"looking for {reference.mask.shape} voxels in {other.mask.shape} at {spacing:g} um")
    if start is not None:
        orientations = [nearest_orientation(start)]
        given = np.linalg.inv(start) if swapped else start
        about = given[:3, :3]
        pool = [Candidate(0, 0, 1.0, 0.0, AffineRefiner(reference, other).measure(given))]
        tell(f"given start: score {pool[0].fit.score:.3f}")
    else:
        pool = search(reference, other, directions, min_overlap, model, thresholds, tell, efforts)
    if not pool:
        raise ValueError(
            f"no shift of the moving image covers {min_overlap:g} of the smaller tissue mask; "
            "wanted images that show the same specimen (or a smaller min_overlap)"
        )
    best, rival = finalists(reference, other, pool, model, about) if refine else (pool[0], None)
    margin = margin_of(reference, [best, rival]) if rival else None
    if model.planar and start is None:  # the level of the search has far more rivals
        margin = min((m for m in (margin, margin_of(reference, pool)) if m is not None), default=None)
    ambiguous = ""
    if settings.handedness == "search" and start is None:
        ambiguous = mirror_note(best, rival, directions, (reference, other))
        notes += [ambiguous] if ambiguous else []

    def turned(matrix: np.ndarray) -> np.ndarray:
        """From reference to other as from fixed to moving, and the other way round."""
        return np.linalg.inv(matrix) if swapped else matrix

    fine = _refine_fine(*images, turned(best.fit.matrix), swapped, spacing, settings, seed, refine, about)
    coarse_score = AffineRefiner(reference, other).measure(turned(fine.matrix)).score
    if refine and coarse_score < _KEPT_SCORE * best.fit.score:
        notes.append("the finer levels lost the match found at the search level, whose affine is kept")
        fine = replace(best.fit, matrix=turned(best.fit.matrix))
    orientation = orientations[best.orientation]
    # The refinement may have gone on to where another one leads.
    if turned_by(orientation, fine.matrix) > LARGEST_TURN:
        orientation = nearest_orientation(fine.matrix)
    verdict = judge(best.fit.score, margin, thresholds, notes)
    if not model.plausible(turned(fine.matrix)[:3, :3] @ np.linalg.inv(about)):
        stretches = ", ".join(f"{stretch:.2f}" for stretch in model.stretches(fine.matrix[:3, :3]))
        notes.append(
            f"it stretches the directions by {stretches}, which is too unequal: check the voxel sizes"
        )
        verdict = "refuse"
    verdict = "refuse" if ambiguous else verdict
    code = oriented_code(orientation, fixed_orientation) if fixed_orientation else None
    if (
        verdict != "refuse"
        and code
        and moving_orientation
        and code != validate_orientation(moving_orientation)
    ):
        notes.append(f"the moving image fits as {code!r}, but its orientation code is {moving_orientation!r}")
        verdict = "warn" if verdict == "accept" else verdict
    tell(f"score {best.fit.score:.3f}, margin {margin and round(margin, 2)}: {verdict}")
    return AffineResult(
        matrix=fine.matrix,
        accepted=verdict,
        score=best.fit.score,
        margin=margin,
        rival=turned(rival.fit.matrix) if rival else None,
        orientation=orientation,
        moving_orientation=code,
        ncc=fine.ncc,
        overlap=fine.overlap,
        notes=tuple(notes),
        trials=[_trial(candidate) for candidate in pool],
    )


def _feature(image: _Seen, spacing: float, window: float) -> Feature:
    array, grid, counts = image
    return local_feature(array, grid, spacing, window, counts)


def _search_features(fixed: _Seen, moving: _Seen, settings: AffineSettings) -> tuple[float, Feature, Feature]:
    """The search level's voxel size, um, and the features of both images there.

    What counts is how many voxels the tissue has, not the empty field around it: where there is much of that, or
    the tissue is thin, the level is finer than `search_level`.
    """
    spacing = search_level(fixed[1], moving[1], settings)
    features = [_feature(image, spacing, _WINDOW * spacing) for image in (fixed, moving)]
    if settings.spacing is None:
        share = max(feature.longest / feature.grid.extent.max() for feature in features)
        planar = is_planar(fixed[1], moving[1])
        filled = 1.0 if planar else min(np.count_nonzero(f.mask) for f in features) / _FEWEST
        finer = max(spacing * min(share, np.cbrt(filled)), _native_spacing(fixed[1], moving[1]))
        if finer < _FINER * spacing:
            spacing = finer
            features = [_feature(image, spacing, _WINDOW * spacing) for image in (fixed, moving)]
    return spacing, features[0], features[1]


def search_level(fixed_grid: Grid, moving_grid: Grid, settings: AffineSettings | None = None) -> float:
    """Voxel size, um, of the level that the search runs at; finer where tissue fills little of the fields."""
    settings = settings or AffineSettings()
    if settings.spacing is not None:
        return settings.spacing
    planar = is_planar(fixed_grid, moving_grid)
    longest = max(fixed_grid.extent[planar:].max(), moving_grid.extent[planar:].max())
    voxels = settings.longest_axis * (_PLANE if planar else 1)
    return max(float(longest) / voxels, _native_spacing(fixed_grid, moving_grid))


def finest_level(fixed_grid: Grid, moving_grid: Grid, settings: AffineSettings | None = None) -> float:
    """Voxel size, um, of the last refinement: what is read of the images need not be finer."""
    settings = settings or AffineSettings()
    spacing = search_level(fixed_grid, moving_grid, settings)
    wanted = spacing / 4 if settings.finest_spacing is None else settings.finest_spacing
    return min(spacing, max(wanted, _native_spacing(fixed_grid, moving_grid)))


def is_planar(fixed_grid: Grid, moving_grid: Grid) -> bool:
    """Whether the images are single planes.

    Raises
    ------
    ValueError
        When one is and the other is not.
    """
    depths = fixed_grid.shape[0], moving_grid.shape[0]
    if min(depths) == 1 < max(depths):
        raise ValueError(
            f"the fixed image has {depths[0]} planes and the moving image {depths[1]}; "
            "wanted two volumes or two single planes"
        )
    return max(depths) == 1


def _native_spacing(fixed_grid: Grid, moving_grid: Grid) -> float:
    """The finest voxel size that both images have."""
    planar = is_planar(fixed_grid, moving_grid)
    return max(min(fixed_grid.spacing[planar:]), min(moving_grid.spacing[planar:]))


def _check(array: np.ndarray, grid: Grid, counts: np.ndarray | None, name: str) -> None:
    """Refuse arrays that nothing can be found in."""
    if array.shape != grid.shape:
        raise ValueError(f"the {name} image is of shape {array.shape}, but its grid of shape {grid.shape}")
    if counts is not None and counts.shape != array.shape:
        raise ValueError(f"the {name} mask is of shape {counts.shape}, but its image of shape {array.shape}")
    if counts is not None and not counts.any():
        raise ValueError(f"the {name} mask leaves nothing of its image; wanted one that is above 0 somewhere")
    values = array if counts is None else array[counts]
    if not values.max() > values.min():
        raise ValueError(f"the {name} image has the same value everywhere; wanted an image of a specimen")


def check_sizes(fixed_grid: Grid, moving_grid: Grid, affine: np.ndarray | None = None) -> None:
    """Refuse images of which one is a voxel or two of the search level.

    Parameters
    ----------
    fixed_grid, moving_grid
        Of the images, um.
    affine
        (4, 4), um, fixed to moving, where it is given.

    Raises
    ------
    ValueError
        When one is more than 32 times as long as the other: somebody's unit is not um.
    """
    matrix = np.eye(4) if affine is None else affine
    extents = {"fixed": np.abs(matrix[:3, :3]) @ fixed_grid.extent, "moving": np.asarray(moving_grid.extent)}
    lengths = {name: float(extent.max()) for name, extent in extents.items()}
    small, large = sorted(lengths, key=lambda name: lengths[name])
    ratio = lengths[large] / lengths[small]
    if ratio > _LARGEST_RATIO:
        short, long = (
            np.format_float_positional(lengths[name], 4, fractional=False) for name in (small, large)
        )
        raise ValueError(
            f"the {small} image is {short.rstrip('.')} um long and the {large} image {long.rstrip('.')} um, {ratio:.0f} "
            f"times as much; wanted at most {_LARGEST_RATIO:g} times: are both voxel sizes in um?"
        )


def lies_beside(fixed_grid: Grid, moving_grid: Grid, affine: np.ndarray) -> str | None:
    """What is to be said of an affine (4, 4), um, fixed to moving, that does not bring two images together; None of others."""
    extents = np.abs(affine[:3, :3]) @ fixed_grid.extent + moving_grid.extent
    there = affine[:3, :3] @ (fixed_grid.lower + fixed_grid.upper) / 2 + affine[:3, 3]
    here = (moving_grid.lower + moving_grid.upper) / 2
    if (np.abs(there - here) < extents / 2).all():
        return None
    middles = [", ".join(f"{value:.4g}" for value in point) for point in (there, here)]
    return (
        f"the affine sends the middle of the fixed image to {middles[0]} um (z, y, x), and the moving image, about {middles[1]}, "
        "lies beside it; wanted a matrix on (z, y, x, 1) in um from fixed to moving points: is it that of the other direction?"
    )


def _refine_fine(
    fixed: _Seen,
    moving: _Seen,
    matrix: np.ndarray,
    swapped: bool,
    spacing: float,
    settings: AffineSettings,
    seed: int,
    refine: bool,
    about: np.ndarray,
) -> Fit:
    """The affine, fixed to moving, after the levels below the search level (or only measured there)."""
    finest = min(spacing, finest_level(fixed[1], moving[1], settings))
    if settings.method == "elastix" and refine:
        matrix = refine_with_elastix(
            *fixed[:2],
            *moving[:2],
            matrix,
            max(finest, spacing / 2),
            settings.model,
            seed,
            masks=(fixed[2], moving[2]),
        )
    for level in sorted({max(finest, spacing / 2), finest}, reverse=True):
        features = [_feature(image, level, _WINDOW * spacing) for image in (fixed, moving)]
        reference, other = reversed(features) if swapped else features
        start = np.linalg.inv(matrix) if swapped else matrix
        samples = np.count_nonzero(reference.mask)
        stride = max(1, round((samples / _FINE_SAMPLES) ** (1 / 3)))
        refiner = AffineRefiner(reference, other, stride)
        if settings.method == "elastix" or not refine:
            fit = refiner.measure(start)
        else:
            fit = refiner.run(start, settings.model, overlap_power=0.0, about=about)
        matrix = np.linalg.inv(fit.matrix) if swapped else fit.matrix
    return replace(fit, matrix=matrix)


def _trial(candidate: Candidate) -> dict[str, Any]:
    """A row of the table of trials."""
    return {
        "orientation": candidate.orientation,
        "rotation": candidate.rotation,
        "scale": round(candidate.scale, 4),
        "translation_score": round(candidate.translation_score, 4),
        "ncc": round(candidate.fit.ncc, 4),
        "overlap": round(candidate.fit.overlap, 4),
        "score": round(candidate.fit.score, 4),
    }
