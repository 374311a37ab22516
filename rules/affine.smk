"""The affine start."""


rule register_affine:
    """Find the affine start of a registration; one that is lost says so."""
    input:
        fixed=compared_receipt("fixed"),
        moving=compared_receipt("moving"),
        fixed_mask=image_receipt("fixed_mask"),
        moving_mask=image_receipt("moving_mask"),
        start=start_sources,
    output:
        receipt="<results>/registrations/{registration}/affine.json",
        quality="<results>/registrations/{registration}/quality/affine.json",
    log:
        "<logs>/register_affine/{registration}.log",
    benchmark:
        "<benchmarks>/register_affine/{registration}.jsonl"
    conda:
        affine_environment
    threads: 1
    resources:
        mem_mb=4000,
    params:
        cache=CACHE,
        settings=affine_settings,
        channels=channels_of,
        names=names_of,
        gates=gates("affine_verdict", "voxel_size_doubts"),
        code=code("register_affine"),
    script:
        "../scripts/register_affine.py"
