"""Make the levels of an image (rule build_pyramid)."""

from weft.logs import capture_log
from weft.steps.build_pyramid import build_pyramid

with capture_log(snakemake.log[0]):
    build_pyramid(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
        threads=snakemake.threads,
    )
