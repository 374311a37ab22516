"""Find the affine start (rule register_affine)."""

from weft.logs import capture_log
from weft.steps.register_affine import register_affine

with capture_log(snakemake.log[0]):
    register_affine(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
    )
