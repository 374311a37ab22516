"""Collect an image's gates (rule check_tiles)."""

from weft.logs import capture_log
from weft.steps.gather_quality import check_tiles

with capture_log(snakemake.log[0]):
    check_tiles(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
    )
