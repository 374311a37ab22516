"""Rule register_affine: what it leaves when its affine is not accepted."""

import numpy as np
from matplotlib.image import imread
from test_affine import GRID, moved, specimen, truth

from weft.image import Image, Level
from weft.steps.register_affine import draw_candidates


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
