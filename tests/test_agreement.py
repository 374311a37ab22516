"""Agreement of blocks with their neighbours, and what is done where there is none."""

import numpy as np
import pytest

from weft.grid import Grid
from weft.registration.agreement import judge_agreement
from weft.registration.extension import extend_neighbours
from weft.registration.plan import block_field_grid, block_regions, plan_stage
from weft.registration.repair import no_attempt, repair_block, shifted_cuts
from weft.transforms.model import Displacements

PLAN = plan_stage(Grid((60, 60, 60), (1.0, 1.0, 1.0)), {"name": "a", "level": 1.0, "block": 20, "overlap": 6})


def constant(name, value):
    padded = Grid.from_json(PLAN["grid"]).crop(block_regions(PLAN, name)[1]).coarsen((2, 2, 2))
    return np.broadcast_to(np.asarray(value, np.float32)[:, None, None, None], (3, *padded.shape)).copy()


def test_disagreement_is_the_typical_difference_from_the_neighbours():
    found = judge_agreement(
        PLAN,
        lambda name: None if name == "0.0.0" else constant(name, (3 if name == "1.1.1" else 0, 0, 0)),
        dict.fromkeys(PLAN["ids"], 0.0),
        1.0,
    )
    assert found.rejected == ["1.1.1"]
    assert found.disagreement["1.1.1"] == pytest.approx(3)
    assert all(value == 0 for name, value in found.disagreement.items() if name != "1.1.1")


def test_of_many_wrong_blocks_only_these_are_rejected():
    wrong = {name: i for i, name in enumerate(PLAN["ids"]) if i % 5 == 0}
    found = judge_agreement(
        PLAN,
        lambda name: constant(name, (0, 2 + wrong[name], 0) if name in wrong else (0, 0, 0)),
        dict.fromkeys(PLAN["ids"], 0.0),
        1.0,
    )
    assert sorted(found.rejected) == sorted(wrong)


def test_where_all_blocks_are_unsure_none_is_rejected():
    rng = np.random.default_rng(0)
    values = {name: rng.normal(0, 2, 3) for name in PLAN["ids"]}
    found = judge_agreement(
        PLAN, lambda name: constant(name, values[name]), dict.fromkeys(PLAN["ids"], 0.0), 1.0
    )
    assert found.rejected == []
    assert min(found.disagreement.values()) > 1


def test_of_two_blocks_neither_can_be_told_to_be_wrong():
    plan = plan_stage(
        Grid((40, 20, 20), (1.0, 1.0, 1.0)), {"name": "a", "level": 1.0, "block": 20, "overlap": 6}
    )
    fields = {"0.0.0": np.zeros((3, 13, 10, 10), "f4"), "1.0.0": np.full((3, 13, 10, 10), 5, "f4")}
    found = judge_agreement(plan, fields.get, {"0.0.0": 0.0, "1.0.0": 5.0}, 1.0)
    assert found.rejected == []
    assert list(found.disagreement.values()) == pytest.approx([5 * 3**0.5] * 2)


def linear(name, slope):
    grid = block_field_grid(PLAN, name)
    points = grid.to_physical(np.indices(grid.shape).reshape(3, -1).T)
    return (points @ slope.T).T.reshape(3, *grid.shape).astype(np.float32)


def test_what_the_neighbours_found_is_carried_on():
    slope = np.array([[0.05, 0.01, 0], [0, -0.02, 0.03], [0.02, 0, 0.04]])
    base = Displacements(
        np.full((3, 20, 20, 20), 4, np.float32), Grid((20, 20, 20), (3.0, 3.0, 3.0), (1.0, 1.0, 1.0))
    )
    for name in ("1.1.1", "0.2.0"):
        grid = block_field_grid(PLAN, name)
        u, confidence = extend_neighbours(
            PLAN, name, grid, lambda n, own=name: None if n == own else linear(n, slope), base
        )
        assert confidence.max() == pytest.approx(1, abs=0.2)
        assert (confidence == 0).any()
        # A plane bends nowhere: it goes on over the whole block, or fades where only one side is known.
        assert np.abs(u - linear(name, slope)).max() < (0.1 if name == "1.1.1" else 1.2)


def test_without_neighbours_the_stage_before_is_left():
    grid = block_field_grid(PLAN, "1.1.1")
    u, confidence = extend_neighbours(PLAN, "1.1.1", grid, lambda n: None, None)
    assert not u.any()
    assert not confidence.any()
    u, changes = repair_block(PLAN, "1.1.1", lambda n: None, None, 1.0, no_attempt)
    assert u is None
    assert changes["used"] == "parent"


@pytest.mark.parametrize("shape", [(60, 60, 60), (50, 62, 40), (20, 60, 20), (41, 43, 60)])
def test_the_shifted_cuts_cover_a_block(shape):
    plan = plan_stage(Grid(shape, (1.0, 1.0, 1.0)), {"name": "a", "level": 1.0, "block": 20, "overlap": 6})
    stage = Grid.from_json(plan["grid"])
    for name in plan["ids"]:
        grid = block_field_grid(plan, name)
        covered = np.zeros(grid.shape, int)
        for cut, part in shifted_cuts(plan, name):
            covered[part] += 1
            own, wanted = stage.crop(cut), grid.crop(part)
            assert (own.lower <= wanted.lower + 1e-6).all()
            assert (own.upper >= np.minimum(wanted.upper, stage.upper) - 1e-6).all()
            assert all(s.start % 2 == 0 for s in cut)
            assert max(s.stop - s.start for s in cut) <= max(plan["block"]) + 12
        assert (covered == 1).all()
