"""From raw tiles to one position per tile."""


rule index_tiles:
    """List the tiles of an image: names, stage positions, shape, and a digest of each."""
    input:
        phantom=phantom_receipt,
    output:
        receipt="<results>/images/{image}/tiles.json",
    log:
        "<logs>/index_tiles/{image}.log",
    benchmark:
        "<benchmarks>/index_tiles/{image}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        path=source_path,
        state=source_state,
        settings=source_settings,
        raw_digest=SETTINGS.raw_digest,
        code=code("index_tiles", *READERS),
    script:
        "../scripts/index_tiles.py"


rule fit_illumination:
    """Estimate gain and dark of each channel."""
    input:
        tiles="<results>/images/{image}/tiles.json",
    output:
        receipt="<results>/images/{image}/illumination.json",
        quality="<results>/images/{image}/quality/illumination.json",
    log:
        "<logs>/fit_illumination/{image}.log",
    benchmark:
        "<benchmarks>/fit_illumination/{image}.jsonl"
    conda:
        illumination_environment
    threads: 1
    resources:
        mem_mb=2000,
    params:
        path=source_path,
        source=source_settings,
        settings=illumination_settings,
        state=illumination_state,
        gates=gates("bad_tiles"),
        code=code("fit_illumination", *READERS),
    script:
        "../scripts/fit_illumination.py"


rule correct_tiles:
    """Write a corrected copy of every tile (only on request; otherwise correction happens on the fly)."""
    input:
        tiles="<results>/images/{image}/tiles.json",
        illumination="<results>/images/{image}/illumination.json",
    output:
        receipt="<results>/images/{image}/corrected.json",
    log:
        "<logs>/correct_tiles/{image}.log",
    benchmark:
        "<benchmarks>/correct_tiles/{image}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        path=source_path,
        source=source_settings,
        stripes=STRIPES,
        store=plain(SETTINGS.store),
        code=code("correct_tiles", *READERS),
    script:
        "../scripts/correct_tiles.py"


rule measure_links:
    """Measure one batch of links: the displacement between two overlapping tiles."""
    input:
        tiles="<results>/images/{image}/tiles.json",
        illumination="<results>/images/{image}/illumination.json",
    output:
        receipt="<results>/images/{image}/batches/measure_links/{batch}.json",
    log:
        "<logs>/measure_links/{image}-{batch}.log",
    benchmark:
        "<benchmarks>/measure_links/{image}-{batch}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        path=source_path,
        source=source_settings,
        cache=CACHE,
        settings=plain(SETTINGS.links, matches=SETTINGS.poses.matches),
        batches=SETTINGS.batches.measure_links,
        code=code("measure_links", *READERS),
    script:
        "../scripts/measure_links.py"


rule gather_links:
    """Collect the links of an image and evaluate their gates."""
    input:
        tiles="<results>/images/{image}/tiles.json",
        batches=batches(
            "<results>/images/{image}/batches/measure_links/{batch}.json",
            "measure_links",
        ),
    output:
        links="<results>/images/{image}/links.tsv",
        matches="<results>/images/{image}/matches.tsv",
        quality="<results>/images/{image}/quality/links.json",
    log:
        "<logs>/gather_links/{image}.log",
    benchmark:
        "<benchmarks>/gather_links/{image}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        gates=gates("links_failed_fraction"),
        code=code("gather_links"),
    script:
        "../scripts/gather_links.py"


rule solve_poses:
    """Find one position per tile from all links."""
    input:
        tiles="<results>/images/{image}/tiles.json",
        links="<results>/images/{image}/links.tsv",
        matches="<results>/images/{image}/matches.tsv",
    output:
        poses="<results>/images/{image}/poses.tsv",
        solved_links="<results>/images/{image}/solved_links.tsv",
        quality="<results>/images/{image}/quality/poses.json",
    log:
        "<logs>/solve_poses/{image}.log",
    benchmark:
        "<benchmarks>/solve_poses/{image}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        settings=plain(SETTINGS.poses),
        overrides=overrides_of,
        gates=gates("link_residual_p95_voxel"),
        code=code("solve_poses"),
    script:
        "../scripts/solve_poses.py"


rule export_terastitcher:
    """Hand tiles, links and solved positions back as projects of TeraStitcher (only on request)."""
    input:
        tiles="<results>/images/{image}/tiles.json",
        links="<results>/images/{image}/links.tsv",
        solved_links="<results>/images/{image}/solved_links.tsv",
        poses="<results>/images/{image}/poses.tsv",
    output:
        receipt="<results>/images/{image}/terastitcher.json",
    log:
        "<logs>/export_terastitcher/{image}.log",
    benchmark:
        "<benchmarks>/export_terastitcher/{image}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        path=source_path,
        source=source_settings,
        code=code("export_terastitcher", *READERS),
    script:
        "../scripts/export_terastitcher.py"
