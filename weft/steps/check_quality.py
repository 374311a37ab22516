"""Rule check_quality: what a registration gained."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from weft import receipts
from weft.grid import Grid
from weft.quality.metrics import mutual_information, ncc
from weft.sampling import read_at
from weft.steps.quality import collect_quality, write_quality
from weft.steps.sources import channel_of, open_received
from weft.transforms import open_transform
from weft.transforms.model import Sequence
from weft.warp import warp_sequence

SAMPLES = 4_000_000  # voxels on which a registration is compared


def check_quality(
    *,
    parts: list[str],
    fixed: str,
    moving: str,
    affine: str,
    transform: str,
    channels: dict[str, str | None],
    gates: dict[str, Any],
    code: str,
    quality: str,
) -> None:
    """Compare fixed and warped moving image before (affine) and after; collect the gates of all stages."""
    pair = comparison(fixed, moving, affine, transform, channels)
    mask = pair["inside"]
    values = {
        "ncc_affine": ncc(pair["fixed"], pair["before"], mask),
        "ncc": ncc(pair["fixed"], pair["after"], mask),
        "mutual_information_affine": mutual_information(pair["fixed"], pair["before"], mask),
        "mutual_information": mutual_information(pair["fixed"], pair["after"], mask),
        "covered_fraction": float(mask.mean()),
    }
    values["ncc_gain"] = values["ncc"] - values["ncc_affine"]
    own = f"{quality}.own.json"
    write_quality(own, "check_quality", Path(quality).parent.name, values, gates)
    receipts.write(quality, collect_quality([*parts, own]))
    Path(own).unlink()


def comparison(
    fixed: str, moving: str, affine: str, transform: str, channels: dict[str, str | None]
) -> dict[str, Any]:
    """Fixed image, and moving image on its grid by the affine alone and by the whole transform, float32 (z, y, x).

    The grid is the fixed image's, coarsened to at most a few million voxels; ``inside`` tells the voxels that
    both transforms send into the moving image.
    """
    images = {role: open_received(path)[0] for role, path in (("fixed", fixed), ("moving", moving))}
    grid = images["fixed"].grid
    spacing = max(max(grid.spacing), float((np.prod(grid.extent) / SAMPLES) ** (1 / 3)))
    grid = grid.resample(spacing)
    stage = images["moving"].grid.resample(spacing)
    pick = {
        role: channel_of(image.channels, channels[role], f"{role}_channel") for role, image in images.items()
    }
    values = read_at(images["moving"], pick["moving"], stage).astype(np.float32)
    found: dict[str, Any] = {
        "grid": grid,
        "fixed": read_at(images["fixed"], pick["fixed"], grid).astype(np.float32),
    }
    for name, path in (("before", affine), ("after", transform)):
        sequence = open_transform(path)
        found[name] = _warp(values, stage, sequence, grid)
        inside = _warp(np.ones(stage.shape, np.float32), stage, sequence, grid) > 0.5
        found["inside"] = inside if name == "before" else found["inside"] & inside
    return found


def _warp(values: np.ndarray, stage: Grid, sequence: Sequence, grid: Grid) -> np.ndarray:
    return warp_sequence(values, stage, sequence, grid)[0]
