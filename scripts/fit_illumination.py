"""Estimate gain and dark (rule fit_illumination)."""

from weft.logs import capture_log
from weft.steps.fit_illumination import fit_illumination

with capture_log(snakemake.log[0]):
    fit_illumination(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
        threads=snakemake.threads,
    )
