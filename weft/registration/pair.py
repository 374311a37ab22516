"""Registration from Python: the steps of the workflow on two images in memory or on disk, without its files."""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Many
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from weft.blocks import blocks_along_axes
from weft.config.registration import Affine as AffineStart
from weft.config.registration import Invert, Reduce, RegistrationSettings, Stage
from weft.grid import Grid
from weft.image import Image, Level
from weft.logs import log, warn
from weft.refusals import parse
from weft.registration.affine import AffineResult, AffineSettings, check_sizes, lies_beside
from weft.registration.backend_settings import checked_settings
from weft.registration.combine import combine_blocks
from weft.registration.contract import SEVERAL_CHANNELS, load_backend, one_channel
from weft.registration.memory import hold_little
from weft.registration.plan import plan_stage
from weft.registration.stage import StageJob
from weft.registration.start import find_affine, where_it_counts
from weft.registration.survey import overview, survey_images
from weft.registration.workers import further_tries, open_field, run_blocks
from weft.transforms.invert import find_inverse
from weft.transforms.model import Affine, Displacements, Sequence

Source = Image | np.ndarray | tuple[Image, str | int]


@dataclass(frozen=True)
class Registered:
    """What `register` found.

    Parameters
    ----------
    transform
        Points of the fixed space to points of the moving space, um (pull-back); ``.inverse`` goes back.
    blocks
        The block tables: per name of a stage, one row per block with the columns of ``ledger.tsv``.
    affine
        The affine start and how far it can be trusted; None when it was given.
    round_trip
        Error of transform and inverse over every fixed voxel, and by block of the last stage (``blocks``): see
        `weft.transforms.round_trip.round_trip`; empty without stages or inverse.
    """

    transform: Sequence
    blocks: dict[str, list[dict[str, Any]]] = field(default_factory=dict)
    affine: AffineResult | None = None
    round_trip: dict[str, Any] = field(default_factory=dict)


