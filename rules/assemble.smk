"""From placed tiles to one volume."""


rule equalise_tiles:
    """Find how much too bright each tile is, from what neighbours saw of the same content (only on request)."""
    input:
        tiles="<results>/images/{image}/tiles.json",
        illumination="<results>/images/{image}/illumination.json",
        poses="<results>/images/{image}/poses.tsv",
    output:
        receipt="<results>/images/{image}/brightness.json",
    log:
        "<logs>/equalise_tiles/{image}.log",
    benchmark:
        "<benchmarks>/equalise_tiles/{image}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        path=source_path,
        source=source_settings,
        policy=SETTINGS.fusion.equalise,
        code=code("equalise_tiles", *READERS),
    script:
        "../scripts/equalise_tiles.py"


rule fuse_tiles:
    """Blend the tiles into one batch of output regions."""
    input:
        tiles="<results>/images/{image}/tiles.json",
        illumination="<results>/images/{image}/illumination.json",
        poses="<results>/images/{image}/poses.tsv",
        factors=brightness_receipt,
    output:
        receipt="<results>/images/{image}/batches/fuse_tiles/{batch}.json",
    log:
        "<logs>/fuse_tiles/{image}-{batch}.log",
    benchmark:
        "<benchmarks>/fuse_tiles/{image}-{batch}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=4000,
    params:
        path=source_path,
        source=source_settings,
        stripes=STRIPES,
        settings=plain(SETTINGS.fusion, "blend", "dtype", "offset"),
        store=plain(SETTINGS.store),
        batches=SETTINGS.batches.fuse_tiles,
        code=code("fuse_tiles", *READERS),
    script:
        "../scripts/fuse_tiles.py"


rule gather_fused:
    """Check that every region is there and publish the fused voxels."""
    input:
        batches=batches(
            "<results>/images/{image}/batches/fuse_tiles/{batch}.json", "fuse_tiles"
        ),
    output:
        receipt="<results>/images/{image}/fused.json",
        quality="<results>/images/{image}/quality/fusion.json",
    log:
        "<logs>/gather_fused/{image}.log",
    benchmark:
        "<benchmarks>/gather_fused/{image}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        store=plain(SETTINGS.store),
        gates=gates("clipped_fraction"),
        code=code("gather_fused"),
    script:
        "../scripts/gather_fused.py"
