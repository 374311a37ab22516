"""Rule register_affine: its verdict, and what it leaves when its affine is not accepted."""

import numpy as np
import pytest
import SimpleITK
from matplotlib.image import imread
from test_affine import GRID, moved, specimen, truth
from test_confidence import PLANE, stains

from weft import receipts
from weft.config import Store
from weft.config.assembly import Pyramid
from weft.config.gates import GATES
from weft.config.registration import Affine
from weft.image import Image, Level
from weft.quality.gates import QualityError
from weft.steps.import_image import import_image
from weft.steps.register_affine import draw_candidates, register_affine
from weft.steps.report_registration import doubtful_start


def test_both_candidates_are_drawn_over_the_fixed_image(tmp_path):
    expected, grid = truth()
    fixed = specimen()
    images = [
        (Image((Level(array[None], g),)), 0)
        for array, g in ((fixed, GRID), (moved(fixed, expected, grid), grid))
    ]
    wrong = expected.copy()
    wrong[1, 3] += 900
    record = {"matrix": expected.tolist(), "rival": wrong.tolist(), "score": 0.8, "rival_score": 0.7}
    path = tmp_path / "pair" / "figures" / "affine_candidates.png"
    draw_candidates(images[0], images[1], record, path)
    picture = imread(path)[..., :3]
    left, right = np.array_split(picture, 2, axis=1)
    # Grey where both images agree; the wrong one is magenta and green.
    colourful = [np.mean(np.ptp(half, axis=2) > 0.3) for half in (left, right)]
    assert colourful[1] > 1.5 * colourful[0]
    draw_candidates(images[0], images[1], record | {"rival": None}, path)
    assert imread(path).shape[1] < picture.shape[1]


def brought_in(folder, name: str, plane: np.ndarray, spacing=PLANE.spacing) -> str:
    """The receipt of an image of one plane, of which the table of images gives a voxel size."""
    source = folder / f"{name}.nrrd"
    image = SimpleITK.GetImageFromArray(np.rint(plane).astype(np.uint16))
    image.SetSpacing([s / 1000 for s in PLANE.spacing[::-1]])
    SimpleITK.WriteImage(image, str(source))
    receipt = folder / "images" / name / "image.json"
    row = {"image": name, "format": "auto", "options": {}, "orientation": "sar", "spacing": spacing}
    import_image(
        path=str(source),
        state="",
        image=row,
        settings=Pyramid().model_dump(mode="json"),
        store=Store().model_dump(mode="json"),
        code="",
        receipt=str(receipt),
        threads=1,
    )
    return str(receipt)


def registered(folder, shared: float, policy: str, gate: dict, spacing=PLANE.spacing) -> dict:
    """What the rule leaves as the quality of its affine between two stains of one section."""
    fixed, moving, _ = stains(shared, seed=0)
    folder.mkdir(exist_ok=True)
    quality = folder / "pair" / "quality" / "affine.json"
    register_affine(
        fixed=brought_in(folder, "one", 1000 * fixed),
        moving=brought_in(folder, "two", 1000 * moving, spacing),
        fixed_mask=[],
        moving_mask=[],
        start=[],
        settings=Affine(policy=policy).model_dump(mode="json"),
        channels={"fixed": None, "moving": None},
        names={"fixed": "one", "moving": "two"},
        gates={"affine_verdict": gate, "voxel_size_doubts": GATES["voxel_size_doubts"][0].model_dump()},
        cache=str(folder / "cache"),
        code="",
        receipt=str(folder / "pair" / "affine.json"),
        quality=str(quality),
    )
    return receipts.read(quality)


DEFAULT = GATES["affine_verdict"][0].model_dump()


def test_the_gate_holds_where_a_low_score_is_accepted_by_its_margin(tmp_path):
    found = registered(tmp_path, 1.7, "fail", DEFAULT)
    assert found["accepted"] == "accept"
    assert found["values"]["affine_score"] < 0.3  # what volumes would be refused for
    row, _ = found["gates"]
    assert (row["name"], row["value"], row["holds"]) == ("affine_verdict", 2, True)


def test_the_gate_says_why_what_is_refused_is_refused(tmp_path):
    found = registered(tmp_path, 0.0, "warn", DEFAULT)
    assert found["accepted"] == "refuse"
    row, _ = found["gates"]
    assert (row["value"], row["holds"], row["policy"]) == (0, False, "warn")
    assert row["where"] == "; ".join(found["notes"])
    assert "no match was found" in row["where"] or "a different affine fits as well" in row["where"]
    assert (tmp_path / "pair" / found["picture"]).exists()
    (shown,) = doubtful_start(tmp_path / "pair")
    assert shown.path == tmp_path / "pair" / found["picture"]
    assert found["notes"][0] in shown.caption
    assert row["look_at"].startswith("registrations/pair/figures/affine_candidates.png")
    # Milder, and stricter, by the config: of the verdict, which stays as it is.
    row, _ = registered(tmp_path, 0.0, "warn", {"min": 0.0, "policy": "warn"})["gates"]
    assert row["holds"]
    with pytest.raises(QualityError, match=r"affine_verdict is 0 \(.+\); wanted >= 2"):
        registered(tmp_path, 0.0, "warn", {"min": 2.0, "policy": "fail"})
    with pytest.raises(ValueError, match="the affine of 'two' onto 'one' is refused"):
        registered(tmp_path, 0.0, "fail", DEFAULT)


@pytest.mark.parametrize(("spacing", "doubted"), [(PLANE.spacing, False), ((5.0, 4.0, 4.2), True)])
def test_a_voxel_size_that_its_file_contradicts_is_told_by_a_gate(tmp_path, capsys, spacing, doubted):
    found = registered(tmp_path, 1.7, "fail", DEFAULT, spacing)
    (row,) = [row for row in found["gates"] if row["name"] == "voxel_size_doubts"]
    assert (row["value"], row["holds"]) == (float(doubted), not doubted)
    if doubted:
        assert row["where"].startswith(
            "image 'two': the table of images gives a voxel size of 5, 4, 4.2 um (z, y, x)"
        )
        assert (
            f"Warning: pair: voxel_size_doubts is 1, wanted <= 0: {row['where']}; look at "
            in capsys.readouterr().err
        )
