"""Settings from raw tiles to one image with its pyramid."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from weft.config.base import Channel, Count, Model, Name, Positive


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
    stripes: Literal["none", "y", "x"] = Field(
        "none",
        description="Shadows that absorbers leave along the light sheet are divided out of the tiles as they are fused: the axis along which "
        "they run. Layers of tissue that run along it suffer, too.",
    )
    stripe_width: Count = Field(20, description="Of the broadest stripe, pixels.")
    stripe_length: Count = Field(128, description="Pixels along which a stripe hardly changes.")
    slabs: Count = Field(
        1,
        description="Slabs of planes that each get a gain of their own, for light that changes with depth; between their middles it is linear. "
        "A slab whose tiles are no flatter with its own keeps the gain of all planes.",
    )
    corrected_copy: bool = Field(
        False,
        description="Also write a corrected copy of every tile; otherwise correction happens on the fly.",
    )

    @model_validator(mode="after")
    def _profile_given(self) -> Illumination:
        if (self.method == "profile") != (self.profile is not None):
            raise ValueError("method `profile` and the setting `profile` (a path) need each other")
        if self.slabs > 1 and self.method in ("profile", "none"):
            raise ValueError(
                f"slabs are estimated; method `{self.method}` estimates nothing, wanted slabs of 1"
            )
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
    model: Literal["auto", "translation", "rigid", "similarity", "affine"] = Field(
        "auto",
        description="What a tile's pose is. `auto`: translations, unless the displacements of most overlaps bend and another model predicts them much better. "
        "`rigid`, `similarity` and `affine` measure blocks of each link, and take the fusion longer.",
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

    @property
    def matches(self) -> bool | None:
        """Whether blocks of the links are matched: always, never, or (None) where overlaps bend."""
        if self.model == "translation" or (self.model == "auto" and self.method != "robust"):
            return False
        return None if self.model == "auto" else True


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
