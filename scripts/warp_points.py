"""Warp a table of points (rule warp_points)."""

from weft.logs import capture_log
from weft.steps.warp_points import warp_points

with capture_log(snakemake.log[0]):
    warp_points(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
    )
