"""Measure regions (rule export_rois)."""

from weft.logs import capture_log
from weft.steps.export_rois import export_rois

with capture_log(snakemake.log[0]):
    export_rois(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
    )
