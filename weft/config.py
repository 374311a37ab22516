"""Settings as typed models. Defaults live here and only here; the JSON schema and the option table are made from them."""

from __future__ import annotations

from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from weft.refusals import suggest
from weft.registration.contract import BUILTIN, ENTRY_POINTS
from weft.registration.ledger import STATUSES
from weft.registration.orientation import validate_orientation

NAME = r"[A-Za-z0-9][A-Za-z0-9_-]*"
Name = Annotated[str, Field(pattern=f"^{NAME}$")]
Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Voxels = tuple[Count, Count, Count]
# A channel may be called 0: YAML reads that as a number.
Channel = Annotated[str, Field(coerce_numbers_to_str=True)]
# What a JSON schema can say of an orientation code.
CODE: dict[str, Any] = {"pattern": "^[rlapsiRLAPSI]{3}$"}
Policy = Literal["fail", "warn", "ignore"]


class Model(BaseModel):
    """Unknown keys are refused."""

    model_config = ConfigDict(extra="forbid", validate_default=True, allow_inf_nan=False)


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


class Illumination(Model):
    """Correction of vignetting and dark offset: signal = (raw - dark) / gain."""

    method: Literal[
        "auto",
        "log_irls",
        "gradients",
        "quantile",
        "mean",
        "median",
        "percentile",
        "n4",
        "basic",
        "profile",
        "none",
    ] = Field(
        "auto",
        description="Estimator of the gain; `auto` takes the one of `log_irls`, `gradients`, `quantile` and `mean` that the tiles say errs least.",
    )
    dark: float | str = Field(
        "regress",
        description="Source of the dark offset: a number (counts), the path of an image, `empty_tiles` (refused where no tile is empty), "
        "or `regress`: from the empty parts of the tiles, 0 where there are none. What the camera says is better than either.",
    )
    dark_percentile: float = Field(
        50.0, ge=0, le=100, description="Of the empty tiles' planes, pixel by pixel, for `empty_tiles`."
    )
    policy: Literal["check", "force", "off"] = Field(
        "check",
        description="`check`: a gain that leaves held-out tiles or overlaps no flatter is replaced by 1; `force`: it is used and the objection reported; "
        "`off`: nothing is checked.",
    )
    percentile: float = Field(75.0, gt=0, lt=100, description="For the method `percentile`.")
    profile: str | None = Field(
        None,
        description="For the method `profile`: an image of the gain (TIFF or .npy), or the `illumination.zarr` of another sample.",
    )
    planes: Count = Field(384, description="Planes used for the estimate, spread over tiles and depth.")
    corrected_copy: bool = Field(
        False,
        description="Also write a corrected copy of every tile; otherwise correction happens on the fly.",
    )

    @model_validator(mode="after")
    def _profile_given(self) -> Illumination:
        if (self.method == "profile") != (self.profile is not None):
            raise ValueError("method `profile` and the setting `profile` (a path) need each other")
        return self


class Links(Model):
    """Measurement of the displacement between overlapping tiles."""

    channel: Channel | None = Field(None, description="Channel that is measured (default: the first).")
    method: Literal["phase", "mip_ncc"] = Field(
        "phase",
        description="`phase`: phase correlation of band-passed voxels, scored and refined by their correlation; `mip_ncc`: TeraStitcher's measure, the correlation of maximum projections, with its reliability as confidence.",
    )
    search: tuple[Positive, Positive, Positive] = Field(
        (20.0, 20.0, 20.0),
        description="Search window around the stage's displacement, voxels (z, y, x), either way.",
    )
    peaks: Count = Field(8, description="Correlation peaks tried per link.")
    min_ncc: float = Field(
        0.3, ge=-1, le=1, description="Smallest correlation of the band-passed overlap for a link to count."
    )
    max_peak_ratio: float = Field(
        0.9,
        gt=0,
        le=1,
        description="Largest ratio of the second to the first peak; above it a link is ambiguous.",
    )
    min_overlap: float = Field(
        0.001,
        ge=0,
        le=1,
        description="Smallest share of a tile's volume that a link's tiles must have in common.",
    )
    border: float = Field(
        0.95,
        gt=0,
        le=1,
        description="Largest part of the search window that a displacement may take up: peaks at its border are failures.",
    )
    diagonal: bool | Literal["auto"] = Field(
        "auto",
        description="Also measure links between diagonal neighbours; `auto`: where there are few cycles without them, fewer than five links to a tile.",
    )


