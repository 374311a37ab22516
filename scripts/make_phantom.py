"""Make the phantom (rule make_phantom)."""

from weft.logs import capture_log
from weft.steps.make_phantom import make_phantom

with capture_log(snakemake.log[0]):
    make_phantom(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
    )
