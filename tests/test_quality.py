"""Gates and metrics against numbers known by construction."""

from __future__ import annotations

import math

import numpy as np
import pytest

from weft.config.gates import GATES
from weft.figures.report import render_report
from weft.quality import QualityError, evaluate, read_quality_table, write_quality_table
from weft.quality.gates import LOOK_AT
from weft.quality.metrics import (
    atlas_scores,
    band_pass,
    dog_ncc,
    mutual_information,
    ncc,
)
from weft.steps.quality import collect_quality, write_quality


# ---------------------------------------------------------------------- gates
def test_rows_say_what_holds():
    gates = {"rms": {"max": 0.5, "policy": "warn"}, "coverage": {"min": 0.8, "policy": "fail"}}
    rows = evaluate("fuse_tiles", {"rms": 0.7, "coverage": 0.8, "other": 3}, gates, "brain")
    assert [(r["name"], r["threshold"], r["holds"]) for r in rows] == [
        ("coverage", ">= 0.8", True),
        ("rms", "<= 0.5", False),
    ]
    assert {r["subject"] for r in rows} == {"brain"}


@pytest.mark.parametrize(
    ("bound", "limit", "place", "value"), [("max", 2, "tile LOC003", 7.0), ("min", 2, "tile LOC001", 0.5)]
)
def test_failing_gate_names_the_worst_place(bound, limit, place, value):
    values = {"residual_um": {"tile LOC001": 0.5, "tile LOC003": 7.0, "tile LOC002": 1.0}}
    with pytest.raises(
        QualityError, match=f"solve_poses of brain: residual_um is {value:g} \\({place}\\); wanted"
    ) as error:
        evaluate("solve_poses", values, {"residual_um": {bound: limit}}, "brain")
    assert len(error.value.rows) == 1
    assert "\n" not in str(error.value)


def test_a_row_says_where_to_look():
    gates = {"seam_ratio": {"max": 1}}
    with pytest.raises(QualityError, match="look at registrations/pair/stages/fine/ledger") as error:
        evaluate("reduce_transform", {"seam_ratio": 2.0}, gates, "pair/fine")
    assert error.value.rows[0]["look_at"].endswith("registrations/pair/figures/blocks_fine.png")
    assert set(LOOK_AT) == set(GATES)


def test_not_a_number_never_holds():
    gates = {
        "a": {"max": 1, "policy": "warn"},
        "b": {"min": 1, "policy": "warn"},
        "c": {"max": 1, "policy": "warn"},
    }
    rows = evaluate("s", {"a": math.nan, "b": {"x": 2.0, "y": math.nan}, "c": {}}, gates, "i")
    assert [r["holds"] for r in rows] == [False, False, False]
    assert rows[1]["where"] == "y"


def test_ignored_gate_does_not_stop_the_run():
    (row,) = evaluate("s", {"a": 5.0}, {"a": {"max": 1, "policy": "ignore"}}, "i")
    assert not row["holds"]


@pytest.mark.parametrize(
    ("gate", "words"),
    [
        ({"max": 1, "polcy": "warn"}, "polcy"),
        ({"max": 1, "policy": "maybe"}, "maybe"),
        ({"policy": "warn"}, "no threshold"),
    ],
)
def test_bad_gate_is_refused(gate, words):
    with pytest.raises(ValueError, match=words):
        evaluate("s", {"a": 1.0}, {"a": gate}, "i")


def test_gate_on_an_unknown_number_is_refused():
    with pytest.raises(ValueError, match="not measured; measured: rms"):
        evaluate("s", {"rms": 1.0}, {"rsm": {"max": 1}}, "i")


def test_table_has_the_same_bytes_in_any_order(tmp_path):
    gates = {name: {"min": 0, "max": 1, "policy": "warn"} for name in "abc"}
    rows = evaluate("s", {"a": 1 / 3, "b": math.nan, "c": {"tile 7": 2.0}}, gates, "i")
    write_quality_table(rows, tmp_path / "one.tsv")
    write_quality_table(rows[::-1], tmp_path / "two.tsv")
    assert (tmp_path / "one.tsv").read_bytes() == (tmp_path / "two.tsv").read_bytes()
    back = read_quality_table(tmp_path / "one.tsv")
    assert len(back) == 6
    assert {(r["name"], r["where"], r["holds"]) for r in back if r["threshold"] == "<= 1"} == {
        ("a", "", True),
        ("b", "", False),
        ("c", "tile 7", False),
    }
    (tmp_path / "bad.tsv").write_text("a\tb\n")
    with pytest.raises(ValueError, match=r"bad\.tsv has the columns"):
        read_quality_table(tmp_path / "bad.tsv")