class Poses(Model):
    """Global solve: one position per tile from all links."""

    method: Literal["robust", "terastitcher"] = Field(
        "robust",
        description="`robust`: least squares over the links that agree, whatever else was measured; `terastitcher`: a threshold on the confidence, then a spanning tree.",
    )
    stage_sigma: Positive = Field(
        8.0, description="How far the stage is trusted, voxels: the weak prior of every tile."
    )
    link_sigma: Positive = Field(0.5, description="Error expected of a good link, voxels.")
    model: Literal["translation", "rigid", "similarity", "affine"] = Field(
        "translation",
        description="What a tile's pose is. All but `translation` also measure blocks of each link, and take the fusion longer.",
    )
    linear_sigma: Positive = Field(
        0.005, description="How far the elements of a linear part are expected from the identity."
    )
    threshold: float = Field(
        0.3,
        ge=0,
        le=1,
        description="`terastitcher` only: links of less confidence are replaced by the stage's displacement.",
    )


class Fusion(Model):
    """Blending of placed tiles into one image."""

    blend: Literal["linear", "sinusoidal", "mean", "nearest", "max"] = Field(
        "linear",
        description="How overlapping tiles are combined: `linear` and `sinusoidal` (as TeraStitcher) mix by the distance "
        "to the tiles' borders, `mean` takes the mean, `nearest` the tile whose border is farthest (no blending), "
        "`max` the brightest.",
    )
    dtype: Literal["uint8", "uint16", "float32"] = Field(
        "uint16", description="Type of the fused image; values are rounded and clipped, and both are counted."
    )
    equalise: Literal["none", "check", "force"] = Field(
        "none",
        description="Tiles that are brighter than their neighbours show the same content (a lamp that drifts, a dye that bleaches) are "
        "divided by a factor each. `check`: unless that leaves overlaps that the fit did not see no more alike; `force`: in any case.",
    )
    offset: float = Field(
        0.0, ge=0, description="Added to every voxel, counts: keeps noise around zero from being clipped."
    )


class Pyramid(Model):
    """Pyramid levels, chosen by voxel size so that anisotropic volumes become isotropic first."""

    smallest: Count = Field(
        64, description="No further level is made once the longest axis is at most this long."
    )


class Bias(Model):
    """Correction of what varies slowly over a whole image, found by N4 on a coarse level and divided out where voxels are read."""

    images: list[Name] = Field(
        default_factory=list, description="Images that are seen through it; none by default."
    )
    policy: Literal["check", "force"] = Field(
        "check",
        description="`check`: unless two halves of the image do not agree on it, or it makes the intensities of neither more alike; `force`: in any case.",
    )
    use: Literal["registration", "everything"] = Field(
        "registration",
        description="`registration`: only what compares images sees them so, and what is measured and exported stays as it was; `everything`: warped and exported images, and "
        "what is measured of regions, too (as float32).",
    )
    spacing: Positive | None = Field(
        None,
        description="Voxel size, um, of the level that it is found on (default: the pyramid's coarsest). 50 voxels along an axis are plenty.",
    )


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
        0.3, ge=0, le=1, description="Least score; half of it where the margin is twice `accept_margin`."
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
        description="Edge of a block, voxels of the level (even); `whole` for one block; `auto` for up to 192, as `memory_mb` allows, and one block where the volume is small.",
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
        description="`native`, `elastix`, `greedy`, `demons`, `ants`, or a plug-in `module:function`.",
    )
    settings: dict[str, Any] = Field(default_factory=dict, description="Settings of the backend.")
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
        known = [*BUILTIN, *sorted(entry.name for entry in entry_points(group=ENTRY_POINTS))]
        if value not in known and ":" not in value:
            raise ValueError(f"there is no backend {value!r}{suggest(value, known)}")
        return value

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


