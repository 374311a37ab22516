"""Hand an image back to TeraStitcher (rule export_terastitcher)."""

from weft.logs import capture_log
from weft.steps.export_terastitcher import export_terastitcher

with capture_log(snakemake.log[0]):
    export_terastitcher(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
    )