def register(
    fixed: Image | np.ndarray,
    moving: Image | np.ndarray,
    *,
    fixed_grid: Grid | None = None,
    moving_grid: Grid | None = None,
    fixed_channel: str | int | None = None,
    moving_channel: str | int | None = None,
    more: Many[tuple[Source, Source]] = (),
    channel_weights: Many[float] | None = None,
    fixed_mask: Image | np.ndarray | None = None,
    moving_mask: Image | np.ndarray | None = None,
    affine: np.ndarray | Mapping[str, Any] | None = None,
    stages: Many[Stage | Mapping[str, Any]] | None = None,
    reduce: Reduce | Mapping[str, Any] | None = None,
    invert: Invert | Mapping[str, Any] | None = None,
    inverse: bool = True,
    workers: int = 1,
    processes: bool = False,
    client: Any = None,
    logs: str | Path | None = None,
    seed: int = 0,
) -> Registered:
    """Register a moving to a fixed image: an affine, then block-wise deformable stages.

    The blocks of a stage run side by side in local threads, in local processes or on a cluster; the result is
    the same to the byte, and the same as the workflow's for the same images, start and settings. Every worker
    reads its own blocks: an `Image` of lazy arrays (`weft.stores.open_image`) is never loaded as a whole, and the
    workers of a cluster must be able to open its files.

    Parameters
    ----------
    fixed, moving
        `weft.image.Image`, or an array (z, y, x) of real numbers with its grid. What is not finite does not count.
    fixed_grid, moving_grid
        Grids, um, of arrays.
    fixed_channel, moving_channel
        Name of the channel to register; the first by default.
    more
        Further channels that the stages compare, in pairs: a fixed and a moving one, each an `Image` in the same space as
        the first one, of which the first channel counts, with the name of another, or an array (z, y, x) on its grid.
    channel_weights
        How much each pair of channels counts in the stages, that of `fixed` and `moving` first.
    fixed_mask, moving_mask
        Where the images count in the stages: an `Image` in the same space, or an array on the image's grid; above 0,
        or by weights of 0 to 1 (a float type).
    affine
        Where to start: a (4, 4) matrix, um, z, y, x, fixed to moving; or settings of `weft.config.registration.Affine` for the
        search of one (default: its defaults).
    stages
        `weft.config.registration.Stage`, or mappings of its fields, coarse to fine; the default of the config when None; empty
        for an affine alone.
    reduce, invert
        `Reduce` and `Invert` of `weft.config.registration`, or mappings of their fields.
    inverse
        Compute the inverse of the displacements; without it the transform has none, and no round trip.
    workers
        So many blocks at a time; fewer blocks share the threads.
    processes
        Local processes instead of threads: for backends that hold Python's global lock. As for any use of
        multiprocessing, the calling script needs its ``if __name__ == "__main__"``.
    client
        A `dask.distributed.Client`: the blocks run on its workers, and `workers` and `processes` do not count.
    logs
        Folder in which blocks of stages with ``debug`` leave their logs and volumes, as ``<stage>/<block>``.
    seed
        Of the affine search.

    Raises
    ------
    ValueError
        For images, grids, masks or settings that cannot be used, or when the affine is refused and its policy is
        ``fail``.
    """
    pick_fixed = _pick(fixed, fixed_grid, fixed_channel, "fixed")
    pick_moving = _pick(moving, moving_grid, moving_channel, "moving")
    channels = _channels(pick_fixed, pick_moving, more)
    if channel_weights is not None and len(channel_weights) != len(channels[0]):
        raise ValueError(
            f"channel_weights holds {len(channel_weights)} numbers for {len(channels[0])} channels; wanted one for each"
        )
    settings = _settings(affine, stages, reduce, invert)
    if client is None and workers < 1:
        raise ValueError(f"workers is {workers}; wanted 1 or more blocks at a time")
    if client is not None and not (hasattr(client, "submit") and hasattr(client, "scatter")):
        raise ValueError(f"client is {client!r}; wanted a dask.distributed.Client")
    for stage in settings.stages:
        load_backend(stage.backend)
        if len(channels[0]) > 1 and one_channel(stage.backend):
            raise ValueError(
                f"stage {stage.name!r}: backend {stage.backend!r} compares one channel, and more adds {len(more)}; "
                f"wanted {' or '.join(SEVERAL_CHANNELS)}, or no more"
            )
    if logs is None and (asks := next((stage.name for stage in settings.stages if stage.debug), None)):
        raise ValueError(f"stage {asks!r} asks for debug; wanted `logs`, a folder for it")
    masks = (_mask(fixed_mask, pick_fixed[0], "fixed"), _mask(moving_mask, pick_moving[0], "moving"))
    if processes and workers > 1:
        hold_little()
    found: AffineResult | None = None
    if affine is not None and not isinstance(affine, Mapping):
        matrix = Affine(np.asarray(affine, float)).matrix
        check_sizes(pick_fixed[0].grid, pick_moving[0].grid, matrix)
        if doubt := _doubt(pick_fixed[0], pick_moving[0], masks, matrix):
            warn(doubt)
    else:
        found = _search(pick_fixed, pick_moving, masks, settings.affine, seed)
        matrix = found.matrix
    displacements: Displacements | None = None
    residual: float | None = None
    tables = {}
    seen = [[overview(*source) for source in sources] for sources in channels] if settings.stages else []
    for stage in settings.stages:
        plain = stage.model_dump(mode="json")
        plan = plan_stage(pick_fixed[0].grid, plain, residual, len(channels[0]))
        known = survey_images(plan, plain, *seen)
        job = StageJob(
            plan=plan,
            settings=plain,
            fixed=channels[0],
            moving=channels[1],
            affine=matrix,
            start=displacements,
            zeros=known["zero"],
            background=tuple(known["background"]),
            intensity=known["intensity"],
            weights=None if channel_weights is None else tuple(channel_weights),
            masks=masks,
            logs=None if logs is None else str(Path(logs).absolute() / stage.name),
        )
        with TemporaryDirectory(prefix="weft-") as folder:
            outcomes = run_blocks(job, workers, processes, client, folder)
            records = {name: record for name, (_, record) in outcomes.items()}
            combined = combine_blocks(
                job.plan,
                partial(open_field, outcomes),
                records,
                displacements,
                settings.reduce.model_dump(),
                further_tries(job, records),
                measured=False,
            )
        displacements, residual = combined.displacements, combined.facts["residual_um"]
        tables[stage.name] = combined.blocks
    if displacements is None:
        return Registered(Sequence((Affine(matrix),)), {}, found)
    if not inverse:
        return Registered(Sequence((displacements, Affine(matrix))), tables, found)
    back = find_inverse(
        displacements.field,
        displacements.grid,
        pick_fixed[0].grid,
        voxel=Grid.from_json(job.plan["grid"]).finest,
        **settings.invert.model_dump(),
        blocks=blocks_along_axes(job.plan, pick_fixed[0].grid),
    )
    both = _both_ways(displacements, back.displacements, matrix)
    return Registered(both, tables, found, back.round_trip)


