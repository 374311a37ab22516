"""Rule register_blocks: one batch of blocks of a stage."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from weft import receipts
from weft.blocks import deal
from weft.grid import Grid
from weft.image import Image
from weft.logs import log, progress
from weft.registration.contract import backend_version
from weft.registration.engine import Block, cut_block, parent_record, register_block
from weft.registration.features import log_intensity, otsu_threshold
from weft.registration.ledger import MACHINE_DEPENDENT
from weft.registration.plan import block_regions
from weft.sampling import stage_grid
from weft.steps.block_results import block_path, save_block
from weft.steps.sources import channel_of, open_received
from weft.transforms import open_transform

SURVEY = 2_000_000  # voxels of the pyramid level from which the background's value is taken


def register_blocks(
    *,
    plan: str,
    fixed: str,
    moving: str,
    start: str,
    settings: dict[str, Any],
    channels: dict[str, str | None],
    batches: int,
    batch: int,
    rerun_status: list[str],
    cache: str,
    code: str,
    receipt: str,
    threads: int,
) -> None:
    """Register one batch of blocks on top of the transform so far.

    A block's result is kept under a name made of its voxels, its start, the settings, the code and the
    backend's version; a block done before is found. What depends on the machine (an error) is not kept.
    """
    planned = receipts.read(plan)
    images = {role: open_received(path)[0] for role, path in (("fixed", fixed), ("moving", moving))}
    pick = {role: (image, channel_of(image, channels[role])) for role, image in images.items()}
    _, displacements, affine = open_transform(start).split()
    field = (displacements.field, displacements.grid) if displacements else None
    grid = Grid.from_json(planned["grid"])
    moving_stage = stage_grid(images["moving"].grid, grid.spacing[0])
    background = (background_value(*pick["fixed"]), background_value(*pick["moving"]))
    mine = deal(planned["ids"], batch, batches)
    facts = [
        background,
        settings["settings"],
        settings["min_content"],
        settings["backend"],
        backend_version(settings["backend"]),
        code,
        receipts.environment("numba", "scipy"),
    ]

    def one(name: str) -> tuple[str, bool]:
        _, padded = block_regions(planned, name)
        block = cut_block(
            pick["fixed"], pick["moving"], grid.crop(padded), moving_stage, affine, field, planned["overlap"]
        )
        key = receipts.digest([name, _block_digests(block), facts])
        path = block_path(cache, key)
        if path.exists() and receipts.read(path)["status"] not in (*MACHINE_DEPENDENT, *rerun_status):
            return key, False
        seed = int(receipts.digest([name, settings["settings"]])[:8], 16)
        began = time.monotonic()
        try:
            u, record = register_block(
                block,
                backend=settings["backend"],
                settings=settings["settings"],
                background=background,
                min_content=settings["min_content"],
                seed=seed,
            )
        except (RuntimeError, TimeoutError) as error:
            # A backend that crashes or hangs costs its block and no other one.
            log.error("block %s: %s", name, error)
            status = "timeout" if isinstance(error, TimeoutError) else "error"
            u, record = None, {**parent_record(status, seed), "message": str(error)}
        save_block(path, u, record, time.monotonic() - began)
        return key, True

    with receipts.job_lock(receipt):
        with ThreadPoolExecutor(threads) as pool:
            done = list(progress(pool.map(one, mine), len(mine), "register_blocks: blocks"))
        log.info("made %d of %d blocks", sum(made for _, made in done), len(mine))
        receipts.write(receipt, {"blocks": {name: key for name, (key, _) in zip(mine, done, strict=True)}})


def background_value(image: Image, channel: int) -> float:
    """The value between background and content: Otsu's threshold of the logarithm, on a coarse level."""
    level = next((v for v in image.levels if v.grid.size <= SURVEY), image.levels[-1])
    values = level.read(channel)
    threshold = otsu_threshold(log_intensity(values))
    content = values[log_intensity(values) > threshold]
    return float(content.min()) / 2 if content.size else 0.0


def _block_digests(block: Block) -> list[Any]:
    """Digests of all that a block is made of."""
    arrays = [block.fixed, block.moving, block.initial.field]
    grids = [block.fixed_grid, block.moving_grid, block.initial.field_grid]
    return [
        [None if array is None else receipts.array_digest(array) for array in arrays],
        [None if grid is None else grid.to_json() for grid in grids],
        block.initial.affine.tolist(),
    ]
