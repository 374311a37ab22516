"""List the tiles of an image (rule index_tiles)."""

from weft.logs import capture_log
from weft.steps.index_tiles import index_tiles

with capture_log(snakemake.log[0]):
    index_tiles(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
    )
