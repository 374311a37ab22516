"""Quality gates: thresholds on measured numbers, and their defaults."""

from __future__ import annotations

from pydantic import Field

from weft.config.base import Model, Policy


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
    "affine_verdict": (
        Gate(min=2.0),
        "What `affine` says of its result by its own thresholds: 2 accepted, 1 accepted with a warning, 0 refused (and gone on with, as its `policy` is `warn`).",
    ),
    "voxel_size_doubts": (
        Gate(max=0.0),
        "1 where the table of images gives a voxel size that contradicts what the image's source states, as if its axes were swapped or it were in mm; 0 where it does not.",
    ),
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
