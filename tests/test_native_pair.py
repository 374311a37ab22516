"""Pairs of images that the native engine compares: what it visits, how large they may be, how many threads."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from scipy.ndimage import map_coordinates

from weft.__main__ import main
from weft.grid import Grid
from weft.registration.backends.native import register
from weft.registration.backends.native_field import gaussian_taps, smooth, smooth_within
from weft.registration.backends.native_pair import NO_MASK, Pair
from weft.registration.backends.native_tiles import TILE_Z, active_spans, spans_of_fields, tiles_of, widen
from weft.registration.contract import Initial
from weft.registration.threads import AHEAD, block_threads, in_turn, threads_of_block

SHAPE = (40, 72, 300)
IDENTITY = np.eye(3)


def noise(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    a = np.random.default_rng(seed).standard_normal((1, *shape)).astype(np.float32)
    smooth(a, gaussian_taps(1.5))
    return a[0] / a.std()


def make_pair(
    fixed: np.ndarray, moving: np.ndarray, shift: tuple[float, ...] = (0.0, 0.0, 0.0), **changed
) -> Pair:
    given = {
        "fixed_mask": NO_MASK,
        "moving_mask": NO_MASK,
        "floor_fixed": 0.01,
        "floor_moving": 0.01,
        **changed,
    }
    return Pair(fixed=fixed, moving=moving, linear=IDENTITY, shift=np.array(shift), **given)


def equations_of(pair: Pair, u: np.ndarray | None = None):
    shape = tuple((n + 1) // 2 for n in pair.fixed.shape)
    out = np.zeros((9, *shape), np.float32)
    u = np.zeros((3, *shape), np.float32) if u is None else u
    return out, pair.normal_equations(u, 0.1, out)


def test_equations_against_their_definition():
    """One cell far from any border, from the formulas."""
    fixed, moving = noise((16, 16, 16)), noise((16, 16, 16), 1)
    found, _ = equations_of(make_pair(fixed, moving))
    fixed, moving = fixed.astype(float), moving.astype(float)
    wanted = np.zeros(9)
    for voxel in np.ndindex(2, 2, 2):
        z, y, x = 8 + np.array(voxel)
        window = np.s_[z - 2 : z + 3, y - 2 : y + 3, x - 2 : x + 3]
        f, m = fixed[window], moving[window]
        covariance = (f * m).mean() - f.mean() * m.mean()
        gain = covariance / (m.var() + 0.01)
        rho2 = gain * covariance / (f.var() + 0.01)
        weight = 0.1 / (1.1 - rho2) / (f.var() + 0.01)
        gradient = np.array([moving[z + 1, y, x] - moving[z - 1, y, x], moving[z, y + 1, x] - moving[z, y - 1, x],
                             moving[z, y, x + 1] - moving[z, y, x - 1]]) * gain / 2  # fmt: skip
        error = fixed[z, y, x] - f.mean() - gain * (moving[z, y, x] - m.mean())
        outer = weight * np.outer(gradient, gradient)
        wanted += [*outer[np.triu_indices(3)], *(weight * error * gradient)]
    assert np.allclose(found[:, 4, 4, 4], wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("shape", [(1, 4, 9), (5, 6, 31), (6, 5, 33), (7, 36, 64), (4, 7, 262)])
@pytest.mark.parametrize("shift", [(0.3, -0.4, 0.6), (-0.4, 1.7, -3.3)])
def test_every_cell_against_the_definition(shape, shift):
    """Borders, odd numbers of voxels, ends of whole vectors and more than one tile; some of it outside the moving image."""
    fixed, moving = noise(shape), noise((shape[0] + 1, *shape[1:]), 1)
    found, _ = equations_of(make_pair(fixed, moving, shift))
    places = np.stack(np.meshgrid(*[np.arange(n) for n in shape], indexing="ij")) + np.reshape(
        shift, (3, 1, 1, 1)
    )
    last = np.reshape(moving.shape, (3, 1, 1, 1)) - 1
    counts = ((places > -0.5) & (places < last + 0.5)).all(0)
    f = fixed.astype(float)
    m = map_coordinates(moving.astype(float), places, order=1, mode="nearest")

    def mean(a):
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(a, 2, "edge"), (5, 5, 5))
        return windows.mean((3, 4, 5))

    gain = (mean(f * m) - mean(f) * mean(m)) / (mean(m * m) - mean(m) ** 2 + 0.01)
    held = mean(f * f) - mean(f) ** 2 + 0.01
    weight = counts * 0.1 / (1.1 - gain * (mean(f * m) - mean(f) * mean(m)) / held) / held
    error = f - mean(f) - gain * (m - mean(m))
    around = np.pad(m, 1, "edge")
    inner = np.s_[1:-1]
    J = gain / 2 * np.stack([
        (around[2:] - around[:-2])[:, inner, inner],
        (around[:, 2:] - around[:, :-2])[inner, :, inner],
        (around[:, :, 2:] - around[:, :, :-2])[inner, inner],
    ])  # fmt: skip
    terms = [weight * J[i] * J[j] for i in range(3) for j in range(i, 3)] + [weight * error * g for g in J]
    cells = np.pad(terms, [(0, 0)] + [(0, n % 2) for n in shape])
    wanted = sum(cells[:, z::2, y::2, x::2] for z, y, x in np.ndindex(2, 2, 2))
    assert 0 < np.abs(wanted).max() > 1e4 * np.abs(found - wanted).max()


def test_offsets_beyond_two_to_the_31(tmp_path):
    """A moving image of 2.4 thousand million voxels in a sparse file, the content at its far end."""
    shape, content = (24, 10_000, 10_000), noise((24, 24, 64))
    large = np.memmap(tmp_path / "large", np.float32, "w+", shape=shape)
    large[:, -24:, -64:] = content
    fixed = noise((24, 24, 64), 3)
    found, score = equations_of(make_pair(fixed, large, (0.3, shape[1] - 24 + 0.2, shape[2] - 64 + 0.6)))
    wanted, wanted_score = equations_of(make_pair(fixed, content, (0.3, 0.2, 0.6)))
    inner = np.s_[:, 2:-2, 2:-2, 2:-2]
    assert np.abs(wanted[inner]).max() > 0.1
    assert np.allclose(found[inner], wanted[inner], rtol=1e-2, atol=1e-3)
    assert score[0] == pytest.approx(wanted_score[0], rel=1e-2)


def test_any_number_of_threads_gives_the_same_bytes():
    """Several tiles along each axis."""
    pair = make_pair(noise((2 * TILE_Z + 10, 72, 300)), noise((2 * TILE_Z + 10, 72, 300), 1))
    u = np.stack([noise(tuple((n + 1) // 2 for n in pair.fixed.shape), k) for k in range(3)])
    found = [equations_of(pair, u)]
    with block_threads(3):
        found.append(equations_of(pair, u))
    assert found[0][0].tobytes() == found[1][0].tobytes()
    assert found[0][1] == found[1][1]


def test_a_registration_in_threads_gives_the_same_bytes():
    moving = noise((72, 70, 68))
    grid = Grid(moving.shape, (1.0,) * 3)
    arguments = (np.roll(moving, 1, 1), grid, moving, grid, Initial.identity(), (None, None), {}, 0)
    alone = register(*arguments)
    with block_threads(4):
        assert threads_of_block() == 4
        shared = register(*arguments)
    assert threads_of_block() == 1
    assert alone.iterations > 0
    assert shared.displacement.tobytes() == alone.displacement.tobytes()
    assert shared.metrics == alone.metrics
    with pytest.raises(ValueError, match="0 threads"), block_threads(0):
        pass


def test_warming_compiles_and_works(capsys):
    assert main(["warm"]) == 0
    assert "compiled and work" in capsys.readouterr().out


def test_tiles_do_not_show():
    """A row of several tiles: the same equations as when its halves are given alone."""
    shape = (8, 8, 1100)
    fixed, moving = noise(shape), noise(shape, 1)
    whole, _ = equations_of(make_pair(fixed, moving))
    half, _ = equations_of(
        make_pair(np.ascontiguousarray(fixed[..., :560]), np.ascontiguousarray(moving[..., :560]))
    )
    assert np.abs(half).max() > 0.1
    assert np.allclose(whole[..., :270], half[..., :270], rtol=1e-3, atol=1e-4)


def test_only_where_the_fixed_image_holds_structure():
    """Blobs on faint noise: what is left out changes the sums by less than one part in 50 anywhere."""
    rng = np.random.default_rng(5)
    fixed, moving = (1e-2 * rng.standard_normal((2, *SHAPE))).astype(np.float32)
    texture = noise((20, 30, 60), 2)
    fixed[8:28, 20:50, 100:160] += texture
    moving[9:29, 19:49, 101:161] += texture
    pair = make_pair(fixed, moving)
    spans = pair.spans
    visited = np.subtract(*spans.T[::-1]).sum() / np.prod([(n + 1) // 2 for n in SHAPE])
    texture_share = 20 * 30 * 60 / np.prod(SHAPE)
    assert texture_share < visited < 2.5 * texture_share
    inside = np.zeros([(n + 1) // 2 for n in SHAPE], bool)
    inside[4:14, 10:25, 50:80] = True
    z, y, x = np.nonzero(inside)
    assert np.all((spans[z, y, 0] <= x) & (x < spans[z, y, 1]))
    everywhere = make_pair(fixed, moving)
    everywhere.visit(np.broadcast_to(np.array([0, 150]), spans.shape))
    some, all_ = equations_of(pair)[0], equations_of(everywhere)[0]
    assert np.abs(some - all_).max() < 0.02 * np.abs(all_).max()


def test_a_masked_cell_is_not_visited():
    fixed = noise((16, 16, 64))
    mask = np.ones(fixed.shape, np.float32)
    mask[..., 30:] = 0
    mask[:8] = 0
    spans, share = active_spans(fixed, mask, 0.01)
    assert np.all(spans[4:, :, 1] == 15)
    assert np.all(spans[:4] == 0)
    assert share == pytest.approx(1)


def test_spans_widen_and_tiles_hold_them():
    spans = np.zeros((40, 50, 2), np.int64)
    spans[20, 20] = 100, 400
    wide = widen(spans, 3, 402)
    assert np.all(wide[17:24, 17:24] == [97, 402])
    assert np.subtract(*wide.T[::-1]).sum() == 49 * 305
    tiles = tiles_of(wide)
    assert tiles[:, 4].min() == 96  # fields of two cells lie in one tile
    assert tiles[:, 5].max() == 402
    assert tiles_of(np.zeros_like(spans)).shape == (0, 6)


def test_cells_of_mere_noise_are_not_visited():
    rng = np.random.default_rng(3)
    inside = np.s_[10:30, 10:30, 40:80]
    fixed = rng.normal(0, 0.1, (40, 40, 120)).astype(np.float32)
    fixed[inside] += noise((20, 20, 40))
    spans, _ = active_spans(fixed, NO_MASK, 1e-4, 0.1**2)
    holds = np.zeros((20, 20, 60), bool)
    holds[5:15, 5:15, 20:40] = True
    z, y, x = np.nonzero(holds)
    assert np.all((spans[z, y, 0] <= x) & (x < spans[z, y, 1]))
    assert (spans[..., 1] - spans[..., 0]).sum() < 2 * holds.sum()
    spans, _ = active_spans(fixed, NO_MASK, 1e-4)
    assert (spans[..., 1] - spans[..., 0]).sum() == holds.size


def test_smoothing_within_spans_is_smoothing_of_what_is_zero_outside():
    rng = np.random.default_rng(5)
    shape = (14, 18, 40)
    spans = np.zeros((*shape[:2], 2), np.int64)
    spans[3:9, 4:12] = 11, 27
    spans[5, 6] = 2, 39
    inside = (spans[..., :1] <= np.arange(40)) & (np.arange(40) < spans[..., 1:])
    values = rng.standard_normal((2, *shape)).astype(np.float32)
    wanted = np.where(inside, values, np.float32(0))
    taps = gaussian_taps(1.1)
    reached = widen(spans, taps.shape[1] - 1, shape[2])
    smooth_within(values, taps, spans, reached)
    smooth(wanted, taps)
    known = (reached[..., :1] <= np.arange(40)) & (np.arange(40) < reached[..., 1:])
    assert np.all(wanted[:, ~known] == 0)
    np.testing.assert_allclose(values[:, known], wanted[:, known], atol=1e-6)


@pytest.mark.parametrize("shape", [(24, 40, 300), (21, 39, 271), (1, 40, 60)])
def test_equations_of_fields_are_the_sums_over_their_cells(shape):
    """In tiles side by side too, and 0 where a field has no cell that is compared."""
    fixed, moving = noise(shape), noise(shape, 1)
    fixed[..., :50] *= 0.01
    moving = np.repeat(moving, 2, 0) if shape[0] == 1 else moving
    pair = make_pair(fixed, moving)
    cells, score = equations_of(pair)
    in_fields = np.full((9, *(-(-n // 2) for n in cells.shape[1:])), np.nan, np.float32)
    again = pair.normal_equations(np.zeros((3, *cells.shape[1:]), np.float32), 0.1, in_fields)
    assert again == pytest.approx(score)
    padded = np.pad(cells, [(0, 0), *((0, n % 2) for n in cells.shape[1:])])
    wanted = sum(padded[:, z::2, y::2, x::2] for z, y, x in np.ndindex(2, 2, 2))
    assert np.allclose(in_fields, wanted, rtol=1e-4, atol=1e-5 * abs(wanted).max())
    spans = spans_of_fields(pair.spans)
    inside = np.zeros(in_fields.shape[1:], bool)
    for z, y in np.ndindex(*spans.shape[:2]):
        inside[z, y, slice(*spans[z, y])] = True
    assert inside.any()
    assert not in_fields[:, ~inside].any()


def test_parts_are_worked_off_in_turn_with_few_waiting():
    asked, go = [], threading.Event()

    def parts():
        for n in range(10 * AHEAD):
            asked.append(n)
            yield n

    def work(n: int) -> int:
        if n == 0:
            assert go.wait(60)
        return n * n

    with ThreadPoolExecutor(2) as pool:
        found = in_turn(pool, work, parts())
        threading.Timer(0.2, go.set).start()
        assert next(found) == 0
        assert len(asked) == AHEAD + 1
        assert list(found) == [n * n for n in range(1, 10 * AHEAD)]


def test_a_part_that_fails_ends_those_that_wait():
    done = []

    def work(n: int) -> None:
        done.append(n)
        if n == 3:
            raise ValueError("three")

    with ThreadPoolExecutor(1) as pool, pytest.raises(ValueError, match="three"):
        list(in_turn(pool, work, iter(range(100))))
    assert max(done) <= AHEAD + 5
