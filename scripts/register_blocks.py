"""Register one batch of blocks (rule register_blocks)."""

from weft.logs import capture_log
from weft.steps.register_blocks import register_blocks

with capture_log(snakemake.log[0]):
    register_blocks(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
        log_file=snakemake.log[0],
        batch=int(snakemake.wildcards.batch),
        threads=snakemake.threads,
        memory_mb=snakemake.resources.mem_mb,
    )
