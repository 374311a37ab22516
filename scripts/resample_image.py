"""Make a copy of an image with cubic voxels (rule resample_image)."""

from weft.logs import capture_log
from weft.steps.resample_image import resample_image

with capture_log(snakemake.log[0]):
    resample_image(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
        threads=snakemake.threads,
    )
