"""Measure a registration (rule check_quality)."""

from weft.logs import capture_log
from weft.steps.check_quality import check_quality

with capture_log(snakemake.log[0]):
    check_quality(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
    )
