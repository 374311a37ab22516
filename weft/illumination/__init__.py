"""Illumination: the gain and dark of a microscope, estimated from its raw tiles."""

from weft.illumination.dark import resolve_dark
from weft.illumination.estimate import METHODS, fit_illumination
from weft.illumination.model import Illumination

__all__ = ["METHODS", "Illumination", "fit_illumination", "resolve_dark"]
