"""Stages of block-wise deformable registration."""


rule plan_blocks:
    """Cut the fixed grid of a stage into blocks with halos; which batch does which is decided in the batch.

    Where nothing is measured on the stage before, stages are planned, and refused, before the first one starts.
    """
    input:
        fixed=compared_receipt("fixed"),
        moving=compared_receipt("moving"),
        fixed_more=further_receipts("fixed"),
        moving_more=further_receipts("moving"),
        start=stage_to_expect_from,
    output:
        plan="<results>/registrations/{registration}/stages/{stage}/plan.json",
    log:
        "<logs>/plan_blocks/{registration}-{stage}.log",
    benchmark:
        "<benchmarks>/plan_blocks/{registration}-{stage}.jsonl"
    priority: 1
    conda:
        stage_environment
    threads: 1
    resources:
        mem_mb=2000,
        blocks_mb=memory_given_to_blocks,
    params:
        settings=stage_settings(
            "name",
            "level",
            "block",
            "overlap",
            "expected_displacement",
            "memory_mb",
            "backend",
            "settings",
            "only",
        ),
        channels=compared_channels,
        code=lambda wildcards: code("plan_blocks", stage_backend(wildcards)),
    script:
        "../scripts/plan_blocks.py"


rule register_blocks:
    """Register one batch of blocks on top of the transform so far."""
    input:
        plan="<results>/registrations/{registration}/stages/{stage}/plan.json",
        fixed=compared_receipt("fixed"),
        moving=compared_receipt("moving"),
        fixed_more=further_receipts("fixed"),
        moving_more=further_receipts("moving"),
        start=previous_stage,
        fixed_mask=image_receipt("fixed_mask"),
        moving_mask=image_receipt("moving_mask"),
    output:
        receipt="<results>/registrations/{registration}/stages/{stage}/batches/{batch}.json",
    log:
        "<logs>/register_blocks/{registration}-{stage}-{batch}.log",
    benchmark:
        "<benchmarks>/register_blocks/{registration}-{stage}-{batch}.jsonl"
    conda:
        stage_environment
    threads: 1
    resources:
        mem_mb=memory_of_blocks,
    params:
        cache=CACHE,
        settings=stage_settings("backend", "settings", "min_content", "debug"),
        channels=compared_channels,
        batches=SETTINGS.batches.register_blocks,
        rerun_status=SETTINGS.rerun_status,
        code=lambda wildcards: code("register_blocks", stage_backend(wildcards)),
    script:
        "../scripts/register_blocks.py"


rule reduce_transform:
    """Blend the blocks of a stage into one displacement field; failed blocks get a second try, then fall back."""
    input:
        plan="<results>/registrations/{registration}/stages/{stage}/plan.json",
        fixed=compared_receipt("fixed"),
        moving=compared_receipt("moving"),
        fixed_more=further_receipts("fixed"),
        moving_more=further_receipts("moving"),
        batches=batches(
            "<results>/registrations/{registration}/stages/{stage}/batches/{batch}.json",
            "register_blocks",
        ),
        start=previous_stage,
        fixed_mask=image_receipt("fixed_mask"),
        moving_mask=image_receipt("moving_mask"),
    output:
        receipt="<results>/registrations/{registration}/stages/{stage}/transform.json",
        ledger="<results>/registrations/{registration}/stages/{stage}/ledger.tsv",
        costs="<results>/registrations/{registration}/stages/{stage}/costs.tsv",
        quality="<results>/registrations/{registration}/stages/{stage}/quality.json",
    log:
        "<logs>/reduce_transform/{registration}-{stage}.log",
    benchmark:
        "<benchmarks>/reduce_transform/{registration}-{stage}.jsonl"
    conda:
        stage_environment
    threads: 1
    resources:
        mem_mb=4000,
    params:
        cache=CACHE,
        settings=registration_settings("reduce"),
        stage=stage_settings("backend", "settings", "min_content", "debug"),
        channels=compared_channels,
        gates=gates("blocks_failed_fraction", "folded_fraction", "seam_ratio"),
        rerun_status=SETTINGS.rerun_status,
        code=lambda wildcards: code("reduce_transform", stage_backend(wildcards)),
    script:
        "../scripts/reduce_transform.py"
