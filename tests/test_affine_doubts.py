"""What is said of an affine that a mistake in the table of images explains: voxel sizes and orientation codes."""

import numpy as np
import pytest
from test_affine import GRID, moved, specimen, truth

from weft.grid import Grid
from weft.image import Image, Level
from weft.registration.affine import AffineResult, AffineSettings
from weft.registration.candidates import rotation_about
from weft.registration.linear_model import LinearModel
from weft.registration.start import find_affine
from weft.registration.voxel_order import order_doubt, reordered

FLAT = (100.0, 80.0, 80.0)
TALL = (240.0, 80.0, 80.0)


def found(
    spacing: tuple[float, ...],
    given: tuple[float, ...],
    stretch: tuple[float, ...] = (1.0, 1.0, 1.0),
    codes: tuple[str | None, str | None] = ("pil", "pil"),
    mirror: bool = False,
    orientation: str = "code",
) -> AffineResult:
    """The affine of a specimen turned by 5 degrees, imaged at ``spacing`` um where ``given`` is said."""
    matrix, _ = truth(rotation=rotation_about((1, 2, -1), 5))
    matrix[:3, :3] = np.diag(stretch) @ matrix[:3, :3]
    shape = np.ceil((np.abs(matrix[:3, :3]) @ GRID.extent * 0.95 + 400) / spacing).astype(int)
    grid = Grid(tuple(shape), spacing)
    middle = 0.5 * (GRID.lower + GRID.upper)
    matrix[:3, 3] = 0.5 * (grid.lower + grid.upper) - matrix[:3, :3] @ middle
    fixed = specimen()
    moving = moved(fixed, matrix, grid)
    moving = moving[:, :, ::-1] if mirror else moving
    images = [
        Image((Level(array[None], Grid(array.shape, size, g.origin)),), orientation=code)
        for array, g, size, code in (
            (fixed, GRID, GRID.spacing, codes[0]),
            (np.ascontiguousarray(moving), grid, given, codes[1]),
        )
    ]
    return find_affine((images[0], 0), (images[1], 0), AffineSettings(orientation=orientation), 0)


@pytest.mark.parametrize("given", [(80.0, 80.0, 100.0), (80.0, 100.0, 80.0)])
def test_an_affine_that_mends_swapped_axes_of_a_voxel_size_is_warned_of(given):
    result = found(FLAT, given)
    assert result.accepted == "warn"
    (note,) = result.notes
    assert "with a voxel size of 100, 80, 80 um (z, y, x) of the moving image" in note
    assert f"where {', '.join(f'{s:g}' for s in given)} is given" in note
    assert note.endswith("is the order of the axes right?")


@pytest.mark.parametrize(
    ("spacing", "stretch"),
    [(FLAT, (1, 1, 1)), (FLAT, (1.15, 1, 1)), (FLAT, (1, 1, 1.25)), (TALL, (1, 1, 1)), (TALL, (1, 1.3, 1))],
)
def test_what_a_specimen_may_do_itself_is_not(spacing, stretch):
    result = found(spacing, spacing, stretch)
    assert (result.accepted, result.notes) == ("accept", ())


@pytest.mark.parametrize(
    ("spacing", "given"), [(TALL, TALL[::-1]), ((60.0, 150.0, 150.0), (150.0, 150.0, 60.0))]
)
def test_a_search_lost_by_swapped_axes_names_the_order_that_fits(spacing, given):
    result = found(spacing, given)
    assert result.accepted == "refuse"
    meant, said = (", ".join(f"{s:g}" for s in size) for size in (spacing, given))
    assert any(
        note.startswith(
            f"with a voxel size of {meant} um (z, y, x) of the moving image, where {said} is given, an affine fits"
        )
        for note in result.notes
    )


def test_a_wrong_code_from_which_the_affine_is_found_all_the_same_is_told():
    result = found(FLAT, FLAT, codes=("pil", "ial"))
    assert result.accepted == "warn"
    assert result.moving_orientation == "pil"
    assert "the moving image fits as 'pil', but its orientation code is 'ial'" in result.notes


