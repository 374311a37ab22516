"""Numbers, gates, pictures."""


rule check_seams:
    """Correlate what tiles show where they meet; draw the seams that need a look, and tiles before and after correction."""
    input:
        tiles="<results>/images/{image}/tiles.json",
        illumination="<results>/images/{image}/illumination.json",
        poses="<results>/images/{image}/poses.tsv",
        solved_links="<results>/images/{image}/solved_links.tsv",
        factors=brightness_receipt,
    output:
        table="<results>/images/{image}/seams.tsv",
        picture="<results>/images/{image}/figures/seams.png",
        flat_field_picture="<results>/images/{image}/figures/flat_field.png",
    log:
        "<logs>/check_seams/{image}.log",
    benchmark:
        "<benchmarks>/check_seams/{image}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        path=source_path,
        source=source_settings,
        channel=SETTINGS.links.channel,
        stripes=STRIPES,
        code=code("check_seams", *READERS),
    script:
        "../scripts/check_seams.py"


rule check_tiles:
    """Collect the gates of an image's stages."""
    input:
        parts=[
            "<results>/images/{image}/quality/illumination.json",
            "<results>/images/{image}/quality/links.json",
            "<results>/images/{image}/quality/poses.json",
            "<results>/images/{image}/quality/fusion.json",
        ],
    output:
        quality="<results>/images/{image}/quality.json",
    log:
        "<logs>/check_tiles/{image}.log",
    benchmark:
        "<benchmarks>/check_tiles/{image}.jsonl"
    wildcard_constraints:
        image=PROJECT.names(PROJECT.tiled),
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        code=code("check_tiles"),
    script:
        "../scripts/check_tiles.py"


rule check_quality:
    """Measure a registration before and after, as a whole, block by block and place by place; collect all its gates."""
    input:
        parts=registration_parts,
        round_trip="<results>/registrations/{registration}/quality/transform.json",
        fixed=compared_receipt("fixed"),
        moving=compared_receipt("moving"),
        fixed_labels=compared_labels("labels"),
        moving_labels=compared_labels("moving_labels"),
        affine="<results>/registrations/{registration}/affine.json",
        transform="<results>/registrations/{registration}/transform.json",
        inverse="<results>/registrations/{registration}/inverse.json",
        plan=last_stage_file("plan.json"),
        ledger=last_stage_file("ledger.tsv"),
        landmarks=landmark_sources,
    output:
        quality="<results>/registrations/{registration}/quality.json",
        local_ncc="<results>/registrations/{registration}/quality/local_ncc.json",
        log_jacobian="<results>/registrations/{registration}/quality/log_jacobian.json",
        block_table="<results>/registrations/{registration}/quality/blocks.tsv",
        region_table="<results>/registrations/{registration}/quality/worst_regions.tsv",
        landmark_table="<results>/registrations/{registration}/quality/landmarks.tsv",
        label_table="<results>/registrations/{registration}/quality/labels.tsv",
    log:
        "<logs>/check_quality/{registration}.log",
    benchmark:
        "<benchmarks>/check_quality/{registration}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        channels=channels_of,
        landmark_paths=landmark_paths,
        settings=registration_settings("quality"),
        gates=gates(
            "ncc_gain",
            "mutual_information_gain",
            "local_ncc_worse_fraction",
            "jacobian_p1",
            "jacobian_p99",
            "jacobian_folded_fraction",
            "disagreement_p95_voxel",
            "tre_gain_um",
            "rtre_median",
            "dice_mean",
            "dice_gain",
        ),
        code=code("check_quality"),
    script:
        "../scripts/check_quality.py"


rule gather_quality:
    """Write every gate of the run, one row each."""
    input:
        parts=quality_tables(),
    output:
        table="<results>/quality.tsv",
    log:
        "<logs>/gather_quality.log",
    benchmark:
        "<benchmarks>/gather_quality.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        code=code("gather_quality"),
    script:
        "../scripts/gather_quality.py"


rule render_report:
    """Draw the pictures and the page that people look at."""
    input:
        receipts=image_targets() + registration_targets(),
        seams=figures("seams", "flat_field"),
        parts=quality_tables(),
        table="<results>/quality.tsv",
    output:
        html=report(
            "<results>/report.html", caption="../report/report.rst", category="Report"
        ),
        positions=report(
            figures("positions"), caption="../report/positions.rst", category="Images"
        ),
        illumination=report(
            figures("illumination"),
            caption="../report/illumination.rst",
            category="Images",
        ),
        overlay=report(
            figures("overlay"),
            caption="../report/overlay.rst",
            category="Registrations",
        ),
        checkerboard=report(
            figures("checkerboard"),
            caption="../report/checkerboard.rst",
            category="Registrations",
        ),
        local_ncc=report(
            figures("local_ncc"),
            caption="../report/local_ncc.rst",
            category="Registrations",
        ),
        landmarks=report(
            figures("landmarks"),
            caption="../report/landmarks.rst",
            category="Registrations",
        ),
        labels=report(
            figures("labels"),
            caption="../report/labels.rst",
            category="Registrations",
        ),
        deformation=report(
            figures("deformation"),
            caption="../report/deformation.rst",
            category="Registrations",
        ),
        block_map=report(
            figures("block_map"),
            caption="../report/block_map.rst",
            category="Registrations",
        ),
    log:
        "<logs>/render_report.log",
    benchmark:
        "<benchmarks>/render_report.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        contents=report_contents(),
        code=code("render_report"),
    script:
        "../scripts/render_report.py"
