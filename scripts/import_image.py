"""Bring in an image that has no tiles (rule import_image)."""

from weft.logs import capture_log
from weft.steps.import_image import import_image

with capture_log(snakemake.log[0]):
    import_image(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
        threads=snakemake.threads,
    )
