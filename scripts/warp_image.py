"""Warp one batch of regions (rule warp_image)."""

from weft.logs import capture_log
from weft.steps.warp_image import warp_image

with capture_log(snakemake.log[0]):
    warp_image(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
        batch=int(snakemake.wildcards.batch),
        threads=snakemake.threads,
    )
