"""Solve for the positions of tiles (rule solve_poses)."""

from weft.logs import capture_log
from weft.steps.solve_poses import solve_poses

with capture_log(snakemake.log[0]):
    solve_poses(
        **snakemake.input,
        **snakemake.params,
        **snakemake.output,
    )
