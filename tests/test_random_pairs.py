"""Small pairs of every kind: no crash, no fold, no number that is none, and a status for each."""

import numpy as np
import pytest

from weft.phantom.random_pairs import KINDS, random_pair
from weft.registration.ledger import MACHINE_DEPENDENT, STATUSES
from weft.transforms.folds import minimal_jacobian

SEEDS = range(900, 900 + 2 * len(KINDS) + 4)


@pytest.mark.parametrize("seed", SEEDS)
def test_every_kind_of_pair_comes_to_an_end(seed):
    pair = random_pair(seed)
    u, record = pair.register()
    assert record["status"] in STATUSES
    assert record["status"] not in MACHINE_DEPENDENT
    assert all(np.isfinite(v) for v in record.values() if isinstance(v, float))
    assert (u is None) == (record["used"] == "parent")
    if u is None:
        return
    grid = pair.block.fixed_grid.coarsen((2, 2, 2))
    assert u.shape == (3, *grid.shape)
    assert u.dtype == np.float32
    assert np.isfinite(u).all()
    assert minimal_jacobian(u, grid.spacing) > 0
    assert record["metric_after"] >= record["metric_before"]


def test_a_seed_gives_the_same_pair():
    one, other = random_pair(7), random_pair(7)
    assert one.block.fixed.tobytes() == other.block.fixed.tobytes()
    assert one.block.moving.tobytes() == other.block.moving.tobytes()


def test_kinds_fare_as_they_should():
    """Of three of each kind that can be registered, most are; what shows nothing is not."""
    status = {
        kind: [random_pair(seed).register()[1]["status"] for seed in range(n, n + 3 * len(KINDS), len(KINDS))]
        for n, kind in enumerate(KINDS)
    }
    for kind in ("isotropic", "plane", "unequal_edges", "inverted", "float", "start_field"):
        assert status[kind].count("ok") >= 2, (kind, status[kind])
    assert not {"ok"} & set(status["empty"] + status["constant"])
