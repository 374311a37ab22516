"""Write all gates (rule gather_quality)."""

from weft.logs import capture_log
from weft.steps.gather_quality import gather_quality

with capture_log(snakemake.log[0]):
    gather_quality(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
    )
