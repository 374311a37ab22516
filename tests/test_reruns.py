"""What an edit schedules: the exact set of jobs, after a complete run; and what is computed when they run."""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk
import tifffile
from workflow_copy import PAIR, RepositoryCopy, WholeRun

from weft import receipts

pytestmark = pytest.mark.workflow


# ---------------------------------------------------------------------------------- the jobs, by what they make
def tiled(*rules: str) -> set[str]:
    """Jobs of both stitched images."""
    return {f"{rule} {image}" for rule in rules for image in ("sample", "bits")}


def batched(rule: str, *subjects: str, batches: int = 2) -> set[str]:
    """A job for each batch."""
    return {f"{rule} {subject} {batch}" for subject in subjects for batch in range(batches)}


NAME = "sample_to_atlas"
SHOWN = {"render_report"}
# Each line is what follows from the line before it, from the end of the chain to its start.
REGIONS = {f"warp_labels {NAME} inverse/ annotation", f"export_rois {NAME}", "judge_phantom"} | SHOWN
FORWARD_IMAGE = batched("warp_image", f"{NAME} sample") | {f"gather_warped {NAME} sample"}
BACKWARD_IMAGE = batched("warp_image", f"{NAME} inverse/ atlas") | {f"gather_warped {NAME} inverse/ atlas"}
CELLS = {f"warp_points {NAME} cells"}
MARKS = {f"warp_points {NAME} inverse/ marks"}
CHECKED = {f"check_quality {NAME}", "gather_quality"} | SHOWN
INVERTED = (
    {f"invert_transform {NAME}", f"export_transform {NAME}"}
    | REGIONS | FORWARD_IMAGE | BACKWARD_IMAGE | CELLS | MARKS | CHECKED
)  # fmt: skip
FINE_REDUCED = {f"reduce_transform {NAME} fine"} | INVERTED
FINE_BLOCKS = batched("register_blocks", f"{NAME} fine") | FINE_REDUCED
COARSE_REDUCED = {f"reduce_transform {NAME} coarse"} | FINE_BLOCKS
COARSE_BLOCKS = batched("register_blocks", f"{NAME} coarse") | COARSE_REDUCED
AFFINE = {f"register_affine {NAME}"} | COARSE_BLOCKS
# The first stage is planned by itself, as are those whose overlap is given.
PLANS = {f"plan_blocks {NAME} coarse", f"plan_blocks {NAME} fine"}
BIAS = {"fit_bias sample"} | PLANS | AFFINE
PYRAMIDS = tiled("build_pyramid") | {"export_precomputed sample"} | BIAS
FUSED = tiled("gather_fused", "check_tiles") | PYRAMIDS
FUSION = batched("fuse_tiles", "sample", "bits") | FUSED
EQUALISED = tiled("equalise_tiles", "check_seams") | FUSION
POSES = tiled("solve_poses", "check_seams") | EQUALISED
LINKS = batched("measure_links", "sample", "bits") | tiled("gather_links") | POSES
LIGHT = tiled("fit_illumination", "correct_tiles") | LINKS
INDEX = tiled("index_tiles") | LIGHT
IMPORTS = {"import_image atlas", "import_image annotation", "import_image alone"}
BITS = (
    {job for job in LIGHT if job.split()[1:2] == ["bits"]} | {"gather_quality"} | SHOWN
)  # from its light on


@pytest.fixture(scope="module")
def project(whole_run: WholeRun, tmp_path_factory: pytest.TempPathFactory) -> RepositoryCopy:
    """A copy of the complete run; every test leaves it as it was, and the next one would notice if not."""
    return whole_run.project.copy(tmp_path_factory.mktemp("reruns") / "project")


# ---------------------------------------------------------------------------------- edits
@contextmanager
def kept(*paths: Path) -> Iterator[None]:
    """Put files back as they were, times included."""
    before = [(path, path.read_bytes(), path.stat()) for path in paths]
    try:
        yield
    finally:
        for path, data, status in before:
            path.write_bytes(data)
            os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def replace(path: Path, old: str, new: str) -> None:
    """Replace what stands once in a file."""
    text = path.read_text()
    assert text.count(old) == 1, (path, old, text.count(old))
    path.write_text(text.replace(old, new))


def stages(**fine: object) -> dict[str, object]:
    """The stages' settings, the fine one's changed."""
    first = {"name": "coarse", "level": 200, "block": "whole"}
    return {"stages": [first, {"name": "fine", "level": 100, "block": 40, "overlap": 8} | fine]}


