"""Fuse one batch of regions (rule fuse_tiles)."""

from weft.logs import capture_log
from weft.steps.fuse_tiles import fuse_tiles

with capture_log(snakemake.log[0]):
    fuse_tiles(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
        batch=int(snakemake.wildcards.batch),
        threads=snakemake.threads,
    )
