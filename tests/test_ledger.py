"""Block table: same records, same bytes."""

import pytest

from weft.receipts import KeyedStore
from weft.registration.ledger import (
    COLUMNS,
    FAILED,
    MACHINE_DEPENDENT,
    NOT_TRIED,
    STATUSES,
    read_ledger,
    write_costs,
    write_ledger,
)
from weft.steps.reduce_transform import blocks_to_redo

RECORD = {
    "block": "0.1.2",
    "status": "ok",
    "used": "deformable",
    "metric_before": 1 / 3,
    "metric_after": 0.5,
    "largest_displacement_um": 123456.789,
    "smallest_jacobian": 1e-9,
    "disagreement_um": 0.25,
    "iterations": 12,
    "seed": 4294967295,
    "tries": 1,
    "data": "not a column",
}


def test_rows_come_back_in_order(tmp_path):
    path = tmp_path / "ledger.tsv"
    write_ledger(path, [RECORD, {**RECORD, "block": "0.0.0", "status": "empty", "used": "parent"}])
    rows = read_ledger(path)
    assert [row["block"] for row in rows] == ["0.1.2", "0.0.0"]
    assert rows[0] == {
        "block": "0.1.2",
        "status": "ok",
        "used": "deformable",
        "metric_before": "0.333333",
        "metric_after": "0.5",
        "largest_displacement_um": "123457",
        "smallest_jacobian": "1e-09",
        "disagreement_um": "0.25",
        "iterations": "12",
        "seed": "4294967295",
        "tries": "1",
    }
    assert path.read_text().splitlines()[0] == "\t".join(COLUMNS)


def test_same_records_give_the_same_bytes(tmp_path):
    write_ledger(tmp_path / "a.tsv", [RECORD])
    write_ledger(tmp_path / "b.tsv", iter([dict(reversed(RECORD.items()))]))
    assert (tmp_path / "a.tsv").read_bytes() == (tmp_path / "b.tsv").read_bytes()
    assert b"\r" not in (tmp_path / "a.tsv").read_bytes()


def test_a_record_without_a_column_is_a_fault(tmp_path):
    with pytest.raises(KeyError):
        write_ledger(tmp_path / "a.tsv", [{"block": "0.0.0"}])


def test_costs_are_a_table_of_their_own(tmp_path):
    write_costs(
        tmp_path / "costs.tsv",
        [{"block": "0.0.0", "cpu_seconds": 1.0, "seconds": 1.25, "peak_memory_mb": 100.0}],
    )
    assert (
        tmp_path / "costs.tsv"
    ).read_text() == "block\tcpu_seconds\tseconds\tpeak_memory_mb\n0.0.0\t1\t1.25\t100\n"


def test_statuses_are_sorted_into_kinds():
    assert set(FAILED) < set(STATUSES)
    assert set(MACHINE_DEPENDENT) < set(FAILED)
    assert set(NOT_TRIED) < set(STATUSES)
    assert not {"ok", *NOT_TRIED} & set(FAILED)


def test_blocks_are_made_anew_by_what_became_of_them(tmp_path):
    store = KeyedStore(tmp_path / "transform.ome.zarr", "0" * 64)
    assert blocks_to_redo(store, ["disagrees"]) == []  # nothing was made yet
    store.start()
    rows = [{"block": "0.0.0", "status": "ok"}, {"block": "0.0.1", "status": "disagrees"}]
    store.finish("all", {}, blocks=rows)
    assert blocks_to_redo(store, []) == []
    assert blocks_to_redo(store, ["disagrees", "error"]) == ["0.0.1"]
    assert blocks_to_redo(store, ["ok", "disagrees"]) == ["0.0.0", "0.0.1"]
