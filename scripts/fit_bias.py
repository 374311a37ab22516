"""Find what varies slowly over a whole image (rule fit_bias)."""

from weft.logs import capture_log
from weft.steps.fit_bias import fit_bias

with capture_log(snakemake.log[0]):
    fit_bias(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
    )
