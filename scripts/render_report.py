"""Draw pictures and report (rule render_report)."""

from weft.logs import capture_log
from weft.steps.render_report import render_report

with capture_log(snakemake.log[0]):
    render_report(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
    )
