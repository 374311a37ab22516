"""Find how much too bright each tile is (rule equalise_tiles)."""

from weft.logs import capture_log
from weft.steps.equalise_tiles import equalise_tiles

with capture_log(snakemake.log[0]):
    equalise_tiles(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
    )