def test_what_could_not_be_measured_is_written_down_and_reported(tmp_path):
    """Nothing covered, nothing to compare: the gate does not hold, the run goes on to its report."""
    write_quality(tmp_path / "q.json", "s", "i", {"a": math.nan}, {"a": {"min": 0, "policy": "warn"}})
    (kept,) = collect_quality([str(tmp_path / "q.json")])["gates"]
    assert (kept["value"], kept["holds"]) == (None, False)
    write_quality_table([kept], tmp_path / "q.tsv")
    (row,) = read_quality_table(tmp_path / "q.tsv")
    assert math.isnan(row["value"])
    render_report([], tmp_path / "r.html", title="t", gates=[row])
    assert "i: a could not be measured (wanted &gt;= 0)" in (tmp_path / "r.html").read_text()
    with pytest.raises(QualityError, match="s of i: a could not be measured; wanted >= 0"):
        write_quality(tmp_path / "f.json", "s", "i", {"a": math.nan}, {"a": {"min": 0, "policy": "fail"}})


# ---------------------------------------------------------------------- metrics
@pytest.fixture(scope="module")
def texture():
    from scipy.ndimage import gaussian_filter

    noise = np.random.default_rng(3).normal(size=(40, 48, 56))
    return (1000 + 3000 * gaussian_filter(noise, 2)).astype(np.float32)


def test_ncc_sees_linear_relations_only_inside_the_mask(texture):
    mask = np.zeros(texture.shape, bool)
    mask[:20] = True
    other = np.where(mask, 5 - 2 * texture, 0)
    assert ncc(texture, 3 * texture + 7) == pytest.approx(1)
    assert ncc(texture, other, mask) == pytest.approx(-1)
    assert ncc(texture, other) > -0.9
    assert math.isnan(ncc(texture, np.ones_like(texture)))
    with pytest.raises(ValueError, match="wanted one shape"):
        ncc(texture, texture[1:])


def test_ncc_of_small_integers_does_not_overflow():
    a = np.array([0, 250, 255], np.uint8)
    assert ncc(a, a) == pytest.approx(1)


def test_mutual_information_of_known_tables():
    rng = np.random.default_rng(0)
    coin = rng.integers(0, 2, 20_000)
    assert mutual_information(coin, 1 - coin) == pytest.approx(math.log(2), abs=1e-3)
    assert mutual_information(coin, rng.integers(0, 2, 20_000)) == pytest.approx(0, abs=1e-3)
    # a non-monotonous relation: NCC sees nothing, MI all of it
    three = rng.integers(-1, 2, 20_000)
    assert abs(ncc(three, three**2)) < 0.02
    two_thirds = -(2 / 3) * math.log(2 / 3) - (1 / 3) * math.log(1 / 3)
    assert mutual_information(three, three**2) == pytest.approx(two_thirds, abs=0.01)


def test_atlas_scores_do_not_follow_bright_dirt(texture):
    dirty = texture.copy()
    dirty[::16, ::16, ::16] = 60_000
    mask = np.ones(texture.shape, bool)
    assert atlas_scores(texture, dirty, mask)["ncc"] > 0.95
    assert ncc(texture, dirty) < 0.3


def test_dog_ncc_of_a_shifted_image(texture):
    shift = 6
    moving = np.roll(texture, shift, axis=2) * 3 + 50

    def resample(offset):
        def shifted(image):
            inside = np.zeros(image.shape, bool)
            inside[..., : image.shape[2] - shift] = True
            return np.roll(image, -offset, axis=2), inside

        return shifted

    right, share = dog_ncc(texture, moving, resample(shift))
    wrong, _ = dog_ncc(texture, moving, resample(0))
    assert share == pytest.approx(1 - shift / texture.shape[2])
    assert right > 0.97
    assert wrong < 0.5


def test_band_pass_takes_zeros_and_constants():
    image = np.zeros((12, 12, 12), np.uint16)
    assert not band_pass(image).any()
    image[4:8, 4:8, 4:8] = 1000
    band = band_pass(image)
    assert np.isfinite(band).all()
    assert band.std() == pytest.approx(1, rel=1e-4)


def test_dog_ncc_of_real_rounds_as_documented(data_root):
    """Two EASI-FISH rounds, shifted as their Fourier correlation says: 0.358 by an independent script."""
    tensorstore = pytest.importorskip("tensorstore")
    folder = data_root / "easifish_lowres" / "resources"
    if not folder.exists():
        pytest.skip("no easifish_lowres")

    def read(name):
        store = {"driver": "n5", "kvstore": {"driver": "file", "path": str(folder / name / "lowres")}}
        return tensorstore.open(store, open=True).result().read().result().T

    fixed, moving = (read(name) for name in ("fix.n5", "mov.n5"))

    def resample(image):
        out, inside = np.zeros(fixed.shape, np.float32), np.zeros(fixed.shape, bool)
        region = tuple(
            slice(d, min(n, m + d)) for d, n, m in zip((2, 13, 42), fixed.shape, image.shape, strict=True)
        )
        out[region] = image[tuple(slice(0, r.stop - r.start) for r in region)]
        inside[region] = True
        return out, inside

    score, share = dog_ncc(fixed, moving, resample)
    assert score == pytest.approx(0.358, abs=0.005)
    assert share == pytest.approx(144 * 228 * 414 / fixed.size, abs=0.01)