SETTING_EDITS: dict[str, tuple[dict, set[str]]] = {
    "illumination.planes": ({"illumination": {"planes": 300}}, LIGHT),
    "illumination.corrected_copy": ({"illumination": {"corrected_copy": False}}, SHOWN),
    "links.peaks": ({"links": {"peaks": 3}}, LINKS),
    "poses.stage_sigma": ({"poses": {"stage_sigma": 4.0}}, POSES),
    "fusion.equalise": ({"fusion": {"equalise": "force"}}, EQUALISED),
    "fusion.blend": ({"fusion": {"blend": "max"}}, FUSION),
    "batches.fuse_tiles": (
        {"batches": {"fuse_tiles": 3}},
        FUSION | batched("fuse_tiles", "sample", "bits", batches=3),
    ),
    "batches.warp_image": (
        {"batches": {"warp_image": 1}},
        (FORWARD_IMAGE | BACKWARD_IMAGE | SHOWN)
        - {f"warp_image {NAME} sample 1", f"warp_image {NAME} inverse/ atlas 1"},
    ),
    "pyramid.smallest": ({"pyramid": {"smallest": 32}}, PYRAMIDS | IMPORTS | PLANS),
    "bias.policy": ({"bias": {"policy": "force"}}, BIAS),
    "isotropic": ({"isotropic": {"sample": 20.0}}, {"resample_image sample"} | SHOWN),
    "precomputed": ({"precomputed": ["sample", "atlas"]}, {"export_precomputed atlas"} | SHOWN),
    "terastitcher": ({"terastitcher": ["bits"]}, {"export_terastitcher bits"} | SHOWN),
    "affine.model": ({"affine": {"model": "similarity"}}, AFFINE),
    "stages.fine.block": (stages(block=30), {f"plan_blocks {NAME} fine"} | FINE_BLOCKS),
    "stages.fine.min_content": (stages(min_content=0.1), FINE_BLOCKS),
    "reduce.unfold": ({"reduce": {"unfold": False}}, COARSE_REDUCED),
    "invert.iterations": ({"invert": {"iterations": 50}}, INVERTED),
    "warp.spacing": ({"warp": {"spacing": 120}}, FORWARD_IMAGE | BACKWARD_IMAGE | REGIONS),
    "warp.channels": ({"warp": {"channels": ["1"]}}, FORWARD_IMAGE | SHOWN),
    "gates.ncc_gain": ({"gates": {"ncc_gain": {"min": 0.01}}}, CHECKED),
    "gates.link_residual": ({"gates": {"link_residual_p95_voxel": {"max": 2.0}}}, POSES),
    "export_transforms": ({"export_transforms": False}, SHOWN),
}


@pytest.mark.parametrize("name", SETTING_EDITS)
def test_a_setting(project: RepositoryCopy, name: str) -> None:
    settings, expected = SETTING_EDITS[name]
    with kept(project.folder / "my.yaml"):
        project.set(**settings)
        assert project.planned() == expected


