"""Images, labels and points through a transform."""


rule warp_image:
    """Resample one batch of regions of an image through the transform."""
    input:
        source=shown_receipt,
        target=target_receipt,
        transform=direction_receipt,
    output:
        receipt="<results>/registrations/{registration}/batches/warp_image/{side}{image}/{batch}.json",
    log:
        "<logs>/warp_image/{registration}/{side}{image}-{batch}.log",
    benchmark:
        "<benchmarks>/warp_image/{registration}/{side}{image}-{batch}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        public=warped_store,
        settings=warp_settings,
        pyramid=plain(SETTINGS.pyramid),
        store=plain(SETTINGS.store),
        batches=SETTINGS.batches.warp_image,
        code=code("warp_image"),
    script:
        "../scripts/warp_image.py"


rule gather_warped:
    """Check that every region is there and publish the warped image."""
    input:
        batches=batches(
            "<results>/registrations/{registration}/batches/warp_image/{side}{image}/{batch}.json",
            "warp_image",
        ),
    output:
        receipt="<results>/registrations/{registration}/warped/{side}{image}.json",
    log:
        "<logs>/gather_warped/{registration}/{side}{image}.log",
    benchmark:
        "<benchmarks>/gather_warped/{registration}/{side}{image}.jsonl"
    wildcard_constraints:
        image=PROJECT.names([i for i in PROJECT.images if not PROJECT.images[i].labels]),
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        public=warped_store,
        pyramid=plain(SETTINGS.pyramid),
        store=plain(SETTINGS.store),
        code=code("gather_warped"),
    script:
        "../scripts/gather_warped.py"


rule warp_labels:
    """Resample labels through the transform; names of regions stay exact."""
    input:
        source="<results>/images/{image}/image.json",
        target=target_receipt,
        transform=direction_receipt,
    output:
        receipt="<results>/registrations/{registration}/warped/{side}{image}.json",
    log:
        "<logs>/warp_labels/{registration}/{side}{image}.log",
    benchmark:
        "<benchmarks>/warp_labels/{registration}/{side}{image}.jsonl"
    wildcard_constraints:
        image=PROJECT.names([i for i in PROJECT.images if PROJECT.images[i].labels]),
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        public=warped_store,
        settings=registration_settings("warp", "spacing"),
        pyramid=plain(SETTINGS.pyramid),
        store=plain(SETTINGS.store),
        code=code("warp_labels"),
    script:
        "../scripts/warp_labels.py"


rule warp_points:
    """Carry a table of points through the transform; points outside its domain are flagged."""
    input:
        source=points_source,
        image=points_image,
        transform=points_transform,
    output:
        table="<results>/registrations/{registration}/points/{side}{table}.parquet",
    log:
        "<logs>/warp_points/{registration}/{side}{table}.log",
    benchmark:
        "<benchmarks>/warp_points/{registration}/{side}{table}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        path=points_path,
        code=code("warp_points"),
    script:
        "../scripts/warp_points.py"
