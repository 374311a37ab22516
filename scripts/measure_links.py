"""Measure one batch of links (rule measure_links)."""

from weft.logs import capture_log
from weft.steps.measure_links import measure_links

with capture_log(snakemake.log[0]):
    measure_links(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
        batch=int(snakemake.wildcards.batch),
        threads=snakemake.threads,
    )
