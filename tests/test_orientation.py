"""Orientation codes and the matrices they mean."""

import numpy as np
import pytest

from weft.registration.orientation import (
    orientation_matrix,
    oriented_code,
    proper_orientations,
    validate_orientation,
)


def test_codes_are_lowered():
    assert validate_orientation("AIR") == "air"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("axr", "unknown letter 'x'"),
        ("aap", "repeats an axis ('a' and 'a')"),
        ("apr", "repeats an axis ('a' and 'p')"),
        ("ai", "does not have three letters"),
        ("", "does not have three letters"),
    ],
)
def test_bad_codes_are_refused_in_one_sentence(code, said):
    with pytest.raises(ValueError) as error:
        validate_orientation(code)
    message = str(error.value)
    assert said in message
    assert "wanted one of s/i" in message
    assert "\n" not in message


def test_same_code_is_the_identity():
    np.testing.assert_array_equal(orientation_matrix("air", "air"), np.eye(3))


def test_brain_to_template_flips_the_first_and_the_last_axis():
    np.testing.assert_array_equal(orientation_matrix("pil", "air"), np.diag([-1, 1, -1]))


def test_matrix_follows_an_array_that_was_turned():
    # An array whose axes are (anterior, inferior, right), stored again with axes (right, anterior, superior).
    array = np.arange(2 * 3 * 4).reshape(2, 3, 4)
    turned = array.transpose(2, 0, 1)[:, :, ::-1]
    matrix = orientation_matrix("air", "ras")
    step = matrix @ np.array([1, 0, 0])  # one step anterior in the first array
    assert array[1, 2, 3] - array[0, 2, 3] == 12
    start = np.array([3, 0, 0])
    assert turned[tuple((start + step).astype(int))] == turned[tuple(start)] + 12


def test_mirrored_codes_have_determinant_minus_one():
    assert np.linalg.det(orientation_matrix("air", "ail")) == pytest.approx(-1)


def test_there_are_24_proper_orientations():
    matrices = proper_orientations()
    assert len({matrix.tobytes() for matrix in matrices}) == 24
    assert all(np.linalg.det(matrix) == pytest.approx(1) for matrix in matrices)
    np.testing.assert_array_equal(matrices[0], np.eye(3))


def test_code_of_a_matrix_is_the_inverse_of_the_matrix_of_codes():
    for matrix in proper_orientations():
        code = oriented_code(matrix, "pil")
        np.testing.assert_array_equal(orientation_matrix("pil", code), matrix)
