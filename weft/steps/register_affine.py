"""Rule register_affine: the affine start of a registration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from weft import receipts
from weft.logs import log
from weft.registration.affine import AffineResult, AffineSettings
from weft.registration.start import find_affine
from weft.steps.quality import write_quality
from weft.steps.sources import channel_of, open_received


def register_affine(
    *,
    fixed: str,
    moving: str,
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
        When the result is refused by its own score and margin and the policy is ``fail``.
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
            channels,
            codes,
            options,
            _content(given, start),
            code,
            receipts.environment("scipy", "numba", *engine),
        ]
    )

    def make() -> dict[str, Any]:
        fixed_image, moving_image = ((image, pick[role]) for role, (image, _) in images.items())
        found = find_affine(fixed_image, moving_image, wanted, int(key[:8], 16), log.info, start=given)
        return _plain(found)

    record, _ = receipts.cached(f"{cache}/affine", key, make)
    for note in record["notes"]:
        log.info(note)
    if record["accepted"] == "refuse" and settings["policy"] == "fail":
        raise ValueError(
            f"{Path(receipt).parent}: the affine of {names['moving']!r} onto {names['fixed']!r} is refused: "
            f"{'; '.join(record['notes'])}; check orientation codes and voxel sizes in the table of images, "
            "or set affine.policy to warn to go on"
        )
    values = {
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
        "ncc": float(result.ncc),
        "overlap": float(result.overlap),
        "notes": list(result.notes),
        "moving_orientation": result.moving_orientation,
        "trials": result.trials,
    }
