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


def proper_orientations(planar: bool = False) -> tuple[np.ndarray, ...]:
    """The 24 signed permutations, (3, 3) float64, of determinant +1; the identity comes first.

    Parameters
    ----------
    planar
        Only the 4 that turn a plane about z.
    """
    matrices = []
    for permutation in itertools.permutations(range(3)):
        for signs in itertools.product((1.0, -1.0), repeat=3):
            matrix = np.zeros((3, 3))
            matrix[range(3), permutation] = signs
            if np.linalg.det(matrix) > 0 and (matrix[0, 0] == 1 or not planar):
                matrices.append(matrix)
    return tuple(matrices)


def nearest_orientation(matrix: np.ndarray) -> np.ndarray:
    """The signed permutation, (3, 3), nearest to the linear part of an affine, (4, 4) or (3, 3)."""
    linear = np.asarray(matrix)[:3, :3]
    left, _, right = np.linalg.svd(linear)
    flip = np.diag([1.0, 1.0, np.sign(np.linalg.det(linear))])
    candidates = [orientation @ flip for orientation in proper_orientations()]
    return max(candidates, key=lambda orientation: float((orientation * (left @ right)).sum()))


def possible_orientations(
    fixed_code: str | None,
    moving_code: str | None,
    search: bool = False,
    mirrored: bool = False,
    planar: bool = False,
) -> tuple[list[np.ndarray], list[str]]:
    """The orientations that codes leave open.

    Parameters
    ----------
    fixed_code, moving_code
        Orientation codes; None where nothing is known.
    search
        Use the codes for handedness only.
    mirrored
        Try mirror images too.
    planar
        The images are single planes, which stay in their plane.

    Returns
    -------
    tuple
        (3, 3) signed permutations, fixed to moving directions; sentences that say what was assumed.

    Raises
    ------
    ValueError
        When a code is not valid, or the codes turn one plane out of the other's.
    """
    for code in (fixed_code, moving_code):
        if code is not None:
            validate_orientation(code)
    coded = orientation_matrix(fixed_code, moving_code) if fixed_code and moving_code else None
    if coded is not None and planar and not coded[0, 0]:
        raise ValueError(
            f"the codes {fixed_code!r} and {moving_code!r} put the two single planes at right angles; "
            "wanted codes whose first letters are of one axis"
        )
    flips = [np.diag(1.0 - 2.0 * np.eye(3)[axis]) for axis in range(int(planar), 3)]
    if coded is not None and not search:
        return [coded, *(coded @ flip for flip in flips if mirrored)], []
    # A plane seen from its other side is a mirror image of it, and its z axis runs back.
    back = np.diag([coded[0, 0], 1.0, 1.0]) if coded is not None and planar else np.eye(3)
    proper = [back @ matrix for matrix in proper_orientations(planar)]
    other = [matrix @ flips[-1] for matrix in proper]
    if mirrored:
        return proper + other, []
    if coded is None:
        return proper, [
            "an orientation code is missing: the sample is taken not to be a mirror image, and left and right "
            "rest on that alone"
        ]
    return (proper if np.linalg.det(coded @ back) > 0 else other), []
