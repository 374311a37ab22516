"""Orientation codes: how the axes of one image run in another."""

from __future__ import annotations

import itertools

import numpy as np

# Anatomical frame of the matrices below: (superior, anterior, right) are the positive directions.
_DIRECTION = {
    "s": (1, 0, 0),
    "i": (-1, 0, 0),
    "a": (0, 1, 0),
    "p": (0, -1, 0),
    "r": (0, 0, 1),
    "l": (0, 0, -1),
}


def validate_orientation(code: str) -> str:
    """Check an orientation code and give it in lower case.

    Parameters
    ----------
    code
        Three letters, one per axis (z, y, x): where the axis points as its index grows, out of s/i
        (superior, inferior), a/p (anterior, posterior), r/l (right, left).

    Returns
    -------
    str
        The code in lower case.

    Raises
    ------
    ValueError
        When the code has another length, an unknown letter, or two letters of one axis.
    """
    wanted = "wanted one of s/i, one of a/p and one of r/l, in the order of the axes (z, y, x)"
    letters = code.lower() if isinstance(code, str) else ""
    if len(letters) != 3:
        raise ValueError(f"orientation {code!r} does not have three letters; {wanted}")
    unknown = [letter for letter in letters if letter not in _DIRECTION]
    if unknown:
        raise ValueError(f"orientation {code!r} has the unknown letter {unknown[0]!r}; {wanted}")
    for first, second in itertools.combinations(letters, 2):
        if np.abs(_DIRECTION[first]) @ np.abs(_DIRECTION[second]):
            raise ValueError(f"orientation {code!r} repeats an axis ({first!r} and {second!r}); {wanted}")
    return letters


def orientation_matrix(code_fixed: str, code_moving: str) -> np.ndarray:
    """The rotation that takes directions of the fixed image to directions of the moving image.

    Parameters
    ----------
    code_fixed, code_moving
        Orientation codes, as `validate_orientation` takes them.

    Returns
    -------
    ndarray
        (3, 3) float64 signed permutation acting on (z, y, x) column vectors. Its determinant is -1 when
        the codes say that one of the arrays is stored as a mirror image of the other.

    Raises
    ------
    ValueError
        When a code is not valid.
    """
    fixed = np.array([_DIRECTION[letter] for letter in validate_orientation(code_fixed)], float)
    moving = np.array([_DIRECTION[letter] for letter in validate_orientation(code_moving)], float)
    # Rows are the anatomical directions of the axes: a fixed vector v is the anatomical vector fixed.T @ v.
    return moving @ fixed.T


def oriented_code(matrix: np.ndarray, code_fixed: str) -> str:
    """The moving image's code that makes `orientation_matrix` of the two codes equal to `matrix`.

    Parameters
    ----------
    matrix
        (3, 3) signed permutation, fixed directions to moving directions.
    code_fixed
        Code of the fixed image.

    Raises
    ------
    ValueError
        When the code is not valid.
    """
    fixed = np.array([_DIRECTION[letter] for letter in validate_orientation(code_fixed)], float)
    rows = np.asarray(matrix) @ fixed
    letters, directions = list(_DIRECTION), np.array(list(_DIRECTION.values()))
    return "".join(letters[int(np.argmax(directions @ row))] for row in rows)


def proper_orientations() -> tuple[np.ndarray, ...]:
    """The 24 signed permutations, (3, 3) float64, of determinant +1; the identity comes first."""
    matrices = []
    for permutation in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[range(3), permutation] = signs
            if np.linalg.det(matrix) > 0:
                matrices.append(matrix)
    return tuple(matrices)
