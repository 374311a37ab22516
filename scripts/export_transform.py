"""Write ITK transforms (rule export_transform)."""

from weft.logs import capture_log
from weft.steps.export_transform import export_transform

with capture_log(snakemake.log[0]):
    export_transform(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
    )
