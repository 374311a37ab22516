"""All helper functions of the rules."""

import json
from math import ceil
from pathlib import Path

from weft.code_digest import code_digest
from weft.project import DARKS, Project
from weft.readers.fingerprint import fingerprint
from weft.refusals import ConfigError
from weft.registration.contract import PROCESS_MB, backend_module
from snakemake.exceptions import WorkflowError

if not config and Path("config/config.yaml").is_file():

    configfile: "config/config.yaml"


def load_project():
    """The project, or one sentence that says what is wrong with its settings."""
    where = ", ".join(str(path) for path in workflow.configfiles) or "config"
    try:
        project = Project(config, workflow.basedir, where)
        project.check_sources()
        return project
    except ConfigError as error:
        raise WorkflowError(str(error)) from None


PROJECT = load_project()
SETTINGS = PROJECT.config
RESULTS = PROJECT.results
CACHE = f"{RESULTS}/.weft"
DIRECTIONS = {"": "forward", "inverse/": "inverse"}
READERS = ("weft.readers.*", *SETTINGS.plugins)  # modules that may open a source


wildcard_constraints:
    image=PROJECT.names(PROJECT.images),
    registration=PROJECT.names(PROJECT.registrations),
    stage=PROJECT.names([s for r in PROJECT.registrations for s in PROJECT.stages(r)]),
    table=PROJECT.names(SETTINGS.points),
    side="(inverse/)?",
    batch=r"\d+",


# ------------------------------------------------------------------ params
def code(script, *extra):
    """Digest of the library rooms that a script uses."""
    return code_digest(workflow.basedir, f"scripts/{script}.py", extra)


def plain(model, *fields, **more):
    """Settings (all, or those of these names) as plain data, for params."""
    return {**model.model_dump(mode="json", include=set(fields) or None), **more}


def source_path(wildcards):
    return PROJECT.path(PROJECT.images[wildcards.image].source)


def source_state(wildcards):
    """Changes when a source's files change; what the phantom makes is an input instead."""
    if PROJECT.made_by_phantom(wildcards.image):
        return "phantom"
    try:
        return fingerprint(source_path(wildcards))
    except FileNotFoundError as error:
        raise WorkflowError(f"image {wildcards.image!r}: {error}") from None


def source_settings(wildcards):
    """What a reader needs to know of an image besides its path."""
    fields = set(type(PROJECT.images[wildcards.image]).model_fields) - {
        "source",
        "dark",
    }
    return plain(PROJECT.images[wildcards.image], *fields, plugins=SETTINGS.plugins)


def image_settings(wildcards):
    return plain(PROJECT.images[wildcards.image], "image", "orientation")


def illumination_settings(wildcards):
    light = SETTINGS.illumination
    dark = PROJECT.images[wildcards.image].dark
    dark = light.dark if dark is None else dark
    if isinstance(dark, str) and dark not in DARKS:
        dark = PROJECT.path(dark)
    fields = ("method", "policy", "planes", "percentile", "dark_percentile")
    profile = PROJECT.path(light.profile) if light.profile else None
    return plain(light, *fields, dark=dark, profile=profile)


def illumination_environment(wildcards):
    """The conda environment of the estimator: BaSiC, which is heavy, has one of its own."""
    name = "basic" if SETTINGS.illumination.method == "basic" else "core"
    return f"../envs/{name}.yaml"


def illumination_state(wildcards):
    """Changes when a file that dark or gain are read from changes."""
    settings = illumination_settings(wildcards)
    dark = settings["dark"]
    if not isinstance(dark, str) or dark in DARKS:
        dark = None
    if PROJECT.made_by_phantom(wildcards.image):
        return None
    try:
        return [path and fingerprint(path) for path in (dark, settings["profile"])]
    except FileNotFoundError as error:
        raise WorkflowError(f"illumination: {error}") from None


def overrides_of(wildcards):
    """Rows of the table of overrides that speak of an image: an edit of another image's rows changes nothing."""
    return PROJECT.overrides.get(wildcards.image, [])


def registration_settings(part, *fields):
    """Settings (all, or those of these names) of one step of a registration, its recipe included."""

    def settings(wildcards):
        return plain(getattr(PROJECT.settings(wildcards.registration), part), *fields)

    return settings


def stage_settings(*fields):
    """Those settings of a stage."""

    def settings(wildcards):
        return plain(PROJECT.stage(wildcards.registration, wildcards.stage), *fields)

    return settings


