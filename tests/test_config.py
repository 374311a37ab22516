"""Settings: what is accepted, how the rest is refused, and that their reference is current."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from weft.config import Config
from weft.config.gates import GATES
from weft.config.registration import RegistrationSettings
from weft.project import Project
from weft.refusals import ConfigError, parse
from weft.rows import ImageRow

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES = sorted(
    path
    for folder in ("config", "config/examples", "config/recipes")
    for path in (ROOT / folder).glob("*.yaml")
)
IMAGES = """\
image\tsource\torientation\tspacing\tlabels\tchannels
brain\tbrain.nrrd\tair\t50,40,40\t\tauto,signal
atlas\tatlas.nrrd\tpil\t25,25,25\t\t
regions\tregions.nrrd\tpil\t25,25,25\tyes\t
"""
REGISTRATIONS = (
    "registration\tfixed\tmoving\tlabels\trecipe\nto_atlas\tatlas\tbrain\tregions\tlightsheet_brain\n"
)


@pytest.fixture
def project(tmp_path, monkeypatch):
    """Make a project of a good configuration, changed as the arguments say; in an empty folder of its own."""
    monkeypatch.chdir(tmp_path)

    def make(*, image_rows=IMAGES, registration_rows=REGISTRATIONS, sources=True, **settings) -> Project:
        for name, text in (("images.tsv", image_rows), ("registrations.tsv", registration_rows)):
            if text is not None:
                Path(name).write_text(text)
        for name in ("brain", "atlas", "regions") if sources else ():
            Path(f"{name}.nrrd").touch()
        plain = {"images": "images.tsv", "registrations": "registrations.tsv", **settings}
        made = Project(plain, ROOT, "my.yaml")
        made.check_sources()
        return made

    return make


NO_RECIPE = REGISTRATIONS.replace("lightsheet_brain", "")


def row(column: str, value: str) -> str:
    """The good table of images with another cell in the row of the brain."""
    heading, brain, *others = IMAGES.splitlines()
    cells = brain.split("\t")
    cells[heading.split("\t").index(column)] = value
    return "\n".join([heading, "\t".join(cells), *others]) + "\n"


def link(**cells: str) -> str:
    """The good table of registrations with other cells."""
    heading, line = REGISTRATIONS.splitlines()
    values = {**dict(zip(heading.split("\t"), line.split("\t"), strict=True)), **cells}
    return heading + "\n" + "\t".join(values[name] for name in heading.split("\t")) + "\n"


def more(fixed: str, moving: str, weights: str = "") -> str:
    """A table of registrations with further channels."""
    heading = "registration\tfixed\tmoving\tfixed_more\tmoving_more\tchannel_weights"
    return f"{heading}\nto_atlas\tatlas\tbrain\t{fixed}\t{moving}\t{weights}\n"


# ---------------------------------------------------------------------------------- good settings
def test_good_settings_are_accepted(project):
    made = project()
    assert list(made.images) == ["brain", "atlas", "regions"]
    assert made.images["brain"].spacing == (50, 40, 40)
    assert made.images["regions"].labels
    assert made.stages("to_atlas") == ["coarse", "fine"]
    assert made.stage("to_atlas", "coarse").level == "x2"  # as the recipe says, not the default


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_every_example_parses(path, monkeypatch):
    monkeypatch.chdir(ROOT)
    plain = yaml.safe_load(path.read_text())
    if path.parent.name == "recipes":
        parse(RegistrationSettings, plain, path.name)
        plain |= {"fixed": "a.nii.gz", "moving": "b.nii.gz"}
    assert Project(plain, ROOT, path.name).images


def test_a_number_in_the_dark_column_is_a_number():
    assert ImageRow(image="a", source="a", dark="100").dark == 100.0
    assert ImageRow(image="a", source="a", dark="dark.tif").dark == "dark.tif"


def test_a_channel_may_be_called_by_a_number():
    assert Config(links={"channel": 0}).links.channel == "0"


def test_a_gate_replaces_one_default(project):
    gates = project(gates={"ncc_gain": {"min": 0.1, "policy": "fail"}}).config.gates
    assert set(gates) == set(GATES)
    assert (gates["ncc_gain"].min, gates["ncc_gain"].policy) == (0.1, "fail")
    assert gates["affine_verdict"] == GATES["affine_verdict"][0]


def test_comments_empty_lines_and_windows_files_are_read(project):
    images = "\ufeff# my brains\r\n" + IMAGES.replace("\n", "\r\n") + "\r\n"
    assert list(project(image_rows=images).images) == ["brain", "atlas", "regions"]


def test_paths_below_the_data_root(project):
    Path("raw").mkdir()
    for name in ("brain", "atlas", "regions"):
        Path(f"raw/{name}.nrrd").touch()
    made = project(sources=False, data_root="raw/")
    assert made.path("brain.nrrd") == "raw/brain.nrrd"
    assert made.path("/elsewhere/brain.nrrd") == "/elsewhere/brain.nrrd"
    assert made.path("results/phantom/x.nrrd") == "results/phantom/x.nrrd"


# ---------------------------------------------------------------------------------- bad settings
NAME = "text that matches ^[A-Za-z0-9][A-Za-z0-9_-]*$"
REFUSED = {
    "misspelt key": (
        {"fusoin": {}},
        "my.yaml: there is no setting 'fusoin'; did you mean 'fusion'?",
    ),
    "misspelt key inside a section": (
        {"affine": {"orientaton": "code"}},
        "my.yaml: there is no setting 'affine.orientaton'; did you mean 'orientation'?",
    ),
    "misspelt key inside a list": (
        {"stages": [{"name": "one", "level": 50, "blok": 64}]},
        "my.yaml: there is no setting 'stages[0].blok'; did you mean 'block'?",
    ),
    "misspelt key that has to be there": (
        {"stages": [{"name": "one", "levl": 50}]},
        "my.yaml: there is no setting 'stages[0].levl'; did you mean 'level'?",
    ),
    "level with a unit": (
        {"stages": [{"name": "one", "level": "5um"}]},
        "my.yaml: stages[0].level: wanted a number or a factor such as x4; found '5um'",
    ),
    "name of no block": (
        {"stages": [{"name": "one", "level": 50, "only": ["first"]}]},
        "my.yaml: stages[0].only[0]: wanted the name of a block such as '0.1.2'; found 'first'",
    ),
    "column of a table": (
        {"recipe": "lightsheet_brain"},
        "my.yaml: there is no setting 'recipe'; it is a column of registrations.tsv",
    ),
    "gate like nothing there is": (
        {"gates": {"xyz": {"max": 1}}},
        "my.yaml: gates: there is no gate 'xyz'; config/README.md lists all",
    ),
    "key in the wrong place": (
        {"blend": "max"},
        "my.yaml: there is no setting 'blend'; it belongs to 'fusion'",
    ),
    "unknown gate": (
        {"gates": {"folded_fractoin": {"max": 1}}},
        "my.yaml: gates: there is no gate 'folded_fractoin'; did you mean 'folded_fraction'?",
    ),
    "wrong type": (
        {"batches": {"fuse_tiles": "many"}},
        "my.yaml: batches.fuse_tiles: wanted a whole number; found 'many'",
    ),
    "too small": (
        {"batches": {"fuse_tiles": 0}},
        "my.yaml: batches.fuse_tiles: wanted a number of at least 1; found 0",
    ),
    "infinite": (
        {"poses": {"link_sigma": float("inf")}},
        "my.yaml: poses.link_sigma: wanted a finite number; found inf",
    ),
    "unknown choice": (
        {"affine": {"model": "elastic"}},
        "my.yaml: affine.model: wanted 'rigid', 'similarity' or 'affine'; found 'elastic'",
    ),
    "one of two types": (
        {"stages": [{"name": "one", "level": 50, "block": "hole"}]},
        "my.yaml: stages[0].block: wanted a whole number or 'whole' or 'auto'; found 'hole'",
    ),
    "missing setting": (
        {"stages": [{"name": "one"}]},
        "my.yaml: stages[0].level is missing; wanted a value",
    ),
    "two of three axes": (
        {"store": {"chunk": [64, 64]}},
        "my.yaml: store.chunk: wanted three values (z, y, x); found [64, 64]",
    ),
    "shard no multiple of chunk": (
        {"store": {"chunk": [60, 64, 64]}},
        "my.yaml: store: shard [128, 256, 256] must be a multiple of chunk [60, 64, 64] on every axis",
    ),
    "two stages of one name": (
        {"stages": [{"name": "one", "level": 50}, {"name": "one", "level": 25}]},
        "my.yaml: stages: wanted different names; found one, one",
    ),
    "unknown backend": (
        {"stages": [{"name": "one", "level": 50, "backend": "natve"}]},
        "my.yaml: stages[0].backend: there is no backend 'natve'; did you mean 'native'?",
    ),
    "unknown setting of a backend": (
        {"stages": [{"name": "one", "level": 50, "settings": {"dampng": 0.1}}]},
        "my.yaml: stages[0].settings: backend native has no setting 'dampng'; did you mean 'damping'?",
    ),
    "setting of a backend out of range": (
        {"stages": [{"name": "one", "level": 50, "settings": {"step_limit": 5}}]},
        "my.yaml: stages[0].settings: "
        "setting step_limit of backend native is 5; wanted more than 0 and at most 2 voxels",
    ),
    "plug-in that is not there": (
        {"plugins": ["no_such_module"]},
        "my.yaml: plugins: module 'no_such_module' cannot be imported (ModuleNotFoundError: No module named "
        "'no_such_module'); wanted the name of a module that is installed or lies on PYTHONPATH",
    ),
    "unknown status": (
        {"rerun_status": ["errors"]},
        "my.yaml: rerun_status: there is no status 'errors'; did you mean 'error'?",
    ),
    "results nowhere": (
        {"results": "/"},
        "my.yaml: results: wanted the path of a folder of its own, without braces; found '/'",
    ),
    "bad stage name": (
        {"stages": [{"name": "first stage", "level": 50}]},
        f"my.yaml: stages[0].name: wanted a {NAME}; found 'first stage'",
    ),
    "points of an unknown image": (
        {"points": {"cells": {"path": "cells.csv", "image": "brian"}}},
        "my.yaml: points.cells.image names the image 'brian', which is not in the table of images; did you mean 'brain'?",
    ),
    "points that leave data_root": (
        {"points": {"cells": {"path": "../cells.csv", "image": "brain"}}},
        "my.yaml: points.cells.path: the path '../cells.csv' leaves data_root '.'; give an absolute path if that is meant",
    ),
    "points that are not there": (
        {"points": {"cells": {"path": "cells.csv", "image": "brain"}}},
        "my.yaml: points.cells.path: there is no file or folder 'cells.csv'",
    ),
    "no table": (
        {"images": None},
        "my.yaml: images: found nothing; wanted a table of images, or fixed and moving",
    ),
    "missing table": ({"images": "none.tsv"}, "none.tsv: the table of images is missing"),
    "fixed alone": (
        {"fixed": "a.nii"},
        "my.yaml: fixed and moving must be given together; found only fixed",
    ),
    "two files beside tables": (
        {"fixed": "a.nii", "moving": "b.nii"},
        "my.yaml: fixed and moving cannot be given beside tables; remove images and registrations",
    ),
    "orientation without file": (
        {"fixed_orientation": "air"},
        "my.yaml: fixed_orientation is given without fixed and moving; use the table of images",
    ),
}
REFUSED_IMAGES = {
    "voxel size zero": (row("spacing", "0,40,40"), "line 2: spacing: wanted three positive numbers z,y,x in um; found '0,40,40'"),
    "voxel size negative": (row("spacing", "50,-40,40"), "line 2: spacing: wanted three positive numbers z,y,x in um; found '50,-40,40'"),
    "voxel size of one axis missing": (row("spacing", "50,40"), "line 2: spacing: wanted three positive numbers z,y,x in um; found '50,40'"),
    "voxel size no number": (row("spacing", "50,40,nan"), "line 2: spacing: wanted three positive numbers z,y,x in um; found '50,40,nan'"),
    "unknown orientation": (
        row("orientation", "aix"),
        "line 2: orientation: orientation 'aix' has the unknown letter 'x'; "
        "wanted one of s/i, one of a/p and one of r/l, in the order of the axes (z, y, x)",
    ),
    "orientation with a repeated axis": (
        row("orientation", "aip"),
        "line 2: orientation: orientation 'aip' repeats an axis ('a' and 'p'); "
        "wanted one of s/i, one of a/p and one of r/l, in the order of the axes (z, y, x)",
    ),
    "bad name": (row("image", "my brain"), f"line 2: image: wanted a {NAME}; found 'my brain'"),
    "no source": (row("source", ""), "line 2: source is missing; wanted a value"),
    "missing source": (row("source", "none.nrrd"), "image 'brain': source: there is no file or folder 'none.nrrd'"),
    "source leaves data_root": (
        row("source", "../brain.nrrd"),
        "image 'brain': source: the path '../brain.nrrd' leaves data_root '.'; give an absolute path if that is meant",
    ),
    "phantom without phantom": (
        row("source", "results/phantom/sample"),
        "image 'brain': source: 'results/phantom/sample' is made by the phantom, and `phantom` is not set",
    ),
    "labels neither yes nor no": (row("labels", "perhaps"), "line 2: labels: wanted yes or no; found 'perhaps'"),
    "duplicate id": (row("image", "atlas"), "line 3: image 'atlas' stands twice; names must be different"),
    "misspelt column": (
        IMAGES.replace("orientation", "orientaton"),
        "line 1: there is no column 'orientaton'; did you mean 'orientation'?",
    ),
    "missing column": ("image\nbrain\n", "line 1: column 'source' is missing; found image"),
    "commas for tabs": (
        "image,source\nbrain,brain.nrrd\n",
        "line 1: there is no column 'image,source'; did you mean 'source'? (columns are separated by tabs)",
    ),
    "too few cells": ("image\tsource\tdark\nbrain\tbrain.nrrd\n", "line 2: found 2 cells; wanted 3, as many as the heading"),
    "no rows": ("image\tsource\n", "the table of images has no rows"),
    "unknown reader": (
        "image\tsource\tformat\nbrain\tbrain.nrrd\tcolmm\n",
        "line 2: format: there is no reader 'colmm'; did you mean 'colm'?",
    ),
}  # fmt: skip
REFUSED_REGISTRATIONS = {
    "image to itself": (
        link(moving="atlas"),
        "registration 'to_atlas': fixed and moving are both 'atlas'; an image cannot be registered to itself",
    ),
    "unknown image": (
        link(moving="brian"),
        "registration 'to_atlas': moving names the image 'brian', which is not in images.tsv; did you mean 'brain'?",
    ),
    "labels that are none": (
        link(labels="atlas"),
        "registration 'to_atlas': labels names 'atlas', which images.tsv does not mark as labels; "
        "wanted an image with `yes` in the column labels",
    ),
    "a label image as moving": (
        link(moving="regions"),
        "registration 'to_atlas': moving is the label image 'regions'; wanted an image with intensities",
    ),
    "unknown recipe": (
        link(recipe="ligthsheet_brain"),
        "registration 'to_atlas': there is no recipe 'ligthsheet_brain'; did you mean 'lightsheet_brain'?",
    ),
    "recipe outside its folder": (
        link(recipe="../demo"),
        f"line 2: recipe: wanted a {NAME}; found '../demo'",
    ),
    "duplicate id": (
        REGISTRATIONS + REGISTRATIONS.splitlines()[1] + "\n",
        "line 3: registration 'to_atlas' stands twice; names must be different",
    ),
    "a channel that is not there": (
        "registration\tfixed\tmoving\tmoving_channel\nto_atlas\tatlas\tbrain\tsignale\n",
        "registration 'to_atlas': moving_channel: image 'brain' has no channel 'signale'; did you mean 'signal'?",
    ),
    "a further channel without a partner": (
        more("", "signal"),
        "registration 'to_atlas': fixed_more names 0 channels and moving_more 1; wanted as many, as they are compared in pairs",
    ),
    "a further channel that is not there": (
        more("atlas/", "signale"),
        "registration 'to_atlas': moving_more: image 'brain' has no channel 'signale'; did you mean 'signal'?",
    ),
    "a further image that is not there": (
        more("atlas/", "brian/signal"),
        "registration 'to_atlas': moving_more names the image 'brian', which is not in images.tsv; did you mean 'brain'?",
    ),
    "labels as a further channel": (
        more("regions/", "signal"),
        "registration 'to_atlas': fixed_more names the label image 'regions'; wanted one with intensities",
    ),
    "weights of other channels": (
        more("atlas/", "signal", "1"),
        "registration 'to_atlas': channel_weights holds 1 numbers for 2 channels; wanted one for each",
    ),
    "a weight of nothing": (
        more("atlas/", "signal", "1,0"),
        "line 2: channel_weights: wanted numbers above 0 separated by commas; found '1,0'",
    ),
}


def refuse(project, **changes) -> str:
    """The sentence with which a project is refused: one line."""
    with pytest.raises(ConfigError) as caught:
        project(**changes)
    sentence = str(caught.value)
    assert "\n" not in sentence
    return sentence


@pytest.mark.parametrize(("settings", "sentence"), REFUSED.values(), ids=REFUSED)
def test_bad_settings_are_refused_in_one_sentence(project, settings, sentence):
    recipe = {"registration_rows": NO_RECIPE} if "stages" in settings else {}
    assert refuse(project, **recipe, **settings) == sentence


@pytest.mark.parametrize(("table", "sentence"), REFUSED_IMAGES.values(), ids=REFUSED_IMAGES)
def test_bad_tables_of_images_are_refused_in_one_sentence(project, table, sentence):
    found = refuse(project, image_rows=table)
    assert found.startswith("images.tsv: ")
    assert found.removeprefix("images.tsv: ") == sentence


@pytest.mark.parametrize(("table", "sentence"), REFUSED_REGISTRATIONS.values(), ids=REFUSED_REGISTRATIONS)
def test_bad_tables_of_registrations_are_refused_in_one_sentence(project, table, sentence):
    assert refuse(project, registration_rows=table) == f"registrations.tsv: {sentence}"


def test_further_channels_need_a_backend_that_compares_them(project):
    table = more("atlas/", "signal")
    made = project(registration_rows=table)
    assert made.registrations["to_atlas"].further("fixed") == [("atlas", None)]
    assert made.registrations["to_atlas"].further("moving") == [("brain", "signal")]
    stage = {"name": "one", "level": 25, "backend": "demons"}
    found = refuse(project, registration_rows=table, stages=[stage])
    assert found == (
        "registrations.tsv: registration 'to_atlas': stages[0]: backend 'demons' compares one channel, and fixed_more adds 1; "
        "wanted native, or no fixed_more and moving_more"
    )
    project(registration_rows=table, stages=[{**stage, "backend": "mine:register"}])
    weighted = {**stage, "backend": "native", "settings": {"channel_weights": [1, 2, 3]}}
    found = refuse(project, registration_rows=table, stages=[weighted])
    assert found.endswith(
        "stages[0].settings: channel_weights holds 3 numbers for 2 channels; wanted one for each"
    )


def test_a_voxel_size_that_a_format_cannot_state_must_be_given(project):
    Path("planes").mkdir()
    Path("planes/0.tif").touch()
    table = row("source", "planes").replace("50,40,40", "")
    sentence = "images.tsv: image 'brain': spacing is missing; a folder of TIFF planes does not state it, "
    assert refuse(project, image_rows=table) == sentence + "wanted three positive numbers z,y,x in um"


def test_tiles_need_their_format(project):
    Path("scan").mkdir()
    Path("scan/Experiment.ini").touch()
    found = refuse(project, image_rows=row("source", "scan"))
    assert found == "images.tsv: image 'brain': format is missing; 'scan' holds tiles, wanted 'colm'"


def test_a_table_that_is_no_text_is_refused(project):
    Path("picture.tsv").write_bytes(b"image\tsource\n\xff\xfe\n")
    found = refuse(project, images="picture.tsv")
    assert found == "picture.tsv: byte 13 is not UTF-8; wanted a plain text table"


def test_a_recipe_may_set_a_registration_only(tmp_path, project):
    recipes = tmp_path / "config" / "recipes"
    recipes.mkdir(parents=True)
    (recipes / "mine.yaml").write_text("batches: {warp_image: 8}\n")
    project()
    Path("registrations.tsv").write_text(link(recipe="mine"))
    with pytest.raises(
        ConfigError, match=r"registration 'to_atlas': recipe 'mine': there is no setting 'batches'"
    ):
        Project({"images": "images.tsv", "registrations": "registrations.tsv"}, tmp_path)


# ---------------------------------------------------------------------------------- through Snakemake
@pytest.mark.workflow
@pytest.mark.parametrize(
    ("images", "registrations", "settings", "sentence"),
    [
        (IMAGES, REGISTRATIONS, "fusoin: {}", REFUSED["misspelt key"][1].removeprefix("my.yaml")),
        (*(REFUSED_IMAGES["voxel size zero"][0], REGISTRATIONS), "", REFUSED_IMAGES["voxel size zero"][1]),
        (*(REFUSED_IMAGES["missing source"][0], REGISTRATIONS), "", REFUSED_IMAGES["missing source"][1]),
        (
            IMAGES,
            REFUSED_REGISTRATIONS["image to itself"][0],
            "",
            REFUSED_REGISTRATIONS["image to itself"][1],
        ),
    ],
    ids=["misspelt key", "voxel size", "missing source", "image to itself"],
)
def test_snakemake_says_the_sentence_and_no_more(
    project, tmp_path, images, registrations, settings, sentence
):
    project()
    Path("images.tsv").write_text(images)
    Path("registrations.tsv").write_text(registrations)
    Path("my.yaml").write_text(f"images: images.tsv\nregistrations: registrations.tsv\n{settings}\n")
    found = dry_run(tmp_path, "--configfile", "my.yaml")
    assert found.returncode == 1
    assert sentence in found.stderr + found.stdout
    assert "Traceback" not in found.stderr + found.stdout
    assert not (tmp_path / "results").exists()


@pytest.mark.workflow
def test_the_recipe_pair_plans_two_files(tmp_path):
    for name in ("a.nrrd", "b.nrrd"):
        (tmp_path / name).touch()
    files = ("fixed=a.nrrd", "moving=b.nrrd")
    found = dry_run(tmp_path, "--configfile", str(ROOT / "config/recipes/pair.yaml"), "--config", *files)
    assert found.returncode == 0, found.stderr
    assert "results/registrations/pair/transform.json" in found.stdout


def dry_run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "snakemake", "-n", "--snakefile", str(ROOT / "Snakefile"), *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