class Gate(Model):
    """A threshold on a measured number, and what happens when it does not hold."""

    min: float | None = Field(None, description="Smallest value that holds.")
    max: float | None = Field(None, description="Largest value that holds.")
    policy: Policy = Field(
        "warn", description="`fail` stops what would build on it, `warn` reports, `ignore` only lists."
    )


# Default gate and meaning of every number that can be gated.
GATES = {
    "bad_tiles": (
        Gate(max=0.0),
        "Number of tiles that are dead (all of one value), saturated (more than 1 % of the voxels) or doubled, in any channel.",
    ),
    "links_failed_fraction": (Gate(max=0.5), "Share of the links with content that could not be measured."),
    "link_residual_p95_voxel": (
        Gate(max=3.0),
        "95th percentile of what the solve leaves over at a link, smallest voxel edges.",
    ),
    "clipped_fraction": (Gate(max=0.001), "Share of the fused voxels that were clipped to the type."),
    "affine_score": (Gate(min=0.3), "Score of the affine, 0 to 1."),
    "blocks_failed_fraction": (Gate(max=0.2), "Share of a stage's blocks with content that failed."),
    "folded_fraction": (
        Gate(max=0.001),
        "Share of a stage's displacement field with a Jacobian determinant of 0 or less.",
    ),
    "seam_ratio": (
        Gate(max=1.5),
        "How much more a stage's field bends where its blocks meet than elsewhere: mean second difference there by that of all other samples.",
    ),
    "round_trip_p95_voxel": (
        Gate(max=1.0),
        "95th percentile of the error of transform and inverse, smallest voxel edges of the last stage's level.",
    ),
    "round_trip_max_voxel": (
        Gate(max=2.0),
        "The largest error of transform and inverse, smallest voxel edges of the last stage's level.",
    ),
    "inverse_unsolved_fraction": (
        Gate(max=0.001),
        "Share of the inverse's samples at which the tolerance was not reached: next to folds.",
    ),
    "round_trip_outside_fraction": (
        Gate(max=0.05),
        "Share of the fixed voxels that leave the domain of a field on the way there and back.",
    ),
    "ncc_gain": (Gate(min=0.0), "Correlation of fixed and warped image, less that under the affine alone."),
    "mutual_information_gain": (
        Gate(min=0.0),
        "Mutual information of fixed and warped image, nats, less that under the affine alone.",
    ),
    "local_ncc_worse_fraction": (
        Gate(max=0.1),
        "Share of the windows with texture whose absolute local correlation fell by more than 0.1 below that under the affine alone.",
    ),
    "jacobian_p1": (
        Gate(min=0.2),
        "1 % quantile of the Jacobian determinant where the fixed image shows something: how much volumes shrink.",
    ),
    "jacobian_p99": (Gate(max=5.0), "99 % quantile of the same: how much volumes grow."),
    "jacobian_folded_fraction": (
        Gate(max=0.001),
        "Share of the samples of the final field with a cell around them that folds (determinant of 0 or less).",
    ),
    "disagreement_p95_voxel": (
        Gate(max=2.0),
        "95th percentile of what neighbouring blocks of the last stage differ by in their overlap, voxels of its level.",
    ),
    "tre_gain_um": (
        Gate(min=0.0),
        "Median distance of the landmarks from their partners under the affine alone, less that under the transform.",
    ),
    "rtre_median": (
        Gate(max=0.02),
        "Median distance of the landmarks from their partners over the diagonal of the moving image.",
    ),
    "dice_mean": (Gate(min=0.5), "Mean Dice overlap of the labels that both images name."),
    "dice_gain": (Gate(min=0.0), "Mean Dice overlap, less that under the affine alone."),
}


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
                raise ValueError(f"there is no gate {name!r}{suggest(name, GATES)}")
        return {**{name: gate for name, (gate, _) in GATES.items()}, **gates}

    @field_validator("rerun_status")
    @classmethod
    def _statuses(cls, statuses: list[str]) -> list[str]:
        for status in statuses:
            if status not in STATUSES:
                raise ValueError(f"there is no status {status!r}{suggest(status, STATUSES)}")
        return statuses