def warp_settings(wildcards):
    """Settings of resampling; the channels that are named are the moving image's."""
    settings = registration_settings("warp")(wildcards)
    return {**settings, "channels": None} if wildcards.side else settings


def channels_of(wildcards):
    row = PROJECT.registrations[wildcards.registration]
    return {"fixed": row.fixed_channel, "moving": row.moving_channel}


def compared_channels(wildcards):
    """All channels that the stages compare, and how much each counts."""
    row = PROJECT.registrations[wildcards.registration]
    more = {
        f"{role}_more": [name for _, name in row.further(role)]
        for role in ("fixed", "moving")
    }
    return {**channels_of(wildcards), **more, "weights": row.channel_weights}


def names_of(wildcards):
    row = PROJECT.registrations[wildcards.registration]
    return {"fixed": row.fixed, "moving": row.moving}


def stage_backend(wildcards):
    """The module of a stage's backend, so that its code counts in the digest."""
    return backend_module(
        PROJECT.stage(wildcards.registration, wildcards.stage).backend
    )


def memory_of_blocks(wildcards, input, threads):
    """MB for as many planned blocks beside each other as there are threads; known once the plan is there."""
    block = json.loads(Path(input.plan).read_text())["memory_mb"]
    return max(2000, ceil(PROCESS_MB + 1.25 * threads * block))


def memory_given_to_blocks(wildcards):
    """MB that register_blocks is held to (`--set-resources`); 0 where it gets what it asks for."""
    own = workflow.resource_settings.overwrite_resources.get("register_blocks", {})
    given = own.get("mem_mb")
    return given if isinstance(given, int) else 0


def stage_environment(wildcards):
    """The conda environment of a stage's backend: antspyx, which is heavy, has one of its own."""
    backend = PROJECT.stage(wildcards.registration, wildcards.stage).backend
    name = "ants" if backend == "ants" else "registration"
    return f"../envs/{name}.yaml"  # relative to this folder, as those that rules name


# ------------------------------------------------------------------ inputs
def phantom_receipt(wildcards):
    return (
        f"{RESULTS}/phantom/phantom.json"
        if PROJECT.made_by_phantom(wildcards.image)
        else []
    )


def batches(pattern, step):
    """The receipts of all batches of a step."""

    def paths(wildcards):
        return expand(
            pattern,
            **dict(wildcards.items()),
            batch=range(getattr(SETTINGS.batches, step)),
        )

    return paths


def image_receipt(role):
    """Receipt of the image that plays a role in a registration (none where nobody plays it)."""

    def path(wildcards):
        image = getattr(PROJECT.registrations[wildcards.registration], role)
        return f"{RESULTS}/images/{image}/image.json" if image else []

    return path


def further_receipts(role):
    """Receipts of the images of the further channels that the stages compare."""

    def paths(wildcards):
        row = PROJECT.registrations[wildcards.registration]
        return [f"{RESULTS}/images/{name}/image.json" for name, _ in row.further(role)]

    return paths


def previous_stage(wildcards):
    stages = PROJECT.stages(wildcards.registration)
    return stage_receipt(wildcards.registration, stages.index(wildcards.stage) - 1)


def stage_to_expect_from(wildcards):
    """The stage before, where the halo of a stage's blocks is made of what that one left; else none."""
    stage = PROJECT.stage(wildcards.registration, wildcards.stage)
    first = PROJECT.stages(wildcards.registration)[0] == wildcards.stage
    measured = stage.overlap == "auto" and stage.expected_displacement is None
    return previous_stage(wildcards) if measured and not first else []


def last_stage(wildcards):
    return stage_receipt(
        wildcards.registration, len(PROJECT.stages(wildcards.registration)) - 1
    )


def stage_receipt(registration, number):
    """Receipt of a stage's transform; stage -1 is the affine start."""
    base = f"{RESULTS}/registrations/{registration}"
    return (
        f"{base}/affine.json"
        if number < 0
        else f"{base}/stages/{PROJECT.stages(registration)[number]}/transform.json"
    )


def direction_receipt(wildcards):
    """The transform that resamples in a direction: forward pulls moving voxels back to the fixed grid."""
    name = "inverse" if wildcards.side else "transform"
    return f"{RESULTS}/registrations/{wildcards.registration}/{name}.json"


def target_receipt(wildcards):
    """The image on whose grid the warped image lies."""
    return image_receipt("moving" if wildcards.side else "fixed")(wildcards)


