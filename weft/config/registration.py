"""Settings of one registration."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, field_validator, model_validator

from weft.config.base import Channel, Count, Model, Name, Policy, Positive
from weft.registration.contract import portable_name


class Motion(Model):
    """A motion as CloudReg takes it: `scale * (rotation (x - middle of fixed) + translation)` from the middle of moving."""

    x: float = Field(0.0, description="Translation along x, um; the axes are (x, y, z) here.")
    y: float = Field(0.0, description="Translation along y, um.")
    z: float = Field(0.0, description="Translation along z, um.")
    yz: float = Field(
        0.0, description="Rotation in the plane of y and z, degrees, from y to z; the first one."
    )
    xz: float = Field(
        0.0, description="Rotation in the plane of x and z, degrees, from z to x; the second one."
    )
    xy: float = Field(
        0.0, description="Rotation in the plane of x and y, degrees, from x to y; the last one."
    )
    scale: Positive | tuple[Positive, Positive, Positive] = Field(
        1.0, description="Scale, or scales along x, y, z."
    )


class Start(Model):
    """A given start instead of the search: exactly one of matrix, motion, landmarks and transform."""

    matrix: list[list[float]] | None = Field(
        None,
        description="Matrix, 4 x 4, of points (z, y, x, 1) in um, fixed to moving space.",
    )
    motion: Motion | None = Field(
        None, description="Translation, rotation and scale, after the turn that the orientation codes say."
    )
    landmarks: Annotated[list[str], Field(min_length=1, max_length=2)] | None = Field(
        None,
        description="One or two tables of points in both images, as in registrations.tsv, relative to `data_root`: `model` by least squares.",
    )
    transform: str | None = Field(
        None,
        description="File of an affine, fixed to moving space, relative to `data_root`: .tfm, .txt, .mat, .h5 (ITK, ANTs), an affine.json of weft, or the folder of an OME-NGFF scene.",
    )
    unit: Positive = Field(1.0, description="Size of a unit of an ITK file, um: 1000 for one in mm.")
    refine: bool = Field(
        True, description="Refine it on the images; else it is taken as it is, and only measured."
    )

    @model_validator(mode="after")
    def _one(self) -> Start:
        names = ("matrix", "motion", "landmarks", "transform")
        given = [name for name in names if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"wanted exactly one of {', '.join(names)}; found {', '.join(given) or 'none of them'}"
            )
        if self.matrix is not None and [len(row) for row in self.matrix] != [4] * 4:
            raise ValueError(f"wanted a matrix of 4 rows of 4 numbers; found {self.matrix}")
        return self

    @property
    def files(self) -> list[str]:
        """The files that it names."""
        return [*(self.landmarks or ()), *([self.transform] if self.transform else [])]


class Affine(Model):
    """The affine start."""

    method: Literal["native", "elastix"] = Field(
        "native",
        description="Own multi-start search; or the same search with itk-elastix (mutual information) at its end.",
    )
    orientation: Literal["code", "search"] = Field(
        "code",
        description="Trust the orientation codes of the table of images, or search the 24 proper orientations.",
    )
    handedness: Literal["code", "search"] = Field(
        "code",
        description="Whether one array mirrors the other: by the codes, or tried and refused when nothing tells them apart.",
    )
    model: Literal["rigid", "similarity", "affine"] = Field(
        "affine",
        description="What may change: rotation and shift; one scale as well; everything linear. A single plane stays in its plane.",
    )
    start: Start | None = Field(
        None, description="Where to start, given instead of searched; see `affine.start`."
    )
    spacing: Positive | None = Field(
        None,
        description="Voxel size, um, at which the search is made (default: the longest axis has 64 voxels, 256 of a single plane).",
    )
    finest_spacing: Positive | None = Field(
        None, description="Voxel size, um, of the last refinement (default: a quarter of `spacing`)."
    )
    min_overlap: Annotated[float, Field(gt=0, le=1)] | None = Field(
        None, description="Least share of the smaller tissue mask that must be covered."
    )
    accept_margin: Positive = Field(
        1.5, description="Score over that of the best different affine from which a result is accepted."
    )
    refuse_margin: Positive = Field(1.15, description="Below this margin a result is refused.")
    min_score: float = Field(
        0.3,
        ge=0,
        le=1,
        description="Least score; half of it where the margin is twice `accept_margin`, and for single planes a quarter "
        "of it where the margin is `refuse_margin`.",
    )
    policy: Policy = Field(
        "fail", description="What to do when the result is refused by its own score and margin."
    )


class Stage(Model):
    """One stage of block-wise deformable registration."""

    name: Name = Field(description="Name of the stage; its folder.")
    level: Positive | Annotated[str, Field(pattern=r"^x[1-9][0-9]*$")] = Field(
        description="Voxel size at which the stage works: um, or `x4` for four times the fixed image's smallest voxel edge; an axis whose voxels are larger keeps them."
    )
    block: Count | Literal["whole", "auto"] = Field(
        "auto",
        description="Edge of a block, voxels of the level (even); `whole` for one block; `auto` for up to 256, as `memory_mb` allows, and one block where the volume is small.",
    )
    overlap: Annotated[int, Field(ge=0)] | Literal["auto"] = Field(
        "auto",
        description="Halo of a block on either side, voxels of the level (even); `auto` for the largest displacement still expected and the radius of what the backend smooths by.",
    )
    expected_displacement: Positive | None = Field(
        None,
        description="Largest displacement still to be found, um (default: as measured on the field of the stage before; for the first stage a twentieth of the fixed image's longest edge).",
    )
    memory_mb: Positive = Field(
        500.0, description="Memory that a block may take, MB (predicted): the size of `auto` blocks."
    )
    backend: str = Field(
        "native",
        description="`native`, `elastix`, `greedy`, `demons`, `ants`, or a plug-in: its name, or `module:function`.",
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="Settings of the backend.")
    debug: Literal["log", "volumes"] | None = Field(
        None,
        description="What every block leaves in a folder of its own below `logs/blocks/<registration>-<stage>`: `log`, what its backend writes (`elastix`: its log and its transforms); `volumes`, also the images and masks that it sees, what it finds and its result (.mha, um).",
    )
    min_content: float = Field(
        0.02,
        ge=0,
        le=1,
        description="Share of a block's voxels that must show content; below it the block is `empty`.",
    )
    only: list[Annotated[str, Field(pattern=r"^[0-9]+\.[0-9]+\.[0-9]+$")]] | None = Field(
        None,
        description="Names of the blocks to register, as in the block table (`0.1.2`: places along z, y, x); the others are `skipped` and take the stage before.",
    )

    @field_validator("backend")
    @classmethod
    def _installed(cls, value: str) -> str:
        return portable_name(value)

    @model_validator(mode="after")
    def _even(self) -> Stage:
        if isinstance(self.block, int) and self.block % 2:
            raise ValueError(f"block {self.block} of stage {self.name!r} must be even")
        if isinstance(self.overlap, int) and self.overlap % 2:
            raise ValueError(f"overlap {self.overlap} of stage {self.name!r} must be even")
        return self


class Reduce(Model):
    """Blending of block results into one displacement field."""

    method: Literal["distance_weighted", "simple_mean", "rigid_consensus", "collection"] = Field(
        "distance_weighted",
        description="Partition of unity that falls to zero at a block's padded border; mean of all blocks at a place; one rigid motion, the mean of the blocks'; or each block's own field without blending.",
    )
    field_factor: Count = Field(
        2, description="Distance of the field's samples, voxels of the stage's level."
    )
    agreement: Positive | None = Field(
        1.0,
        description="A block that differs from its neighbours in the overlap by more, voxels of the stage's level, is rejected (see the block table's `disagreement_um`); rejected and failed blocks get a second try. Null rejects none, and there is no second try.",
    )
    unfold: bool = Field(True, description="Smooth the field locally where it folds.")


class Invert(Model):
    """Inverse of the displacement field."""

    iterations: Count = Field(40, description="Largest number of steps, fixed point or Newton, per sample.")
    tolerance: Positive = Field(
        0.01, description="A sample is solved when what is left is below this, samples of the field."
    )
    supersample: Annotated[int, Field(ge=1, le=4)] | Literal["auto"] = Field(
        "auto",
        description="Samples of the inverse per sample of the field, along each axis: a closer round trip for a larger file. `auto`: the fewest of 1, 2 and 4 with which the round trip is at most 0.1 voxel of the last stage's level for 95 % of the fixed voxels and 0.5 for all, and none finer than those voxels.",
    )


class Warp(Model):
    """Resampling through the final transform."""

    channels: list[Channel] | None = Field(
        None, description="Channels of the moving image to warp (default: all)."
    )
    spacing: Positive | None = Field(
        None, description="Voxel size, um, of warped images (default: that of the target image)."
    )


class Quality(Model):
    """What is measured of a registration."""

    spacing: Positive | None = Field(
        None,
        description="Voxel size, um, at which images are compared (default: the fixed image's largest, coarsened to about 4 million voxels). Half of it costs eight times as much.",
    )


class RegistrationSettings(Model):
    """Settings that a recipe named in registrations.tsv may set for one registration."""

    affine: Affine = Field(default_factory=Affine, description="The affine start.")
    stages: list[Stage] = Field(
        default_factory=lambda: [
            Stage(name="coarse", level="x4", block="whole"),
            Stage(name="fine", level="x1"),
        ],
        description="Stages of deformable registration, coarse to fine; empty for an affine alone.",
    )
    reduce: Reduce = Field(default_factory=Reduce, description="Blocks to one field.")
    invert: Invert = Field(default_factory=Invert, description="The other direction.")
    warp: Warp = Field(default_factory=Warp, description="Resampling.")
    quality: Quality = Field(default_factory=Quality, description="What is measured.")

    @field_validator("stages")
    @classmethod
    def _unique(cls, stages: list[Stage]) -> list[Stage]:
        names = [stage.name for stage in stages]
        if len(set(names)) < len(names):
            raise ValueError(f"wanted different names; found {', '.join(names)}")
        return stages
