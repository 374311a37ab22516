"""Pictures are looked at: their pixels must show what they were given."""

from __future__ import annotations

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_rgb
from matplotlib.image import imread
from scipy.ndimage import label

from weft.figures import style
from weft.figures.block_map import STATUS_COLOURS, block_map
from weft.figures.checkerboard import checkerboard
from weft.figures.deformation import deformation
from weft.figures.illumination import illumination
from weft.figures.label_outlines import FIXED, MOVED, label_outlines
from weft.figures.landmark_map import COLOURS, landmark_map
from weft.figures.likeness_map import likeness_map
from weft.figures.overlay import overlay
from weft.figures.positions import ARROWS, positions
from weft.figures.report import Picture, Section, Table, render_report, verdict_of
from weft.grid import Grid
from weft.transforms.model import Displacements


def pixels(path):
    """RGB of a PNG between 0 and 1."""
    return imread(path)[..., :3]


def near(image, colour, tolerance=0.06):
    return np.abs(image - np.array(to_rgb(colour))).max(axis=-1) < tolerance


def ball(centre=(0.0, 0.0, 0.0), shape=(32, 40, 48)):
    axes = [np.linspace(-1, 1, n) for n in shape]
    z, y, x = np.meshgrid(*axes, indexing="ij")
    return 1000.0 * ((z - centre[0]) ** 2 + (y - centre[1]) ** 2 + (x - centre[2]) ** 2 < 0.25)


def test_large_numbers_are_written_without_an_exponent():
    numbers = {0.012345: "0.0123", 9.999: "10", 1000.4: "1000", 45678.9: "45679", 1e-9: "1e-09"}
    assert {value: style.number_text(value) for value in numbers} == numbers


# ---------------------------------------------------------------------- overlay
def test_overlay_colours_what_parts_and_greys_what_agrees(tmp_path):
    overlay(ball(), ball(), (2, 2, 2), tmp_path / "o.png", "Ball", before=ball((0, 0, 0.4)))
    image = pixels(tmp_path / "o.png")
    left, right = np.array_split(image[130:], 2, axis=1)  # below the legend
    counts = {}
    for name, half in (("before", left), ("after", right)):
        counts[name] = {
            "magenta": near(half, (1, 0, 1), 0.3).sum(),
            "green": near(half, (0, 1, 0), 0.3).sum(),
            "white": near(half[:, 20:-40], (1, 1, 1), 0.02).sum(),
            "black": near(half, (0, 0, 0), 0.02).sum(),
        }
    assert counts["before"]["magenta"] > 3000
    assert counts["before"]["green"] > 3000
    assert counts["after"]["magenta"] == counts["after"]["green"] == 0
    assert counts["after"]["white"] > counts["before"]["white"] + 5000
    assert min(side["black"] for side in counts.values()) > 20_000


def test_overlay_puts_a_shift_where_it_is(tmp_path):
    overlay(ball((0, 0, -0.3)), ball((0, 0, 0.3)), (1, 1, 1), tmp_path / "o.png", "Ball")
    image = pixels(tmp_path / "o.png")[130:]
    magenta, green = (np.argwhere(near(image, colour, 0.3)) for colour in ((1, 0, 1), (0, 1, 0)))
    top = min(magenta[:, 0].min(), green[:, 0].min())
    front = [points[points[:, 0] < top + 200] for points in (magenta, green)]
    assert front[0][:, 1].mean() < front[1][:, 1].mean() - 50


def test_overlay_balances_two_contrasts(tmp_path):
    rng = np.random.default_rng(0)
    texture = ball() * rng.uniform(0.6, 1, (32, 40, 48))
    overlay(texture, 60_000 * (texture / 1000) ** 3, (1, 1, 1), tmp_path / "o.png", "Ball")
    image = pixels(tmp_path / "o.png")[130:]
    tissue = (image.sum(-1) > 0.6) & (image.sum(-1) < 2.9)
    assert abs(np.median(image[tissue][:, 1] - image[tissue][:, 0])) < 0.1