def warped_store(wildcards):
    return f"{RESULTS}/registrations/{wildcards.registration}/warped/{wildcards.side}{wildcards.image}.ome.zarr"


def points_transform(wildcards):
    """Points go the other way than voxels: moving points to the fixed space need the inverse."""
    name = "transform" if wildcards.side else "inverse"
    return f"{RESULTS}/registrations/{wildcards.registration}/{name}.json"


def table_source(name):
    """The file that a table of points depends on: itself, or the phantom's receipt."""
    path = PROJECT.path(SETTINGS.points[name].path)
    return (
        f"{RESULTS}/phantom/phantom.json"
        if path.startswith(f"{RESULTS}/phantom/")
        else path
    )


def points_source(wildcards):
    return table_source(wildcards.table)


def points_path(wildcards):
    return PROJECT.path(SETTINGS.points[wildcards.table].path)


def ontology_path(wildcards):
    ontology = PROJECT.registrations[wildcards.registration].ontology
    return PROJECT.path(ontology) if ontology else None


def ontology_source(wildcards):
    path = ontology_path(wildcards)
    if path is None:
        return []
    return (
        f"{RESULTS}/phantom/phantom.json"
        if path.startswith(f"{RESULTS}/phantom/")
        else path
    )


def landmark_paths(wildcards):
    paths = PROJECT.registrations[wildcards.registration].landmarks or []
    return [PROJECT.path(path) for path in paths]


def landmark_sources(wildcards):
    """The files that the landmarks depend on: themselves, or the phantom's receipt."""
    return [
        (
            f"{RESULTS}/phantom/phantom.json"
            if path.startswith(f"{RESULTS}/phantom/")
            else path
        )
        for path in landmark_paths(wildcards)
    ]


def start_sources(wildcards):
    """Files that a given start of the affine depends on."""
    start = PROJECT.settings(wildcards.registration).affine.start
    files = [given_path(path) for path in (start.files if start else ())]
    return [f"{path}/zarr.json" if Path(path).is_dir() else path for path in files]


def given_path(path):
    """A path that a given start names: of a source, or of another registration's affine."""
    return path if path.startswith(f"{RESULTS}/") else PROJECT.path(path)


def affine_settings(wildcards):
    settings = registration_settings("affine")(wildcards)
    start = settings["start"]
    if start and start["landmarks"]:
        start["landmarks"] = [given_path(path) for path in start["landmarks"]]
    if start and start["transform"]:
        start["transform"] = given_path(start["transform"])
    return settings


def compared_labels(role):
    """Receipt of a label image whose overlap is measured (none where only one image has labels)."""

    def path(wildcards):
        row = PROJECT.registrations[wildcards.registration]
        return (
            f"{RESULTS}/images/{getattr(row, role)}/image.json"
            if row.moving_labels
            else []
        )

    return path


def last_stage_file(name):
    """A file of the last deformable stage (none for an affine alone)."""

    def path(wildcards):
        stages = PROJECT.stages(wildcards.registration)
        base = f"{RESULTS}/registrations/{wildcards.registration}/stages"
        return f"{base}/{stages[-1]}/{name}" if stages else []

    return path


def rois_of(registration):
    return bool(PROJECT.registrations[registration].labels)


def judged():
    """What the judge of the phantom looks at: the registration of the image that is stitched from it."""
    for name, row in PROJECT.registrations.items():
        if row.moving in PROJECT.tiled and PROJECT.made_by_phantom(row.moving):
            points = PROJECT.points(name, "forward")
            if row.labels and points:
                return {
                    "registration": name,
                    "moving": row.moving,
                    "labels": row.labels,
                    "points": points[0],
                }
    return None


def judged_receipts():
    """Receipts of what the judge opens."""
    about = judged()
    if about is None:
        return []
    image = f"{RESULTS}/images/{about['moving']}"
    registration = f"{RESULTS}/registrations/{about['registration']}"
    return [
        f"{image}/poses.tsv",
        f"{image}/illumination.json",
        f"{registration}/transform.json",
        f"{registration}/inverse.json",
        f"{registration}/warped/inverse/{about['labels']}.json",
        f"{registration}/points/{about['points']}.parquet",
    ]


# ------------------------------------------------------------------ targets
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
            if SETTINGS.illumination.corrected_copy:
                paths.append(f"{base}/corrected.json")
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


def gates(*names):
    """The gates of these numbers."""
    return {name: plain(SETTINGS.gates[name]) for name in names}


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
        if kind in ("positions", "illumination", "seams"):
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
