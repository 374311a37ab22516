"""Cut a stage into blocks (rule plan_blocks)."""

from weft.logs import capture_log
from weft.steps.plan_blocks import plan_blocks

with capture_log(snakemake.log[0]):
    plan_blocks(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
        blocks_mb=snakemake.resources.blocks_mb,
    )
