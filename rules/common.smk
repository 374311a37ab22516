"""The project, and what the rules hand to their scripts as params."""

import json
from math import ceil
from pathlib import Path

from weft.code_digest import code_digest
from weft.project import DARKS, Project
from weft.readers.fingerprint import fingerprint
from weft.refusals import ConfigError
from weft.registration.contract import backend_module
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


def code(script, *extra):
    """Digest of the library rooms that a script uses."""
    return code_digest(workflow.basedir, f"scripts/{script}.py", extra)


def plain(model, *fields, **more):
    """Settings (all, or those of these names) as plain data, for params."""
    return {**model.model_dump(mode="json", include=set(fields) or None), **more}


# Settings of the removal of stripes, which every step that shows tiles as they are fused shares.
STRIPES = plain(SETTINGS.illumination, "stripes", "stripe_width", "stripe_length")


# Engines whose packages are heavy, or refuse versions of the rest: they have a conda environment of their own.
OWN_ENVIRONMENT = ("ants", "basic", "elastix")


def environment(engine):
    """The conda environment of an engine; relative to this folder, as those that rules name."""
    return f"../envs/{engine if engine in OWN_ENVIRONMENT else 'core'}.yaml"


def illumination_environment(wildcards):
    return environment(SETTINGS.illumination.method)


def affine_environment(wildcards):
    return environment(PROJECT.settings(wildcards.registration).affine.method)


def stage_environment(wildcards):
    return environment(PROJECT.stage(wildcards.registration, wildcards.stage).backend)


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
    fields = (
        "method",
        "policy",
        "planes",
        "percentile",
        "dark_percentile",
        "slabs",
    )
    profile = PROJECT.path(light.profile) if light.profile else None
    return plain(light, *fields, dark=dark, profile=profile)


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
    plan = json.loads(Path(input.plan).read_text())
    return max(2000, ceil(plan["process_mb"] + 1.25 * threads * plan["memory_mb"]))


def memory_given_to_blocks(wildcards):
    """MB that register_blocks is held to (`--set-resources`); 0 where it gets what it asks for."""
    own = workflow.resource_settings.overwrite_resources.get("register_blocks", {})
    given = own.get("mem_mb")
    return given if isinstance(given, int) else 0


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


def gates(*names):
    """The gates of these numbers."""
    return {name: plain(SETTINGS.gates[name]) for name in names}


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