def test_overlay_is_not_stretched_from_what_lies_outside_the_moving_image(tmp_path):
    """Both images are the same where the moving one is, on a bright background: grey, whatever part it covers."""
    fixed = 900 + np.random.default_rng(0).uniform(0, 60, (32, 40, 48)) + 0.2 * ball()
    warped = fixed.copy()
    warped[..., :8] = np.nan
    overlay(fixed, warped, (1, 1, 1), tmp_path / "o.png", "Ball")
    image = pixels(tmp_path / "o.png")[130:]
    green = image[image[..., 1] > 0.02]  # nothing but the moving image has any
    assert len(green) > 50_000
    assert abs(np.median(green[:, 1] - green[:, 0])) < 0.03


def test_overlay_refuses_other_shapes(tmp_path):
    with pytest.raises(ValueError, match="wanted one shape"):
        overlay(ball(), ball()[1:], (1, 1, 1), tmp_path / "o.png", "Ball")
    assert not (tmp_path / "o.png").exists()


# ---------------------------------------------------------------------- positions
def grid_of_tiles():
    nominal = np.array([(0, y, x) for y in (0, 880, 1760) for x in (0, 880, 1760)], float)
    solved = nominal + np.array([[0, 3, -4]])
    solved[4] = nominal[4] + (0, -30, 40)
    return nominal, solved