@pytest.mark.parametrize("code", ["sal", "pir", "air"])
def test_a_wrong_code_that_loses_the_affine_is_refused_and_the_right_one_named(code):
    result = found(FLAT, FLAT, codes=("pil", code))
    assert result.accepted == "refuse"
    assert any(
        note.startswith(
            f"with the orientation code 'pil' of the moving image, where {code!r} is given, an affine fits"
        )
        for note in result.notes
    )


def test_a_mirror_image_without_codes_is_refused_as_what_it_is():
    result = found(FLAT, FLAT, codes=(None, None), mirror=True)
    assert result.accepted == "refuse"
    assert any(note.startswith("as a mirror image it fits (score 0.9") for note in result.notes)


@pytest.mark.parametrize("overlap", [None, 0.6])
def test_unlike_images_are_refused_without_a_guess(overlap):
    """Also where, with the axes in another order, they could not overlap enough to be compared."""
    rng = np.random.default_rng(7)
    images = [
        Image(
            (Level((specimen(seed) + 5 * rng.normal(size=GRID.shape))[None], Grid(GRID.shape, TALL)),),
            orientation="pil",
        )
        for seed in (0, 1)
    ]
    images[1] = Image((Level(rng.random((1, *GRID.shape)), Grid(GRID.shape, TALL)),), orientation="pil")
    result = find_affine((images[0], 0), (images[1], 0), AffineSettings(min_overlap=overlap), 0)
    assert result.accepted == "refuse"
    assert not any("right?" in note for note in result.notes)


def test_where_either_image_may_be_meant_both_are_named():
    """Two images of one microscope, the moving one's voxel size swapped: swapping the fixed one's would fit as well."""
    grid, swapped = Grid((30, 40, 50), FLAT), Grid((30, 40, 50), FLAT[::-1])
    matrix = np.diag([*np.divide(FLAT[::-1], FLAT), 1.0])
    said = order_doubt(matrix, grid, swapped, LinearModel())
    assert said is not None
    assert (
        "with a voxel size of 100, 80, 80 um (z, y, x) of the moving image, where 80, 80, 100 is given,"
        in said
    )
    assert " or with a voxel size of " in said
    assert (
        "with a voxel size of 80, 80, 100 um (z, y, x) of the fixed image, where 100, 80, 80 is given,"
        in said
    )
    image = specimen()
    tall, wide = (
        Image((Level(image[None], Grid(GRID.shape, size)),), orientation="pil") for size in (TALL, TALL[::-1])
    )
    result = find_affine((tall, 0), (wide, 0), AffineSettings(), 0)
    assert result.accepted == "refuse"
    assert "with a voxel size of 240, 80, 80 um (z, y, x) of the moving image" in result.notes[-1]
    assert "with a voxel size of 80, 80, 240 um (z, y, x) of the fixed image" in result.notes[-1]


def test_orders_of_planes_and_of_equal_axes():
    plane, cube = Grid((1, 20, 20), (5.0, 2.0, 3.0)), Grid((20, 20, 20), (2.0, 2.0, 2.0))
    orders = list(reordered((plane, cube), (plane, cube)))
    assert [(fixed.spacing, moving.spacing) for _, fixed, moving in orders] == [
        ((5.0, 3.0, 2.0), (2.0, 2.0, 2.0))
    ]
    turned = rotation_about((1, 0, 0), 30) @ np.diag([1.0, 3 / 2, 2 / 3])
    matrix = np.eye(4)
    matrix[:3, :3] = turned
    said = order_doubt(matrix, plane, plane, LinearModel(planar=True))
    assert said is not None
    assert "with a voxel size of 5, 3, 2 um (z, y, x) of the fixed image, where 5, 2, 3 is given" in said
    assert order_doubt(matrix, cube, cube, LinearModel()) is None
