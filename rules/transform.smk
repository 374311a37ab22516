"""Transforms: both directions and their exports."""


rule invert_transform:
    """Publish the transform of a registration and its inverse, with the round trip measured on every voxel."""
    input:
        fixed=image_receipt("fixed"),
        stage=last_stage,
        plan=last_stage_file("plan.json"),
    output:
        transform="<results>/registrations/{registration}/transform.json",
        inverse="<results>/registrations/{registration}/inverse.json",
        quality="<results>/registrations/{registration}/quality/transform.json",
    log:
        "<logs>/invert_transform/{registration}.log",
    benchmark:
        "<benchmarks>/invert_transform/{registration}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        settings=registration_settings("invert"),
        gates=gates(
            "round_trip_p95_voxel",
            "round_trip_max_voxel",
            "round_trip_outside_fraction",
            "inverse_unsolved_fraction",
        ),
        code=code("invert_transform"),
    script:
        "../scripts/invert_transform.py"


rule export_transform:
    """Write both directions for other programs (ITK, OME-NGFF), read them back and compare probe points."""
    input:
        transform="<results>/registrations/{registration}/transform.json",
        inverse="<results>/registrations/{registration}/inverse.json",
        fixed=image_receipt("fixed"),
    output:
        receipt="<results>/registrations/{registration}/exports/exports.json",
    log:
        "<logs>/export_transform/{registration}.log",
    benchmark:
        "<benchmarks>/export_transform/{registration}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        code=code("export_transform"),
    script:
        "../scripts/export_transform.py"