# file, what stands there, what comes in its place, the jobs
CODE_EDITS: dict[str, tuple[str, str, str, set[str]]] = {
    "room of fusion": ("weft/fusion/region.py", "import numpy as np\n", "import numpy as np\nEDITED = 1\n", FUSION),
    "room of poses": ("weft/poses/robust.py", "import numpy as np\n", "import numpy as np\nEDITED = 1\n", POSES),
    "room of links": (
        "weft/links/kernels.py", "import numpy as np\n", "import numpy as np\nEDITED = 1\n", LIGHT,
    ),
    "room of the inverse": (
        "weft/transforms/invert.py", "import numpy as np\n", "import numpy as np\nEDITED = 1\n", INVERTED,
    ),
    "the backend in use": (
        "weft/registration/backends/native_pass.py", "import numpy as np\n", "import numpy as np\nEDITED = 1\n", COARSE_BLOCKS | PLANS,
    ),
    "a backend not in use": (
        "weft/registration/backends/elastix.py", "import numpy as np\n", "import numpy as np\nEDITED = 1\n", set(),
    ),
    "room of the judge": ("weft/judge.py", "import numpy as np\n", "import numpy as np\nEDITED = 1\n", {"judge_phantom"}),
    "a docstring": ("weft/fusion/region.py", '"""', '"""Edited. ', set()),
    "a comment": ("weft/fusion/region.py", "import numpy as np\n", "import numpy as np  # edited\n", set()),
    "a comment of the rules": ("rules/assemble.smk", "rule fuse_tiles:", "# edited\nrule fuse_tiles:", set()),
    "a script": (
        "scripts/solve_poses.py", "from weft.logs", "import sys\nfrom weft.logs", POSES,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CODE_EDITS)
def test_code(project: RepositoryCopy, name: str) -> None:
    file, old, new, expected = CODE_EDITS[name]
    path = project.folder / file
    with kept(path):
        text = path.read_text()
        assert old in text
        path.write_text(text.replace(old, new, 1))
        assert project.planned() == expected


def test_overrides_of_one_image_leave_the_other_alone(project: RepositoryCopy) -> None:
    table = project.folder / "overrides.tsv"
    with kept(project.folder / "my.yaml"):
        table.write_text("image\taction\ttile_a\nbits\tpin\tLOC000\n")
        project.set(overrides=str(table))
        try:
            ours = {job for job in POSES if job.split()[1:2] == ["bits"]}
            assert project.planned() == ours | {"gather_quality"} | SHOWN
        finally:
            table.unlink()


def edit_tile(path: Path) -> None:
    tifffile.imwrite(path, tifffile.imread(path) + np.uint16(1), metadata=None)


def edit_volume(path: Path) -> None:
    sitk.WriteImage(sitk.ReadImage(str(path)) + 1, str(path))


def edit_points(path: Path) -> None:
    path.write_text(path.read_text().replace("2500", "2600"))


INPUT_EDITS: dict[str, tuple[str, Callable[[Path], None], set[str]]] = {
    "a raw tile": ("data/sample/VW0/LOC001/tile_CHN00_PLN0003.tif", edit_tile, {"index_tiles bits"} | BITS),
    "a volume": ("data/moving.nrrd", edit_volume, {"import_image alone"} | SHOWN),
    "a table of points": ("data/marks.csv", edit_points, MARKS | SHOWN),
}


@pytest.mark.parametrize("name", INPUT_EDITS)
def test_an_input(project: RepositoryCopy, name: str) -> None:
    file, edit, expected = INPUT_EDITS[name]
    path = project.folder / file
    with kept(path):
        edit(path)
        assert project.planned() == expected


def test_a_row_of_the_images(project: RepositoryCopy) -> None:
    table = project.folder / "images.tsv"
    with kept(table):
        table.write_text(table.read_text() + "more\tdata/fixed.nrrd\tauto\tpil\t10,10,10\tno\t\t\n")
        assert project.planned() == {"import_image more"} | SHOWN


def test_a_cell_of_the_images(project: RepositoryCopy) -> None:
    table = project.folder / "images.tsv"
    with kept(table):
        replace(table, "pil\t\tno\t100\t", "pil\t\tno\t101\t")
        assert project.planned() == BITS


def test_a_row_of_the_registrations(project: RepositoryCopy) -> None:
    table = project.folder / "registrations.tsv"
    new = {f"{rule} new" for rule in ("register_affine", "invert_transform", "export_transform")}
    new |= {
        f"{rule} new {stage}" for rule in ("plan_blocks", "reduce_transform") for stage in ("coarse", "fine")
    }
    new |= batched("register_blocks", "new coarse", "new fine")
    new |= batched("warp_image", "new alone", "new inverse/ atlas")
    new |= {"gather_warped new alone", "gather_warped new inverse/ atlas", "warp_points new inverse/ marks"}
    with kept(table):
        table.write_text(table.read_text() + "new\tatlas\talone\t\t\n")
        assert project.planned() == new | {"check_quality new", "gather_quality"} | SHOWN


def test_all_is_put_back(project: RepositoryCopy) -> None:
    assert project.planned() == set()


# ---------------------------------------------------------------------------------- edits, run for real
def made(project: RepositoryCopy, stage: str) -> tuple[int, int]:
    """How many blocks of a stage its jobs made, of how many, by their logs."""
    logs = sorted((project.results / "logs" / "register_blocks").glob(f"{NAME}-{stage}-*.log"))
    counts = [re.search(r"made (\d+) of (\d+) blocks", log.read_text()) for log in logs]
    found = np.array([[int(n) for n in count.groups()] for count in counts if count])
    return tuple(found.sum(axis=0).tolist())


def test_an_edit_of_the_engines_formula_finds_no_stale_blocks(whole_run: WholeRun, tmp_path: Path) -> None:
    project = whole_run.project.copy(tmp_path / "project")
    fine = f"{PAIR}/stages/fine/transform.json"
    ledger = project.folder / PAIR / "stages" / "fine" / "ledger.tsv"
    before, blocks = project.folder.joinpath(fine).read_bytes(), len(ledger.read_text().splitlines()) - 1
    assert blocks > 1

    kernels = project.folder / "weft" / "registration" / "backends" / "native_windows.py"
    with kept(kernels):
        replace(kernels, "(kappa + one - rho2)", "(kappa + np.float32(1.2) - rho2)")
        project.run(fine)
        assert made(project, "coarse") == (1, 1)
        assert made(project, "fine") == (blocks, blocks)
        changed = receipts.read(project.folder / fine)
        assert changed["data"] != receipts.read(whole_run.project.folder / fine)["data"]

    project.run(fine)  # the formula as it was: its blocks are there still
    assert made(project, "coarse") == (0, 1)
    assert made(project, "fine") == (0, blocks)
    assert project.folder.joinpath(fine).read_bytes() == before
