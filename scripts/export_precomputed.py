"""Write precomputed (rule export_precomputed)."""

from weft.logs import capture_log
from weft.steps.export_precomputed import export_precomputed

with capture_log(snakemake.log[0]):
    export_precomputed(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
    )
