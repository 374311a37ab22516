"""Write corrected tiles (rule correct_tiles)."""

from weft.logs import capture_log
from weft.steps.correct_tiles import correct_tiles

with capture_log(snakemake.log[0]):
    correct_tiles(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
        threads=snakemake.threads,
    )
