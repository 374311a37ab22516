"""Publish the fused voxels (rule gather_fused)."""

from weft.logs import capture_log
from weft.steps.fuse_tiles import gather_fused

with capture_log(snakemake.log[0]):
    gather_fused(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
    )
