"""Tables of regions."""


rule export_rois:
    """Measure the regions of the annotation in the moving image's own space."""
    input:
        fixed=image_receipt("fixed"),
        moving=measured_receipt,
        labels=roi_labels,
        inverse=f"{RESULTS}/registrations/{{registration}}/inverse.json",
        points=roi_points,
        ontology_source=ontology_source,
    output:
        csv="<results>/registrations/{registration}/rois/regions.csv",
        parquet="<results>/registrations/{registration}/rois/regions.parquet",
        receipt="<results>/registrations/{registration}/rois/regions.json",
    log:
        "<logs>/export_rois/{registration}.log",
    benchmark:
        "<benchmarks>/export_rois/{registration}.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        ontology=ontology_path,
        names=names_of,
        code=code("export_rois"),
    script:
        "../scripts/export_rois.py"
