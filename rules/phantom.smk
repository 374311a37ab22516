"""The built-in phantom, and the judge of what the chain makes of it."""


rule make_phantom:
    """Make the phantom: raw tiles, an atlas, and the truth that only the judge reads."""
    output:
        receipt="<results>/phantom/phantom.json",
    log:
        "<logs>/make_phantom.log",
    benchmark:
        "<benchmarks>/make_phantom.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        settings=plain(SETTINGS.phantom) if SETTINGS.phantom else None,
        code=code("make_phantom"),
    script:
        "../scripts/make_phantom.py"


rule judge_phantom:
    """Compare what the chain made with the truth of the phantom."""
    input:
        phantom="<results>/phantom/phantom.json",
        results=judged_receipts(),
    output:
        accuracy="<results>/accuracy.json",
    log:
        "<logs>/judge_phantom.log",
    benchmark:
        "<benchmarks>/judge_phantom.jsonl"
    conda:
        "../envs/core.yaml"
    threads: 1
    resources:
        mem_mb=2000,
    params:
        about=judged(),
        code=code("judge_phantom"),
    script:
        "../scripts/judge_phantom.py"