def test_positions_draw_arrows_by_length_and_tiles_by_status(tmp_path):
    nominal, solved = grid_of_tiles()
    status = ["ok"] * 9
    status[8] = "unlinked"
    links = np.array([(0, 1), (1, 2), (3, 4), (7, 8)])
    residuals = np.array([(0, 0.1, 0), (0, 0, 1.0), (np.nan,) * 3, (0, 0.1, 0)])
    used = np.array([True, True, False, True])
    positions(
        nominal, solved, (400, 1000, 1000), tmp_path / "p.png", "Tiles",
        status=status, links=links, residuals=residuals, used=used,
    )  # fmt: skip
    image = pixels(tmp_path / "p.png")
    height, width = image.shape[:2]
    panels = (
        image[150 : height - 30, : int(width * 0.4)],
        image[150 : height - 30, width // 2 : int(width * 0.9)],
    )
    for panel in panels:
        assert near(panel, ARROWS(0.999)).sum() > 60  # the longest
        assert near(panel, ARROWS(0.1), 0.09).sum() > 20  # the short ones
    assert near(panels[0], "#fbe3c0", 0.04).sum() > 5000  # the unlinked tile
    assert near(panels[0], "#dbe9e2", 0.05).sum() > 50_000
    assert near(panels[1], "#c1121f", 0.05).sum() > 20  # the link that was not used
    # the long correction points up and to the right of the middle tile's centre
    arrow = np.argwhere(near(panels[0], ARROWS(0.999)))
    assert arrow[:, 0].min() < panels[0].shape[0] / 2 - 20
    assert arrow[:, 1].max() > panels[0].shape[1] / 2 + 20


def test_positions_without_links_or_movement(tmp_path):
    nominal, _ = grid_of_tiles()
    positions(nominal, nominal, (400, 1000, 1000), tmp_path / "p.png", "Tiles")
    assert near(pixels(tmp_path / "p.png"), "#dbe9e2", 0.05).sum() > 50_000
    with pytest.raises(ValueError, match="9 nominal, 8 solved"):
        positions(nominal, nominal[1:], (400, 1000, 1000), tmp_path / "p.png", "Tiles")
    with pytest.raises(ValueError, match="no tiles"):
        positions(nominal[:0], nominal[:0], (400, 1000, 1000), tmp_path / "p.png", "Tiles")


# ---------------------------------------------------------------------- illumination
def test_illumination_shows_gain_and_dark(tmp_path):
    y, x = np.mgrid[-1:1:60j, -1:1:60j]
    gain = np.stack([np.exp(-(x**2 + y**2)), np.ones_like(x)])
    gain /= gain.mean(axis=(1, 2), keepdims=True)
    ramp = np.broadcast_to(100 + 5 * x, gain.shape)
    illumination(gain, ramp, tmp_path / "i.png", "Light", channels=["a", "b"])
    image = pixels(tmp_path / "i.png")
    first, second = image[112:450, 30:375], image[585:920, 30:375]
    middle = np.array(first.shape[:2]) // 2
    assert first[tuple(middle + 12)][1] > 0.7  # bright yellow-green in the middle
    assert first[3, 3].sum() < 1.1  # dark at the corner
    assert second.reshape(-1, 3).std(axis=0).max() < 0.1  # an even gain is one colour
    dark = image[150:400, 510:760].sum(-1)
    assert dark[:, -20:].mean() > dark[:, :20].mean() + 0.8
    with pytest.raises(ValueError, match="dark also"):
        illumination(gain, ramp[:, 1:], tmp_path / "i.png", "Light")


def test_constant_dark_is_written_as_a_number(tmp_path):
    illumination(np.ones((1, 20, 20)), np.array([101.0]), tmp_path / "a.png", "Light")
    illumination(np.ones((1, 20, 20)), np.array([96.0]), tmp_path / "b.png", "Light")
    a, b = (pixels(tmp_path / name) for name in ("a.png", "b.png"))
    changed = np.argwhere((a != b).any(-1))
    assert 20 < len(changed) < 3000
    assert np.ptp(changed, axis=0).max() < 120


# ---------------------------------------------------------------------- blocks
def ledger():
    rows = []
    for k in range(3):
        for j in range(4):
            for i in range(5):
                status = "empty" if i == 0 else "folded" if (k, j, i) == (1, 2, 3) else "ok"
                rows.append(
                    {
                        "block": f"{k}.{j}.{i}",
                        "status": status,
                        "used": {"ok": "deformable", "folded": "affine", "empty": "parent"}[status],
                        "metric_before": 0.3 if status != "empty" else None,
                        "metric_after": 0.6 + 0.01 * i if status == "ok" else 0.2,
                        "largest_displacement_um": 10.0 * i,
                        "smallest_jacobian": 0.5,
                        "iterations": 60,
                        "seed": 1,
                    }
                )
    return pd.DataFrame(rows)


def test_block_map_colours_every_block_in_its_place(tmp_path):
    ledger().to_csv(tmp_path / "ledger.tsv", sep="\t", index=False)
    block_map(tmp_path / "ledger.tsv", tmp_path / "b.png", "Blocks")
    image = pixels(tmp_path / "b.png")
    maps = image[100 : 100 + 340]
    cells, _ = label(near(maps, STATUS_COLOURS["folded"]))
    sizes = np.bincount(cells.ravel())[1:]
    assert (sizes > 500).sum() == 1
    place = np.argwhere(near(maps, STATUS_COLOURS["folded"])).mean(axis=0)
    green = np.argwhere(near(maps, STATUS_COLOURS["ok"]))
    # in the second of three slabs, right of the middle of that slab, below the middle
    slab = (green[:, 1].max() - 0) / 3
    assert slab < place[1] < 2 * slab + 40
    assert place[0] > green[:, 0].mean()
    ok, empty = (near(maps, STATUS_COLOURS[word]).sum() for word in ("ok", "empty"))
    assert ok / empty == pytest.approx(47 / 12, rel=0.1)
    dot = near(maps[int(place[0]) - 3 : int(place[0]) + 3, int(place[1]) - 3 : int(place[1]) + 3], style.INK)
    assert dot.mean() > 0.5


def test_block_map_marks_what_a_failed_block_took(tmp_path):
    """A dot, a ring and a triangle; a ring is hollow, and a triangle has less ink above its middle than below."""
    marks = {}
    for used in ("deformable", "affine", "parent", "neighbours"):
        table = ledger()
        table.loc[table["status"] == "folded", "used"] = used
        block_map(table, tmp_path / "b.png", "Blocks")
        image = pixels(tmp_path / "b.png")[100:440]
        y, x = np.argwhere(near(image, STATUS_COLOURS["folded"])).mean(axis=0).round().astype(int)
        marks[used] = near(image[y - 8 : y + 9, x - 8 : x + 9], style.INK, 0.3)
    assert not marks["deformable"].any()
    assert marks["affine"][6:11, 6:11].all()
    assert marks["parent"].any()
    assert not marks["parent"][6:11, 6:11].any()
    above, below = marks["neighbours"][:7].sum(), marks["neighbours"][10:].sum()
    assert marks["neighbours"].any()
    assert above < 0.7 * below


def test_block_map_leaves_blocks_that_were_not_tried_out_of_the_similarity(tmp_path):
    table = ledger()
    blank = table["status"] == "empty"
    for name, value in (("zeros", 0.0), ("nothing", np.nan)):
        table.loc[blank, ["metric_before", "metric_after"]] = value
        block_map(table, tmp_path / f"{name}.png", "Blocks")
    assert (tmp_path / "zeros.png").read_bytes() == (tmp_path / "nothing.png").read_bytes()


def test_block_map_shows_what_was_measured_of_each_block(tmp_path):
    """One map more for each measure that there is; the block with the worst round trip is the brightest of its map."""
    table = ledger()
    block_map(table, tmp_path / "plain.png", "Blocks")
    measured = pd.DataFrame({"block": table["block"], "dice": np.nan, "round_trip_p95_um": 0.5})
    measured.loc[measured["block"] == "2.1.4", "round_trip_p95_um"] = 2.0
    block_map(table, tmp_path / "measured.png", "Blocks", measured)
    plain, shown = (pixels(tmp_path / f"{name}.png") for name in ("plain", "measured"))
    higher = shown.shape[0] - plain.shape[0]
    assert higher > 100
    brightest, others = (matplotlib.colormaps["cividis"](value)[:3] for value in (1.0, 0.25))
    cells, _ = label(near(shown, brightest, 0.02))
    sizes = np.bincount(cells.ravel())[1:]
    (cell,) = np.flatnonzero(sizes > 500) + 1
    place = np.argwhere(cells == cell).mean(axis=0)
    rest = np.argwhere(near(shown, others, 0.02))
    assert len(rest) / (sizes.max() * 59) == pytest.approx(1, rel=0.1)
    # In the last slab, in the last column, and the second of four rows.
    assert place[1] > 0.95 * np.percentile(rest[:, 1], 99)  # beyond it: the scale
    assert rest[:, 0].min() < place[0] < rest[:, 0].mean()
    block_map(table, tmp_path / "both.png", "Blocks", measured.assign(dice=0.9))
    assert pixels(tmp_path / "both.png").shape[0] - shown.shape[0] == pytest.approx(higher, abs=2)


def test_block_map_refuses_what_it_does_not_know(tmp_path):
    table = ledger()
    with pytest.raises(ValueError, match="lacks"):
        block_map(table.drop(columns="used"), tmp_path / "b.png", "Blocks")
    with pytest.raises(ValueError, match="'lost'"):
        block_map(table.assign(status="lost"), tmp_path / "b.png", "Blocks")
    with pytest.raises(ValueError, match="0 rows"):
        block_map(table[:0], tmp_path / "b.png", "Blocks")


# ---------------------------------------------------------------------- deformation
def squeeze(strength):
    """A field that draws points along x towards the middle, on a grid of half the resolution."""
    fixed_grid = Grid((24, 32, 40), (10.0, 10.0, 10.0))
    grid = fixed_grid.coarsen((2, 2, 2))
    x = grid.origin[2] + np.arange(grid.shape[2]) * grid.spacing[2]
    wave = 2 * np.pi * (x - x.mean()) / np.ptp(x)
    field = np.zeros((3, *grid.shape), np.float32)
    field[2] = -strength * np.sin(wave)
    return fixed_grid, Displacements(field, grid)


# Pixels of the first slice, (y, x), in the two rows of a picture of `squeeze`'s grid.
FIRST = slice(95, 635)
ROWS = (slice(137, 568), slice(707, 1138))


def test_deformation_shows_where_space_shrinks_and_grows(tmp_path):
    fixed_grid, displacements = squeeze(40.0)
    deformation(ball(shape=fixed_grid.shape), fixed_grid, displacements, tmp_path / "d.png", "Squeeze")
    image = pixels(tmp_path / "d.png")
    blue, red = image[..., 2] - image[..., 0] > 0.3, image[..., 0] - image[..., 2] > 0.3
    # blue in the middle, red at both sides
    columns_blue, columns_red = (np.flatnonzero(found[ROWS[1], FIRST].any(axis=0)) for found in (blue, red))
    assert columns_red.min() < columns_blue.min() < columns_blue.max() < columns_red.max()
    assert blue[ROWS[1], FIRST].sum() > 5000
    assert near(image[ROWS[0], FIRST], "#ffb454", 0.1).sum() > 3000


def test_grid_lines_move_with_the_field(tmp_path):
    fixed_grid, displacements = squeeze(40.0)
    still = Displacements.zero(displacements.grid)
    seen = []
    for name, moved in (("still", still), ("moved", displacements)):
        deformation(np.zeros(fixed_grid.shape), fixed_grid, moved, tmp_path / f"{name}.png", "Lines")
        lines = near(pixels(tmp_path / f"{name}.png")[ROWS[0], FIRST], "#ffb454", 0.25)
        vertical = np.flatnonzero(lines.mean(axis=0) > 0.6)
        seen.append(np.diff(vertical)[np.diff(vertical) > 3])
    assert np.ptp(seen[0]) <= 2  # an even grid
    assert seen[1].max() > 1.8 * seen[1].min()


def test_where_the_field_ends_before_the_image_there_is_no_fold(tmp_path):
    fixed_grid, displacements = squeeze(40.0)
    part = (slice(0, 12), slice(0, 12), slice(0, 20))
    ending = Displacements(displacements.field[(slice(None), *part)], displacements.grid.crop(part))
    deformation(np.ones(fixed_grid.shape), fixed_grid, ending, tmp_path / "d.png", "Short")
    # But for the axes' ticks, which lie beyond.
    assert near(pixels(tmp_path / "d.png")[ROWS[1], FIRST][4:-4, 4:-4], "black", 0.1).sum() == 0


def test_deformation_marks_folds(tmp_path):
    fixed_grid, folding = squeeze(90.0)
    black = []
    for displacements in (folding, squeeze(40.0)[1]):
        deformation(np.ones(fixed_grid.shape), fixed_grid, displacements, tmp_path / "d.png", "Same")
        black.append(near(pixels(tmp_path / "d.png")[ROWS[1], FIRST], "#111111", 0.01).sum())
    assert black[0] > black[1] + 2000
    with pytest.raises(ValueError, match="the fixed image has the shape"):
        deformation(np.ones((2, 3, 4)), fixed_grid, folding, tmp_path / "x.png", "Bad")


# ---------------------------------------------------------------------- before and after
def test_checkerboard_breaks_only_where_images_part(tmp_path):
    grid = Grid((24, 32, 40), (10.0, 10.0, 10.0))
    plain = np.broadcast_to(np.arange(32.0)[:, None] // 4 % 2, grid.shape)
    rows = [("apart", 1 - plain), ("alike", plain)]
    checkerboard(plain, rows, grid, tmp_path / "c.png", "Stripes")
    image = pixels(tmp_path / "c.png").max(axis=-1)
    steps = [(np.abs(np.diff(image[row, FIRST], axis=1)) > 0.5).sum() for row in ROWS]
    assert steps[0] > 2000
    assert steps[1] == 0
    assert min(image[row, FIRST].std() for row in ROWS) > 0.3
    with pytest.raises(ValueError, match="wanted"):
        checkerboard(plain, [("bad", plain[1:])], grid, tmp_path / "x.png", "Bad")


def test_likeness_map_shows_the_bad_place_and_rings_it(tmp_path):
    grid = Grid((24, 32, 40), (10.0, 10.0, 10.0))
    likeness = np.ones((8, 11, 14), np.float32)
    likeness[:, :, :4] = 0.05
    likeness[:, :, 5:8] = -1  # inverted contrast
    likeness[:, :, 10:] = np.nan
    region = {"region": 1, "z_um": 115.0, "y_um": 155.0, "x_um": 55.0}
    maps = [("before", np.ones_like(likeness)), ("after", likeness)]
    likeness_map(
        np.zeros(grid.shape), grid, maps, grid.coarsen((3, 3, 3)), [region], tmp_path / "l.png", "Map"
    )
    image = pixels(tmp_path / "l.png")
    yellow = (image[..., 0] > 0.6) & (image[..., 1] > 0.6) & (image[..., 2] < 0.4)
    before, after = (yellow[row, FIRST].mean(axis=0) for row in ROWS)
    assert before.min() > 0.9
    assert after[:140].max() < 0.1  # the quarter at the left is bad
    assert after[200:380].min() > 0.9
    assert near(image[ROWS[1], FIRST][:, 440:], "black", 0.05).mean() > 0.95  # nothing known: the fixed image
    third = image[1277:1708, FIRST]
    ring = np.argwhere(near(third, "white", 0.2))
    assert ring[:, 1].min() > 20
    assert np.median(ring[:, 1]) == pytest.approx(55 / 400 * 544, abs=25)
    assert np.median(ring[:, 0]) == pytest.approx(155 / 320 * 435, abs=25)


def test_landmark_arrows_point_to_where_partners_land(tmp_path):
    grid = Grid((24, 32, 40), (10.0, 10.0, 10.0))
    points = np.array([[120.0, 160.0, 100.0], [120.0, 80.0, 200.0]])
    landed = [("before", points + np.array([0, 0, 40.0])), ("after", points + np.array([0, 0, 0.4]))]
    landmark_map(np.zeros(grid.shape), grid, points, landed, tmp_path / "m.png", "Two")
    image = pixels(tmp_path / "m.png")
    before, after = (image[row, FIRST] for row in ROWS)
    long = near(before, matplotlib.colormaps["plasma"](1.0), 0.1)
    columns = np.flatnonzero(long.any(axis=0))
    scale = 544 / 400
    assert columns.min() > 105 * scale - 8
    assert columns.max() == pytest.approx((205 + 40) * scale, abs=12)  # at its true length
    assert not near(after, matplotlib.colormaps["plasma"](1.0), 0.1).any()  # the colours mean the same
    assert (near(after, COLOURS(0.01), 0.1)).sum() > 200  # though it is drawn enlarged
    assert max(COLOURS(0.0)[:3]) > 0.6  # to be seen on a dark background


def test_label_outlines_are_white_where_they_coincide(tmp_path):
    grid = Grid((24, 32, 40), (10.0, 10.0, 10.0))
    labels = np.zeros(grid.shape, np.uint16)
    labels[:, 8:24, 10:30] = 3
    moved = [("apart", np.roll(labels, 4, 2)), ("alike", labels)]
    label_outlines(np.zeros(grid.shape), labels, moved, grid, tmp_path / "l.png", "Box")
    image = pixels(tmp_path / "l.png")
    apart, alike = (image[row, FIRST] for row in ROWS)
    assert near(apart, FIXED, 0.02).sum() > 3000
    assert near(apart, MOVED, 0.02).sum() > 3000
    assert near(alike, "white", 0.02).sum() > 8000
    assert not near(alike, FIXED, 0.02).any()


@pytest.mark.parametrize("shape", [(1, 32, 40), (24, 32, 1)])
def test_planes_and_slabs_have_pictures(tmp_path, shape):
    grid = Grid(shape, (10.0, 10.0, 10.0))
    image = np.random.default_rng(0).uniform(0, 1, shape)
    checkerboard(image, [("same", image)], grid, tmp_path / "c.png", "Thin")
    deformation(image, grid, Displacements.zero(grid), tmp_path / "d.png", "Thin")
    assert pixels(tmp_path / "c.png").std() > 0.1
    assert pixels(tmp_path / "d.png").std() > 0.1


# ---------------------------------------------------------------------- all of them
def test_pictures_are_the_same_bytes_whatever_the_user_configured(tmp_path):
    overlay(ball(), ball(), (1, 1, 1), tmp_path / "a.png", "Ball")
    with matplotlib.rc_context({"font.size": 20, "savefig.bbox": "tight", "axes.facecolor": "red"}):
        overlay(ball(), ball(), (1, 1, 1), tmp_path / "b.png", "Ball")
        assert matplotlib.rcParams["font.size"] == 20
    content = (tmp_path / "a.png").read_bytes()
    assert content == (tmp_path / "b.png").read_bytes()
    assert b"tIME" not in content
    assert b"Matplotlib" not in content


@pytest.mark.parametrize(
    ("um", "rounded", "text"),
    [(99.9, 50, "50 um"), (2000, 2000, "2 mm"), (7, 5, "5 um"), (0.31, 0.2, "200 nm")],
)
def test_scale_bars_have_round_lengths(um, rounded, text):
    assert style.round_length(um) == pytest.approx(rounded)
    assert style.length_text(style.round_length(um)) == text


# ---------------------------------------------------------------------- report
def test_report_is_one_file_with_everything_in_it(tmp_path):
    overlay(ball(), ball(), (1, 1, 1), tmp_path / "a.png", "Ball")
    table = Table("Costs", [{"rule": "fuse & go", "seconds": 1.23456, "peak_mb": None}], bars=("seconds",))
    sections = [Section("Same"), Section("Same", [Picture(tmp_path / "a.png", "Ball", "A <ball>."), table])]
    for name in ("one.html", "two.html"):
        render_report(sections, tmp_path / name, title="T & T", facts={"done": True})
    text = (tmp_path / "one.html").read_text()
    assert text == (tmp_path / "two.html").read_text()
    for piece in (
        "T &amp; T",
        "A &lt;ball&gt;.",
        "fuse &amp; go",
        ">1.235<",
        "peak mb",
        'id="same-no2"',
        "yes",
    ):
        assert piece in text
    assert "<script" not in text
    assert "http://" not in text
    assert "https://" not in text
    assert str(tmp_path) not in text


def test_report_puts_broken_gates_first(tmp_path):
    row = {"stage": "s", "subject": "i", "value": 1.0, "threshold": "<= 1", "policy": "warn", "where": ""}
    gates = [
        row | {"name": "fine", "holds": True},
        row | {"name": "broken", "holds": False, "where": "tile LOC007"},
    ]
    render_report([], tmp_path / "r.html", gates=gates)
    text = (tmp_path / "r.html").read_text()
    assert text.index("broken") < text.index("fine")
    assert "1 warned" in text
    assert "1 passed" in text
    assert "failed" not in text
    assert "i: broken is 1 (wanted &lt;= 1): tile LOC007." in text


def test_report_says_where_to_look_and_draws_verdicts_in_tables(tmp_path):
    gate = {"stage": "s", "subject": "pair", "name": "jacobian_p1", "value": 0.1, "threshold": ">= 0.2"}
    gates = [gate | {"policy": "fail", "holds": False, "where": "", "look_at": "figures/<a>.png"}]
    assert verdict_of(gates) == "fail"
    assert verdict_of([gates[0] | {"policy": "ignore"}]) == verdict_of([]) == "pass"
    assert verdict_of([gates[0] | {"policy": "warn"}, gates[0] | {"holds": True}]) == "warn"
    rows = [{"registration": "pair", "verdict": verdict_of(gates)}]
    render_report([Section("All", [Table("Overview", rows)])], tmp_path / "r.html", gates=gates)
    text = (tmp_path / "r.html").read_text()
    assert "Look at <code>figures/&lt;a&gt;.png</code>" in text
    assert text.count('class="badge fail"') == 3  # the sentence, the table of gates, the overview


def test_report_refuses_pictures_that_show_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="'Ball' is not there"):
        render_report([Section("S", [Picture(tmp_path / "a.png", "Ball", "A ball.")])], tmp_path / "r.html")
    (tmp_path / "a.png").write_bytes(b"GIF89a")
    with pytest.raises(ValueError, match="is not a PNG"):
        render_report([Section("S", [Picture(tmp_path / "a.png", "Ball", "A ball.")])], tmp_path / "r.html")
    overlay(ball(), ball(), (1, 1, 1), tmp_path / "a.png", "Ball")
    with pytest.raises(ValueError, match="no alternative text"):
        render_report([Section("S", [Picture(tmp_path / "a.png", "Ball", " ")])], tmp_path / "r.html")
