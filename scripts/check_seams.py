"""Correlate and draw the seams between tiles (rule check_seams)."""

from weft.logs import capture_log
from weft.steps.check_seams import check_seams

with capture_log(snakemake.log[0]):
    check_seams(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
    )