def _pick(
    image: Image | np.ndarray, grid: Grid | None, channel: str | int | None, role: str
) -> tuple[Image, int]:
    """An image and the index of the channel to register."""
    if not isinstance(image, Image):
        image = np.asarray(image)
        if image.dtype.kind not in "biuf":
            raise ValueError(f"the {role} image is an array of {image.dtype}; wanted real numbers")
        if image.ndim != 3:
            raise ValueError(
                f"the {role} image is an array of shape {image.shape}; wanted (z, y, x), of a single plane (1, y, x)"
            )
        if not isinstance(grid, Grid) or image.shape != grid.shape:
            found = (
                "None" if grid is None else f"of shape {grid.shape}" if isinstance(grid, Grid) else repr(grid)
            )
            raise ValueError(
                f"the {role} image is an array of shape {image.shape}, and {role}_grid is {found}; wanted a "
                f"weft.grid.Grid of the array's shape, with its voxel size in um (z, y, x)"
            )
        image = Image((Level(image[None], grid),))
    elif grid is not None:
        raise ValueError(f"the {role} image is an Image, which has its grid; leave {role}_grid out")
    return image, 0 if channel is None else image.channel(channel)


def _channels(
    fixed: tuple[Image, int], moving: tuple[Image, int], more: Many[tuple[Source, Source]]
) -> tuple[list[tuple[Image, int]], list[tuple[Image, int]]]:
    """All channels to be compared, fixed and moving."""
    found = [fixed], [moving]
    for pair in more:
        for role, picked, source in zip(("fixed", "moving"), found, pair, strict=True):
            image, name = source if isinstance(source, tuple) else (source, None)
            grid = None if isinstance(image, Image) else picked[0][0].grid
            picked.append(_pick(image, grid, name, role))
    return found


def _mask(mask: Image | np.ndarray | None, image: Image, role: str) -> Image | None:
    """A mask as an image."""
    if mask is None or isinstance(mask, Image):
        return mask
    if np.shape(mask) != image.grid.shape:
        raise ValueError(
            f"the {role}_mask is an array of shape {np.shape(mask)}; wanted {image.grid.shape}, as the {role} image"
        )
    return Image((Level(np.asarray(mask)[None], image.grid),))


def _settings(
    affine: np.ndarray | Mapping[str, Any] | None,
    stages: Many[Stage | Mapping[str, Any]] | None,
    reduce: Reduce | Mapping[str, Any] | None,
    invert: Invert | Mapping[str, Any] | None,
) -> RegistrationSettings:
    """The settings as the config would hold them."""
    given: dict[str, Any] = {"reduce": reduce, "invert": invert, "stages": stages}
    if isinstance(affine, Mapping):
        given["affine"] = affine
    given = {name: value for name, value in given.items() if value is not None}
    settings = parse(RegistrationSettings, given, "register")
    for stage in settings.stages:
        stage.settings = checked_settings(stage.backend, stage.settings)
    return settings


def _doubt(
    fixed: Image, moving: Image, masks: tuple[Image | None, Image | None], matrix: np.ndarray
) -> str | None:
    """Why no block can find anything, which a search would refuse: with a given affine, each says so by its status."""
    try:
        for role, image, mask in zip(("fixed", "moving"), (fixed, moving), masks, strict=True):
            where_it_counts(role, image, mask, image.levels[-1].grid)
    except ValueError as error:
        return str(error)
    return lies_beside(fixed.grid, moving.grid, matrix)


def _search(
    fixed: tuple[Image, int],
    moving: tuple[Image, int],
    masks: tuple[Image | None, Image | None],
    start: AffineStart,
    seed: int,
) -> AffineResult:
    """The affine start, refused as the workflow would."""
    settings = AffineSettings(**start.model_dump(exclude={"policy", "start"}))
    given = start.start.model_dump() if start.start else None
    found = find_affine(fixed, moving, settings, seed, log.info, start=given, masks=masks)
    if found.accepted == "refuse" and start.policy == "fail":
        raise ValueError(
            f"the affine is refused: {'; '.join(found.notes)}; check orientations and voxel sizes, "
            "or set the affine's policy to warn to go on"
        )
    return found


def _both_ways(u: Displacements, v: Displacements, matrix: np.ndarray) -> Sequence:
    """x -> A(x + u(x)) with its inverse, w + v(w) for w = A^-1 y."""
    forward = Sequence((u, Affine(matrix)), "fixed", "moving", lambda: backward)
    backward = Sequence((Affine(matrix).inverse, v), "moving", "fixed", lambda: forward)
    return forward
