"""Warp labels (rule warp_labels)."""

from weft.logs import capture_log
from weft.steps.warp_image import warp_labels

with capture_log(snakemake.log[0]):
    warp_labels(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
        threads=snakemake.threads,
    )
