from snakemake.utils import min_version

min_version("9.20")


include: "rules/common.smk"
include: "rules/inputs.smk"
include: "rules/targets.smk"


pathvars:
    results=PROJECT.results,
    logs=f"{PROJECT.results}/logs",
    benchmarks=f"{PROJECT.results}/benchmarks",


report: "report/workflow.rst"


include: "rules/phantom.smk"
include: "rules/tiles.smk"
include: "rules/assemble.smk"
include: "rules/pyramid.smk"
include: "rules/affine.smk"
include: "rules/blocks.smk"
include: "rules/transform.smk"
include: "rules/warp.smk"
include: "rules/rois.smk"
include: "rules/quality.smk"


rule all:
    """Everything: every receipt, the table of gates and the report."""
    default_target: True
    input:
        targets(),
    localrule: True


rule images:
    """All images, stitched or imported, and nothing of the registrations."""
    input:
        image_targets(),
    localrule: True


rule registrations:
    """All images and registrations, without quality tables and report."""
    input:
        image_targets(),
        registration_targets(),
    localrule: True
