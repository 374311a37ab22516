"""Compare the results with the truth (rule judge_phantom)."""

from weft.logs import capture_log
from weft.steps.judge_phantom import judge_phantom

with capture_log(snakemake.log[0]):
    judge_phantom(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
    )
