"""Readers and backends from outside: the setting `plugins`, through the project, the rules and the scripts."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from snakemake.exceptions import WorkflowError
from workflow_jobs import plan_jobs, run_script
from workflow_project import SIDE, Project, make_project

from weft import readers, receipts
from weft.grid import Grid
from weft.plugins import import_plugins, published
from weft.readers import register_reader, tiled_formats
from weft.registration import contract, register
from weft.registration.contract import load_backend, register_backend
from weft.stores import open_image

PLUGIN = '''
import numpy as np
from weft.grid import Grid
from weft.image import Image, Level, Tile, TileSet
from weft.readers import register_reader
from weft.registration.contract import Result, register_backend

ADD = 7

def open_numbers(path, *, spacing=(10, 10, 10), orientation=None, channels=None, labels=False):
    """Voxels as numbers in a text file."""
    values = (np.loadtxt(path, dtype=np.uint16) + ADD).reshape(1, 48, 48, 48)
    return Image((Level(values, Grid(values.shape[1:], spacing)),), orientation=orientation)

def open_pair(path, *, orientation=None):
    """Two tiles side by side."""
    voxels = np.random.default_rng(0).integers(0, 999, (8, 32, 60)).astype(np.uint16)
    tiles = (Tile("left", (0.0, 0.0, 0.0)), Tile("right", (0.0, 0.0, 28.0)))
    read = lambda tile, channel, region: voxels[:, :, 28 * tile : 28 * tile + 32][region]
    return TileSet(tiles, (8, 32, 32), (1.0, 1.0, 1.0), np.dtype("u2"), ("0",), read, orientation)

def register(fixed, fixed_grid, *rest):
    grid = fixed_grid.coarsen((2, 2, 2))
    return Result(np.zeros((3, *grid.shape), np.float32), grid, [], 1, 0.1, 0.2)

register_backend("own", register)
register_reader("numbers", open_numbers)
register_reader("pair", open_pair, tiles=True)
'''
IMAGES = """image\tsource\tformat\torientation
fixed\tdata/fixed.txt\tnumbers\tpil
moving\tdata/moving.nrrd\tauto\tpil
tiles\tdata/fixed.txt\tpair\tpil
"""


@pytest.fixture(autouse=True)
def place(tmp_path, monkeypatch):
    """Folder of the plug-in, where Python looks; what it registers is forgotten afterwards."""
    folder = tmp_path / "plugins"
    folder.mkdir()
    (folder / "brought.py").write_text(PLUGIN)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(readers, "_registered", {})
    monkeypatch.setattr(readers, "_registered_tiled", set())
    monkeypatch.setattr(contract, "_registered", {})
    yield folder
    sys.modules.pop("brought", None)


@pytest.fixture
def project(tmp_path) -> Project:
    project = make_project(tmp_path / "project", plugins=["brought"])
    (project.folder / "images.tsv").write_text(
        IMAGES.replace("data/moving.nrrd\tauto", "data/moving.txt\tnumbers")
    )
    (project.folder / "registrations.tsv").write_text("registration\tfixed\tmoving\npair\tfixed\tmoving\n")
    for name in ("fixed", "moving"):
        np.savetxt(project.folder / f"data/{name}.txt", np.arange(SIDE**3) % 1000, fmt="%d")
    project.set(stages=[{"name": "own", "level": 10, "backend": "own"}])
    return project


def find(jobs: list[Any], rule: str, image: str | None = None) -> Any:
    return next(job for job in jobs if job.rule.name == rule and image in (None, job.wildcards.get("image")))


def edit(place: Path) -> None:
    """Another version of the plug-in, as another run would import it."""
    (place / "brought.py").write_text(PLUGIN.replace("ADD = 7", "ADD = 8"))
    sys.modules.pop("brought", None)


# ---------------------------------------------------------------------------------- names
def test_a_module_that_cannot_be_imported_is_named(place):
    with pytest.raises(
        ValueError, match=r"plugins: module 'absent' cannot be imported \(ModuleNotFoundError: "
    ):
        import_plugins(["brought", "absent"])
    (place / "broken.py").write_text("raise RuntimeError('two\\nlines')\n")
    with pytest.raises(
        ValueError, match=r"'broken' cannot be imported \(RuntimeError: two lines\); wanted"
    ) as caught:
        import_plugins(["broken"])
    assert "\n" not in str(caught.value)


def test_a_plugin_adds_formats():
    with pytest.raises(ValueError, match="unknown format 'numbers'"):
        readers.reader("numbers")
    import_plugins(["brought"])
    assert {"numbers", "pair"} < set(readers.formats())
    assert {"colm", "tiff_tiles", "pair"} < set(tiled_formats())
    register_reader("pair", lambda path: None)  # named anew, as a reader of images
    assert "pair" not in tiled_formats()
    assert readers.reader_identity("numbers").startswith("brought.open_numbers@")
    assert readers.reader_identity("auto") == readers.reader_identity("colm") == "weft"


def test_a_plugin_adds_a_backend():
    grid = Grid((32, 32, 32), (10.0, 10.0, 10.0))
    image = np.random.default_rng(0).random(grid.shape).astype(np.float32)
    stage = {"name": "one", "level": 10, "block": 16, "overlap": 4, "backend": "own"}

    def run():
        options = {"fixed_grid": grid, "moving_grid": grid, "affine": np.eye(4), "inverse": False}
        return register(image, image, stages=[stage], workers=2, processes=True, **options)

    with pytest.raises(ValueError, match="there is no backend 'own'"):
        run()
    import_plugins(["brought"])
    # Worker processes have not imported what gave it its name.
    assert {row["metric_after"] for row in run().blocks["one"]} == {0.2}
    with pytest.raises(ValueError, match="'native' is one of weft's own"):
        register_backend("native", load_backend("own"))
    with pytest.raises(ValueError, match="wanted a function at the top level"):
        register_backend("mine", lambda *arguments: None)


def test_a_package_publishes_a_backend(place):
    (place / "package-1.dist-info").mkdir()
    (place / "package-1.dist-info/METADATA").write_text("Metadata-Version: 2.1\nName: package\nVersion: 1\n")
    (place / "package-1.dist-info/entry_points.txt").write_text(
        "[weft.backends]\ntheirs = brought:register\n"
    )
    published.cache_clear()
    assert contract.portable_name("native") == "native"
    assert contract.backend_module("native") == "weft.registration.backends.native"
    assert not published.cache_info().misses  # weft's own are found without a look at what is installed
    assert load_backend("theirs").__module__ == "brought"
    assert contract.backend_module("theirs") == "brought"
    with pytest.raises(ValueError, match="did you mean 'theirs'"):
        contract.portable_name("their")
    assert published.cache_info().misses == 1


def test_the_workflow_refuses_a_plugin_that_is_not_there(project):
    project.set(plugins=["absent"])
    with pytest.raises(WorkflowError, match=r"my\.yaml: plugins: module 'absent' cannot be imported"):
        plan_jobs(project.folder)
    project.set(plugins=[])
    with pytest.raises(WorkflowError, match=r"stages\[0\]\.backend: there is no backend 'own'"):
        plan_jobs(project.folder)
    project.set(stages=[{"name": "own", "level": 10, "backend": "brought:register"}])
    with pytest.raises(WorkflowError, match="there is no reader 'numbers'"):
        plan_jobs(project.folder)


# ---------------------------------------------------------------------------------- results
def test_an_image_comes_in_through_a_plugin(project, place):
    job = find(plan_jobs(project.folder), "import_image", "fixed")
    sys.modules.pop("brought")  # the script runs in a process of its own
    readers._registered.clear()
    run_script(project.folder, job)
    image = open_image(project.results / "images/fixed/image.ome.zarr")
    wanted = (np.arange(SIDE**3) % 1000 + 7).reshape((SIDE,) * 3)
    np.testing.assert_array_equal(image.levels[0].read(), wanted)

    def key() -> str:
        return receipts.read(project.folder / f"{job.output[0]}.provenance.json")["key"]

    first = key()
    run_script(project.folder, job, image={**job.params.image, "plugins": ["brought", "json"]})
    assert key() == first  # a module that has no part in it does not count
    edit(place)
    run_script(project.folder, job)  # the code in its params is the old one: the reader's own digest tells
    assert key() != first
    np.testing.assert_array_equal(
        open_image(project.results / "images/fixed/image.ome.zarr").levels[0].read(), wanted + 1
    )


def test_an_edit_of_a_plugin_reaches_the_rules_that_use_it(project, place):
    before = {str(job.output[0]): job.params.code for job in plan_jobs(project.folder)}
    edit(place)
    after = {str(job.output[0]): job.params.code for job in plan_jobs(project.folder)}
    changed = {Path(path).parts[1:] for path in before if before[path] != after[path]}
    assert ("images", "fixed", "image.json") in changed
    assert ("images", "tiles", "tiles.json") in changed
    assert ("registrations", "pair", "stages", "own", "batches", "0.json") in changed  # its backend
    assert ("registrations", "pair", "affine.json") not in changed
    assert ("images", "tiles", "image.json") not in changed


def test_tiles_come_in_through_a_plugin(project):
    jobs = plan_jobs(project.folder)
    assert {job.wildcards.image for job in jobs if job.rule.name == "index_tiles"} == {"tiles"}
    job = find(jobs, "index_tiles")
    run_script(project.folder, job)
    index = receipts.read(project.folder / job.output[0])
    assert [tile["name"] for tile in index["tiles"]] == ["left", "right"]
    assert (index["shape"], index["orientation"]) == ([8, 32, 32], "pil")
    run_script(project.folder, find(jobs, "fit_illumination"))  # reads the voxels through the plug-in
    assert receipts.read(project.results / "images/tiles/illumination.json")["channels"] == ["0"]


def test_a_stage_whose_backend_lacks_a_package_is_refused_with_its_plan(project, place):
    (place / "lacking.py").write_text(
        "def register(*arguments): ...\n"
        "def backend_version():\n    raise ValueError('backend lacking needs the package nowhere')\n"
    )
    job = find(plan_jobs(project.folder), "plan_blocks")
    with pytest.raises(SystemExit, match="Error: backend lacking needs the package nowhere"):
        run_script(project.folder, job, settings={**job.params.settings, "backend": "lacking:register"})


def test_a_script_names_a_plugin_that_is_gone(project):
    job = find(plan_jobs(project.folder), "index_tiles")
    with pytest.raises(SystemExit, match="Error: plugins: module 'absent' cannot be imported"):
        run_script(project.folder, job, settings={**job.params.settings, "plugins": ["absent"]})
