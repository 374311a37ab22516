"""Collect the links of an image (rule gather_links)."""

from weft.logs import capture_log
from weft.steps.measure_links import gather_links

with capture_log(snakemake.log[0]):
    gather_links(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
    )
