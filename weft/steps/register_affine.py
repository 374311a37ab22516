"""Rule register_affine: the affine start of a registration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from weft import receipts
from weft.image import Image
from weft.logs import log
from weft.registration.affine import AffineResult, AffineSettings
from weft.registration.confidence import VERDICTS
from weft.registration.contract import Initial
from weft.registration.features import finite, log_intensity, tissue_mask
from weft.registration.pull import pull
from weft.registration.start import find_affine
from weft.sampling import read_at, stage_grid
from weft.steps.quality import write_quality
from weft.steps.sources import channel_of, open_mask, open_received

PICTURE = "affine_candidates.png"
SHOWN = 200  # voxels along the longest axis of the picture


def register_affine(
    *,
    fixed: str,
    moving: str,
    fixed_mask: str | list[str],
    moving_mask: str | list[str],
    start: str | list[str],
    settings: dict[str, Any],
    channels: dict[str, str | None],
    names: dict[str, str],
    gates: dict[str, Any],
    cache: str,
    code: str,
    receipt: str,
    quality: str,
) -> None:
    """Find the affine (pull-back, um) from the fixed to the moving space, and say how sure it is.

    ``start`` lists the files that a given start (``settings["start"]``) is read from.

    Raises
    ------
    ValueError
        When the result is refused by its own score and margin and the policy is ``fail``. The picture that the error
        names is on disk by then.
    """
    images = {role: open_received(path) for role, path in (("fixed", fixed), ("moving", moving))}
    pick = {
        role: channel_of(image.channels, channels[role], f"{role}_channel: image {names[role]!r}")
        for role, (image, _) in images.items()
    }
    options = {name: value for name, value in settings.items() if name not in ("policy", "start")}
    given = settings["start"]
    codes = {role: facts["orientation"] for role, (_, facts) in images.items()}
    wanted = AffineSettings(**options)
    engine = ("itk-elastix",) if wanted.method == "elastix" else ()
    key = receipts.digest(
        [
            [[facts["data"], facts["grid"]] for _, facts in images.values()],
            [image.coverage and image.coverage.to_json() for image, _ in images.values()],
            channels,
            codes,
            [receipts.read(path)["data"] for path in (fixed_mask, moving_mask) if isinstance(path, str)],
            options,
            _content(given, start),
            code,
            receipts.environment("scipy", "numba", *engine),
        ]
    )

    def make() -> dict[str, Any]:
        fixed_image, moving_image = ((image, pick[role]) for role, (image, _) in images.items())
        masks = open_mask(fixed_mask), open_mask(moving_mask)
        seed = int(key[:8], 16)
        try:
            found = find_affine(fixed_image, moving_image, wanted, seed, log.info, start=given, masks=masks)
        except ValueError as error:
            pair = f"the affine of {names['moving']!r} onto {names['fixed']!r}"
            raise ValueError(f"{Path(receipt).parent}: {pair}: {error}") from error
        return _plain(found)

    record, _ = receipts.cached(f"{cache}/affine", key, make)
    for note in record["notes"]:
        log.info(note)
    picture = Path(receipt).parent / "figures" / PICTURE
    picture.unlink(missing_ok=True)
    if record["accepted"] != "accept":
        fixed_image, moving_image = ((image, pick[role]) for role, (image, _) in images.items())
        draw_candidates(fixed_image, moving_image, record, picture)
    if record["accepted"] == "refuse" and settings["policy"] == "fail":
        raise ValueError(
            f"{Path(receipt).parent}: the affine of {names['moving']!r} onto {names['fixed']!r} is refused: "
            f"{'; '.join(record['notes'])}; look at {picture}; check orientation codes and voxel sizes in the table of images, "
            "or set affine.policy to warn to go on"
        )
    values: dict[str, Any] = {
        "affine_verdict": _verdict(record),
        "voxel_size_doubts": _doubts(images, names),
        "affine_score": record["score"],
        "affine_ncc": record["ncc"],
        "affine_overlap": record["overlap"],
    }
    if record["margin"] is not None:
        values["affine_margin"] = record["margin"]
    write_quality(
        quality,
        "register_affine",
        Path(receipt).parent.name,
        values,
        gates,
        accepted=record["accepted"],
        notes=record["notes"],
        rival=record["rival"],
        picture=None if record["accepted"] == "accept" else f"figures/{PICTURE}",
    )
    matrix = record["matrix"]
    receipts.write(
        receipt,
        {
            "input_space": names["fixed"],
            "output_space": names["moving"],
            "units": "micrometer",
            "direction": "pull-back",
            "sequence": [{"type": "affine", "matrix": matrix}],
            "moving_orientation": record["moving_orientation"],
            "data": receipts.digest(matrix),
        },
    )
    receipts.write_provenance(receipt, key=key, settings=settings, code=code, trials=record["trials"])


def draw_candidates(
    fixed: tuple[Image, int], moving: tuple[Image, int], record: dict[str, Any], path: Path
) -> None:
    """The best and the second-best affine beside or below each other, each over the fixed image."""
    # Only here: an affine that is accepted needs no pictures.
    from weft.figures.overlay import overlay

    longest = max(fixed[0].grid.extent.max(), moving[0].grid.extent.max())
    spacing = max(float(longest) / SHOWN, min(fixed[0].grid.spacing[1:]))
    grid, moving_grid = (stage_grid(image.grid, spacing) for image, _ in (fixed, moving))
    here = finite(read_at(*fixed, grid).astype(np.float32))
    there = finite(read_at(*moving, moving_grid).astype(np.float32))
    matrices = [record["matrix"]] + ([record["rival"]] if record["rival"] else [])
    shown = moving[0].covered(moving_grid)
    pulled = [pull(there, moving_grid, shown, Initial(np.array(m)), grid) for m in matrices]
    sides = [np.where(inside, values, np.float32(np.nan)) for values, inside in pulled]
    captions = f"best, score {record['score']:.3f}", f"second best, score {record['rival_score']:.3f}"
    middle = np.argwhere(tissue_mask(log_intensity(here))).mean(axis=0).round().astype(int)
    title = f"{path.parents[1].name}: two affines to choose from (moving green on fixed magenta)"
    if len(sides) == 1:
        title = f"{path.parents[1].name}: the affine that was found (moving green on fixed magenta)"
        captions = ("", captions[0])
    covered = fixed[0].covered(grid)
    overlay(
        here if covered is None else np.where(covered, here, np.float32(np.nan)),
        sides[-1],
        grid.spacing,
        path,
        title,
        before=sides[0] if len(sides) == 2 else None,
        at=list(middle),
        captions=captions,
    )


def _verdict(record: dict[str, Any]) -> float | dict[str, float]:
    """The verdict as a number, with the reason for one that does not accept."""
    number = float(VERDICTS.index(record["accepted"]))
    return number if record["accepted"] == "accept" else {"; ".join(record["notes"]): number}


def _doubts(
    images: dict[str, tuple[Image, dict[str, Any]]], names: dict[str, str]
) -> float | dict[str, float]:
    """How many of the voxel sizes contradict their sources, each with what it is about."""
    said = {
        f"image {names[role]!r}: {facts['spacing_doubt']}": 1.0
        for role, (_, facts) in images.items()
        if facts.get("spacing_doubt")
    }
    return said or 0.0


def _content(given: dict[str, Any] | None, files: str | list[str]) -> Any:
    """A given start by what is in its files, not where they lie."""
    if given is None:
        return None
    settings = {name: value for name, value in given.items() if name not in ("landmarks", "transform")}
    # A script is handed one file as its name, and none or several as a list.
    names = [files] if isinstance(files, str) else list(files)
    return [settings, bool(given["landmarks"]), [receipts.file_digest(name) for name in names]]


def _plain(result: AffineResult) -> dict[str, Any]:
    return {
        "matrix": result.matrix.tolist(),
        "accepted": result.accepted,
        "score": float(result.score),
        "margin": None if result.margin is None else float(result.margin),
        "rival": None if result.rival is None else result.rival.tolist(),
        "rival_score": 0.0 if result.margin is None else float(result.score / result.margin),
        "ncc": float(result.ncc),
        "overlap": float(result.overlap),
        "notes": list(result.notes),
        "moving_orientation": result.moving_orientation,
        "trials": result.trials,
    }
