"""Blend blocks into one field (rule reduce_transform)."""

from weft.logs import capture_log
from weft.steps.reduce_transform import reduce_transform

with capture_log(snakemake.log[0]):
    reduce_transform(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
        log_file=snakemake.log[0],
    )
