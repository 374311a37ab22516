"""Images on disk: pyramids, imports, exports."""


rule build_pyramid:
    """Make an OME-Zarr image with its pyramid of the fused voxels."""
    input:
        fused="<results>/images/{image}/fused.json",
        tiles="<results>/images/{image}/tiles.json",
        poses="<results>/images/{image}/poses.tsv",
    output:
        receipt="<results>/images/{image}/image.json",
    log:
        "<logs>/build_pyramid/{image}.log",
    benchmark:
        "<benchmarks>/build_pyramid/{image}.jsonl"
    wildcard_constraints:
        image=PROJECT.names(PROJECT.tiled),
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        settings=plain(SETTINGS.pyramid),
        store=plain(SETTINGS.store),
        image=image_settings,
        code=code("build_pyramid"),
    script:
        "../scripts/build_pyramid.py"


rule import_image:
    """Bring in an image that has no tiles; a chunked pyramid is referenced, all else is converted."""
    input:
        phantom=phantom_receipt,
    output:
        receipt="<results>/images/{image}/image.json",
    log:
        "<logs>/import_image/{image}.log",
    benchmark:
        "<benchmarks>/import_image/{image}.jsonl"
    wildcard_constraints:
        image=PROJECT.names([i for i in PROJECT.images if i not in PROJECT.tiled]),
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        path=source_path,
        state=source_state,
        image=source_settings,
        settings=plain(SETTINGS.pyramid),
        store=plain(SETTINGS.store),
        code=code("import_image", *READERS),
    script:
        "../scripts/import_image.py"


rule fit_bias:
    """Find what varies slowly over a whole image (only on request); nothing is rewritten."""
    input:
        image="<results>/images/{image}/image.json",
    output:
        receipt="<results>/images/{image}/bias.json",
    log:
        "<logs>/fit_bias/{image}.log",
    benchmark:
        "<benchmarks>/fit_bias/{image}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        settings=plain(SETTINGS.bias, "policy", "spacing"),
        code=code("fit_bias"),
    script:
        "../scripts/fit_bias.py"


rule resample_image:
    """Make a copy of an image with cubic voxels (only on request)."""
    input:
        image=shown_receipt,
    output:
        receipt="<results>/images/{image}/isotropic.json",
    log:
        "<logs>/resample_image/{image}.log",
    benchmark:
        "<benchmarks>/resample_image/{image}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        edge=lambda wildcards: SETTINGS.isotropic.get(wildcards.image),
        pyramid=plain(SETTINGS.pyramid),
        store=plain(SETTINGS.store),
        code=code("resample_image"),
    script:
        "../scripts/resample_image.py"


rule export_precomputed:
    """Write an image in Neuroglancer's precomputed format."""
    input:
        image=shown_receipt,
    output:
        receipt="<results>/images/{image}/precomputed.json",
    log:
        "<logs>/export_precomputed/{image}.log",
    benchmark:
        "<benchmarks>/export_precomputed/{image}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        code=code("export_precomputed"),
    script:
        "../scripts/export_precomputed.py"
