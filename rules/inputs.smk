"""Input functions: which files a job reads."""


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


def brightness_receipt(wildcards):
    """How much too bright each tile is, where tiles are to be equalised."""
    wanted = SETTINGS.fusion.equalise != "none"
    return f"{RESULTS}/images/{wildcards.image}/brightness.json" if wanted else []


def image_receipt(role):
    """Receipt of the image that plays a role in a registration (none where nobody plays it)."""

    def path(wildcards):
        image = getattr(PROJECT.registrations[wildcards.registration], role)
        return f"{RESULTS}/images/{image}/image.json" if image else []

    return path


def compared_receipt(role):
    """Receipt of the image that plays a role, as registration sees it: through its bias, where one is asked for."""

    def path(wildcards):
        return seen(getattr(PROJECT.registrations[wildcards.registration], role))

    return path


def seen(image, use=("registration", "everything")):
    """Receipt of an image through its bias, where one is asked for this use; else as it is."""
    biased = image in SETTINGS.bias.images and SETTINGS.bias.use in use
    return f"{RESULTS}/images/{image}/{'bias' if biased else 'image'}.json"


def shown_receipt(wildcards):
    """Receipt of an image as it is warped and exported."""
    return seen(wildcards.image, use=("everything",))


def measured_receipt(wildcards):
    """Receipt of the moving image as its regions are measured."""
    moving = PROJECT.registrations[wildcards.registration].moving
    return seen(moving, use=("everything",))


def further_receipts(role):
    """Receipts of the images of the further channels that the stages compare."""

    def paths(wildcards):
        row = PROJECT.registrations[wildcards.registration]
        return [seen(name) for name, _ in row.further(role)]

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


def points_image(wildcards):
    """The image whose points they are."""
    return f"{RESULTS}/images/{SETTINGS.points[wildcards.table].image}/image.json"


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
