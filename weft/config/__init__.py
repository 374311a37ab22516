"""Settings as typed models. Defaults live here and only here; the JSON schema and the option table are made from them."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, field_validator, model_validator

from weft.config.assembly import Bias, Fusion, Illumination, Links, Poses, Pyramid
from weft.config.base import CODE, Count, Model, Name, Positive, Voxels
from weft.config.gates import GATES, Gate
from weft.config.registration import RegistrationSettings
from weft.names import suggest
from weft.registration.ledger import STATUSES
from weft.registration.orientation import validate_orientation


class Batches(Model):
    """Into how many jobs a step is cut. Changing a number reruns jobs and computes nothing again."""

    measure_links: Count = Field(2, description="Jobs that measure the links of one image.")
    fuse_tiles: Count = Field(2, description="Jobs that fuse the regions of one image.")
    register_blocks: Count = Field(2, description="Jobs that register the blocks of one stage.")
    warp_image: Count = Field(2, description="Jobs that warp one image.")


class Store(Model):
    """How voxels are laid out on disk."""

    chunk: Voxels = Field(
        (64, 64, 64), description="Voxels per chunk (z, y, x): the smallest piece that is read."
    )
    shard: Voxels = Field(
        (128, 256, 256),
        description="Voxels per shard (z, y, x): the piece that one writer writes; a multiple of the chunk.",
    )
    codec: Literal["lz4", "zstd"] = Field(
        "lz4",
        description="How voxels are packed, labels apart (always `zstd`). `zstd` takes 4 to 20 % less room and about "
        "three times the CPU time.",
    )

    @model_validator(mode="after")
    def _multiple(self) -> Store:
        if any(s % c for s, c in zip(self.shard, self.chunk, strict=True)):
            raise ValueError(
                f"shard {list(self.shard)} must be a multiple of chunk {list(self.chunk)} on every axis"
            )
        return self


class PhantomSettings(Model):
    """The built-in phantom: an atlas and a sample made from it, with the truth beside them."""

    size: Literal["tiny", "demo", "large"] = Field("demo", description="How big.")
    seed: int = Field(0, ge=0, description="Another seed, another phantom.")
    scale: Positive | None = Field(None, description="Factor on the size along each axis.")


class Points(Model):
    """A table of points that travels through a registration."""

    path: str = Field(description="CSV or Parquet with columns z, y, x in um; relative to `data_root`.")
    image: Name = Field(description="The image in whose space the points lie.")


class Config(RegistrationSettings):
    """All of it."""

    results: str = Field("results", description="Folder of the results; logs and benchmarks lie below it.")
    data_root: str = Field(
        ".",
        description="Folder to which relative paths of sources are relative; relative paths never leave it.",
    )
    images: str | None = Field(None, description="Table of images (TSV): image, source, and options.")
    registrations: str | None = Field(
        None, description="Table of registrations (TSV): registration, fixed, moving, and options."
    )
    fixed: str | None = Field(None, description="For two files without tables: path of the fixed image.")
    moving: str | None = Field(None, description="For two files without tables: path of the moving image.")
    fixed_orientation: str | None = Field(
        None, description="With `fixed`: its orientation code.", json_schema_extra=CODE
    )
    moving_orientation: str | None = Field(
        None, description="With `moving`: its orientation code.", json_schema_extra=CODE
    )
    overrides: str | None = Field(
        None,
        description="Table (TSV) of tiles and pairs of tiles that are pinned, excluded or forced by hand: image, action, tile_a, tile_b, z, y, x.",
    )
    batches: Batches = Field(default_factory=Batches, description="Jobs per step.")
    store: Store = Field(default_factory=Store, description="Layout on disk.")
    illumination: Illumination = Field(default_factory=Illumination, description="Flat-field and dark.")
    links: Links = Field(default_factory=Links, description="Pairs of tiles.")
    poses: Poses = Field(default_factory=Poses, description="Positions of tiles.")
    fusion: Fusion = Field(default_factory=Fusion, description="Tiles to one image.")
    pyramid: Pyramid = Field(default_factory=Pyramid, description="Levels.")
    bias: Bias = Field(default_factory=Bias, description="What varies over a whole image.")
    isotropic: dict[Name, Positive] = Field(
        default_factory=dict,
        description="Images of which a copy with cubic voxels is made as well (`isotropic.ome.zarr`), and their edge, um: "
        "`isotropic: {brain: 20}`.",
    )
    precomputed: list[Name] = Field(
        default_factory=list, description="Images that are also exported as Neuroglancer precomputed."
    )
    terastitcher: list[Name] = Field(
        default_factory=list,
        description="Stitched images whose tiles, links and positions are also exported as TeraStitcher projects.",
    )
    export_transforms: bool = Field(
        True,
        description="Also write each transform as ITK files and as an OME-NGFF scene, read back and checked.",
    )
    points: dict[Name, Points] = Field(default_factory=dict, description="Tables of points to warp, by name.")
    gates: dict[str, Gate] = Field(
        default_factory=lambda: {name: gate for name, (gate, _) in GATES.items()},
        description="Quality gates by the name of the number; a gate given here replaces the default of that name, the others stay.",
    )
    rerun_status: list[str] = Field(
        default_factory=list,
        description=f"Redo the blocks with these statuses, of {', '.join(STATUSES)}.",
    )
    raw_digest: Literal["files", "stat"] = Field(
        "files",
        description="Digest raw tiles by their bytes, or only by name, size and time (faster, weaker).",
    )
    phantom: PhantomSettings | None = Field(
        None, description="Make a phantom below `<results>/phantom` first; images.tsv may refer to its files."
    )
    plugins: list[str] = Field(
        default_factory=list, description="Modules from outside that add readers or backends."
    )

    @field_validator("results")
    @classmethod
    def _folder(cls, value: str) -> str:
        if Path(value).name in ("", "..") or set("{}") & set(value):
            raise ValueError(f"wanted the path of a folder of its own, without braces; found {value!r}")
        return value

    @field_validator("fixed_orientation", "moving_orientation")
    @classmethod
    def _code(cls, value: str | None) -> str | None:
        return validate_orientation(value) if value else None

    @field_validator("gates")
    @classmethod
    def _gates(cls, gates: dict[str, Gate]) -> dict[str, Gate]:
        for name in gates:
            if name not in GATES:
                raise ValueError(
                    f"there is no gate {name!r}{suggest(name, GATES) or '; config/README.md lists all'}"
                )
        return {**{name: gate for name, (gate, _) in GATES.items()}, **gates}

    @field_validator("rerun_status")
    @classmethod
    def _statuses(cls, statuses: list[str]) -> list[str]:
        for status in statuses:
            if status not in STATUSES:
                raise ValueError(f"there is no status {status!r}{suggest(status, STATUSES)}")
        return statuses
