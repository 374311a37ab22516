"""Illumination: the gain and dark of a microscope, estimated from its raw tiles."""

from weft.bias import Bias, corrected, fit_bias
from weft.illumination.dark import resolve_dark
from weft.illumination.defects import find_defects
from weft.illumination.depth import fit_depth, without_depth
from weft.illumination.equalise import equalise
from weft.illumination.estimate import METHODS, POLICIES, fit_illumination
from weft.illumination.model import Illumination
from weft.illumination.profile import read_profile
from weft.illumination.reading import read_once
from weft.illumination.stripes import find_stripes, without_stripes

__all__ = [
    "METHODS",
    "POLICIES",
    "Bias",
    "Illumination",
    "corrected",
    "equalise",
    "find_defects",
    "find_stripes",
    "fit_bias",
    "fit_depth",
    "fit_illumination",
    "read_once",
    "read_profile",
    "resolve_dark",
    "without_depth",
    "without_stripes",
]
