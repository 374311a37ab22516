"""Publish a warped image (rule gather_warped)."""

from weft.logs import capture_log
from weft.steps.warp_image import gather_warped

with capture_log(snakemake.log[0]):
    gather_warped(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
        threads=snakemake.threads,
    )
