"""Publish a transform and its inverse (rule invert_transform)."""

from weft.logs import capture_log
from weft.steps.invert_transform import invert_transform

with capture_log(snakemake.log[0]):
    invert_transform(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
    )
