"""Whole transforms as OME-NGFF scenes (RFC-5, NGFF 0.6): named coordinate systems, both directions, in one Zarr group."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import zarr

from weft.transforms.formats.ngff import NGFF_VERSION, open_field, save_field
from weft.transforms.model import Affine, Displacements, Sequence, Step

FIELDS = "coordinateTransformations"


def write_scene(store: str | Path, sequence: Sequence) -> None:
    """Write a transform, and its inverse where there is one, as an NGFF scene.

    Parameters
    ----------
    store
        Folder of the new Zarr group; what lay there is replaced.
    sequence
        The transform, with the names of its spaces. Points of its input space map to its output space, axes
        (z, y, x), micrometres.

    Raises
    ------
    ValueError
        When a space has no name or both have the same.
    """
    names = (sequence.input_space, sequence.output_space)
    if not all(names) or names[0] == names[1]:
        raise ValueError(
            f"{store}: a scene needs two spaces of different names; found {names[0]!r} and {names[1]!r}"
        )
    group = zarr.open_group(str(store), mode="w", zarr_format=3)
    edge = _write_sequence(Path(store), sequence, "forward")
    inverse = sequence.inverse
    if inverse is not None:
        edge = {
            "type": "bijection",
            "forward": edge,
            "inverse": _write_sequence(Path(store), inverse, "inverse"),
        }
    edge |= {"input": {"name": names[0]}, "output": {"name": names[1]}}
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "zyx"]
    group.attrs["ome"] = {
        "version": NGFF_VERSION,
        "scene": {
            "coordinateSystems": [{"name": name, "axes": axes} for name in names],
            "coordinateTransformations": [edge],
        },
    }


def read_scene(store: str | Path) -> Sequence:
    """Read a transform that `write_scene` wrote.

    Raises
    ------
    FileNotFoundError
        When there is no such group, or a field is missing.
    ValueError
        When it is no scene with one transform of affines and displacements.
    """
    store = Path(store)
    if not (store / "zarr.json").is_file():
        raise FileNotFoundError(f"{store}: there is no such scene; wanted a Zarr v3 group")
    ome: Any = zarr.open_group(str(store), mode="r").attrs.get("ome", {})
    edges = ome.get("scene", {}).get("coordinateTransformations", [])
    if len(edges) != 1:
        raise ValueError(f"{store}: the group describes {len(edges)} transforms of a scene; wanted 1")
    edge = edges[0]
    names = (edge["input"]["name"], edge["output"]["name"])
    if edge["type"] != "bijection":
        return Sequence(_read_sequence(store, edge), *names)
    back = Sequence(_read_sequence(store, edge["inverse"]), *names[::-1], lambda: forward)
    forward = Sequence(_read_sequence(store, edge["forward"]), *names, lambda: back)
    return forward


def _write_sequence(store: Path, sequence: Sequence, name: str) -> dict[str, Any]:
    steps: list[dict[str, Any]] = []
    for i, step in enumerate(sequence.steps):
        if isinstance(step, Affine):
            steps.append({"type": "affine", "affine": step.matrix[:3].tolist()})
        else:
            path = f"{FIELDS}/{name}{i}"
            save_field(store / path, step.field, step.grid, name=sequence.input_space)
            steps.append({"type": "displacements", "path": path, "interpolation": "linear"})
    return {"type": "sequence", "transformations": steps}


def _read_sequence(store: Path, edge: dict[str, Any]) -> tuple[Step, ...]:
    if edge.get("type") != "sequence":
        raise ValueError(
            f"{store}: a transform of the scene has type {edge.get('type')!r}; wanted 'sequence'"
        )
    steps: list[Step] = []
    for step in edge["transformations"]:
        if step["type"] == "affine":
            steps.append(Affine(np.vstack([step["affine"], [0, 0, 0, 1]])))
        elif step["type"] == "displacements":
            steps.append(Displacements(*open_field(store / step["path"])))
        else:
            raise ValueError(f"{store}: a step has type {step['type']!r}; wanted 'affine' or 'displacements'")
    return tuple(steps)
