"""What a phantom is made of: sizes, hardness and the microscope."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

# um per pixel of the full 2048-pixel camera, by objective (the COLM's own table)
OBJECTIVES = {4: 1.46, 10: 0.585, 25: 0.234}
CAMERA_PIXELS = 2048


@dataclass(frozen=True)
class PhantomSettings:
    """Settings of `weft.phantom.make_phantom`; the defaults are the demo.

    Parameters
    ----------
    rows, columns
        Cells of the scan grid.
    pixels
        Rows and columns of a (square) camera tile. A tile is 2048 binned pixels wide, so more pixels
        are finer voxels of the same specimen.
    planes
        Planes of a tile.
    z_step
        Distance of planes, whole um.
    magnification
        Objective: 4, 10 or 25.
    overlap
        Nominal overlap of neighbouring tiles, fraction of a tile's side.
    jitter
        Largest stage error, voxels, per axis.
    registration_voxel
        Voxel size of the atlas, um: the level the sample is registered at.
    deformation
        95th percentile of the displacement that the affine leaves in the tissue, registration voxels.
    cells
        Number of labelled cells.
    unscanned
        Numbers of grid cells (row-major) that the microscope skipped.
    """

    rows: int = 3
    columns: int = 3
    pixels: int = 192
    planes: int = 128
    z_step: int = 40
    magnification: int = 4
    overlap: float = 0.12
    jitter: float = 8.0
    registration_voxel: float = 50.0
    deformation: float = 7.7
    cells: int = 3000
    unscanned: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "unscanned", tuple(self.unscanned))
        for name in ("rows", "columns", "pixels", "planes", "z_step", "registration_voxel", "deformation"):
            if getattr(self, name) <= 0:
                raise ValueError(f"phantom: {name} must be positive; found {getattr(self, name)}")
        if self.magnification not in OBJECTIVES:
            raise ValueError(f"phantom: magnification must be 4, 10 or 25; found {self.magnification}")
        if not 0 < self.overlap < 0.5:
            raise ValueError(f"phantom: overlap must lie between 0 and 0.5; found {self.overlap}")
        if self.pixels - self.step <= 2 * self.jitter:
            raise ValueError(
                f"phantom: jitter {self.jitter} can part tiles that overlap by {self.pixels - self.step} pixels"
            )

    @property
    def step(self) -> int:
        """Nominal distance of neighbouring tiles, whole pixels."""
        return round(self.pixels * (1 - self.overlap))

    @property
    def spacing(self) -> tuple[float, float, float]:
        """Voxel size of a tile, um, (z, y, x)."""
        pixel = OBJECTIVES[self.magnification] * CAMERA_PIXELS / self.pixels
        return float(self.z_step), pixel, pixel

    @property
    def frame(self) -> tuple[float, float, float]:
        """Extent of the nominal scan, um, (z, y, x)."""
        z, y, x = self.spacing
        height = (self.rows - 1) * self.step + self.pixels
        width = (self.columns - 1) * self.step + self.pixels
        return self.planes * z, height * y, width * x


# "tiny" is the demo's specimen at half its resolution; its narrow overlaps bear less jitter
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "pixels": 96,
        "planes": 48,
        "z_step": 107,
        "jitter": 2.0,
        "registration_voxel": 100.0,
        "deformation": 4.0,
        "cells": 400,
    },
    "demo": {},
    "large": {"pixels": 384, "planes": 256, "z_step": 20, "cells": 12_000},
}


def phantom_settings(values: Mapping[str, Any] | PhantomSettings | None = None) -> PhantomSettings:
    """Settings from a mapping: any field of `PhantomSettings`, ``size`` and ``scale``.

    ``size`` is "demo" (default), "tiny" or "large"; ``scale`` is a factor on the voxels per axis (2: four
    times the pixels and twice the planes of the same specimen).

    Raises
    ------
    ValueError
        For an unknown key, an unknown size or a scale that is not positive.
    """
    if isinstance(values, PhantomSettings):
        return values
    given = dict(values or {})
    size, scale = given.pop("size", "demo"), given.pop("scale", None) or 1
    unknown = set(given) - {f.name for f in dataclasses.fields(PhantomSettings)}
    if unknown:
        raise ValueError(f"phantom: unknown setting {sorted(unknown)[0]!r}")
    if size not in SIZES:
        raise ValueError(f"phantom: size must be one of {', '.join(SIZES)}; found {size!r}")
    if not scale > 0:
        raise ValueError(f"phantom: scale must be positive; found {scale!r}")
    base = dataclasses.asdict(PhantomSettings(**SIZES[size]))
    for name, factor in (("pixels", scale), ("planes", scale), ("z_step", 1 / scale)):
        base[name] = max(1, round(base[name] * factor))
    return PhantomSettings(**(base | given))
