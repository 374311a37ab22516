"""What a run makes: the files of the target rules, and what the report shows."""


def image_targets():
    paths = []
    for name, row in PROJECT.images.items():
        base = f"{RESULTS}/images/{name}"
        paths.append(f"{base}/image.json")
        if row.tiled:
            paths += [
                f"{base}/{part}"
                for part in (
                    "tiles.json",
                    "illumination.json",
                    "links.tsv",
                    "matches.tsv",
                    "poses.tsv",
                    "solved_links.tsv",
                    "seams.tsv",
                    "fused.json",
                )
            ]
            if SETTINGS.fusion.equalise != "none":
                paths.append(f"{base}/brightness.json")
            if SETTINGS.illumination.corrected_copy:
                paths.append(f"{base}/corrected.json")
        if name in SETTINGS.bias.images:
            paths.append(f"{base}/bias.json")
        if name in SETTINGS.isotropic:
            paths.append(f"{base}/isotropic.json")
        if name in SETTINGS.terastitcher:
            paths.append(f"{base}/terastitcher.json")
        if name in SETTINGS.precomputed:
            paths.append(f"{base}/precomputed.json")
    return paths


def registration_targets():
    paths = []
    for name in PROJECT.registrations:
        base = f"{RESULTS}/registrations/{name}"
        paths += [
            f"{base}/affine.json",
            f"{base}/transform.json",
            f"{base}/inverse.json",
        ]
        paths += [
            f"{base}/stages/{stage}/transform.json" for stage in PROJECT.stages(name)
        ]
        if SETTINGS.export_transforms:
            paths.append(f"{base}/exports/exports.json")
        for side, direction in DIRECTIONS.items():
            paths += [
                f"{base}/warped/{side}{image}.json"
                for image in PROJECT.warped(name, direction)
            ]
            paths += [
                f"{base}/points/{side}{table}.parquet"
                for table in PROJECT.points(name, direction)
            ]
        if rois_of(name):
            paths += [f"{base}/rois/regions.{kind}" for kind in ("csv", "json")]
    return paths


def quality_tables():
    return [f"{RESULTS}/images/{name}/quality.json" for name in PROJECT.tiled] + [
        f"{RESULTS}/registrations/{name}/quality.json" for name in PROJECT.registrations
    ]


def targets():
    paths = image_targets() + registration_targets() + quality_tables()
    paths += [f"{RESULTS}/quality.tsv", f"{RESULTS}/report.html"]
    if SETTINGS.phantom:
        paths += [f"{RESULTS}/phantom/phantom.json"]
        if judged():
            paths.append(f"{RESULTS}/accuracy.json")
    return paths


def registration_parts(wildcards):
    """Quality of every step of a registration."""
    base = f"{RESULTS}/registrations/{wildcards.registration}"
    stages = [
        f"{base}/stages/{stage}/quality.json"
        for stage in PROJECT.stages(wildcards.registration)
    ]
    return [f"{base}/quality/affine.json", *stages, f"{base}/quality/transform.json"]


def roi_labels(wildcards):
    labels = PROJECT.registrations[wildcards.registration].labels
    return (
        f"{RESULTS}/registrations/{wildcards.registration}/warped/inverse/{labels}.json"
    )


def roi_points(wildcards):
    base = f"{RESULTS}/registrations/{wildcards.registration}/points"
    return [
        f"{base}/{table}.parquet"
        for table in PROJECT.points(wildcards.registration, "forward")
    ]


def figures(*names):
    """Pictures of every stitched image or registration, by the kind of picture."""
    paths = []
    for kind in names:
        if kind in ("positions", "illumination", "seams", "flat_field"):
            paths += [
                f"{RESULTS}/images/{name}/figures/{kind}.png" for name in PROJECT.tiled
            ]
            continue
        for name in PROJECT.registrations:
            stages = PROJECT.stages(name)
            base = f"{RESULTS}/registrations/{name}/figures"
            row = PROJECT.registrations[name]
            if kind == "block_map":
                paths += [f"{base}/blocks_{stage}.png" for stage in stages]
            elif {
                "deformation": stages,
                "landmarks": row.landmarks,
                "labels": row.moving_labels,
            }.get(kind, True):
                paths.append(f"{base}/{kind}.png")
    return paths


def report_contents():
    """What the report shows, by name."""
    return {
        "images": PROJECT.tiled,
        "registrations": {
            name: {
                "fixed": row.fixed,
                "moving": row.moving,
                "channels": {"fixed": row.fixed_channel, "moving": row.moving_channel},
                "stages": PROJECT.stages(name),
                "spacing": PROJECT.settings(name).quality.spacing,
                "landmarks": bool(row.landmarks),
                "labels": row.labels,
                "moving_labels": row.moving_labels,
                "rois": rois_of(name),
            }
            for name, row in PROJECT.registrations.items()
        },
    }
