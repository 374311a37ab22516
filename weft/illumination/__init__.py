"""Illumination: the gain and dark of a microscope, estimated from its raw tiles."""

from weft.illumination.model import Illumination

__all__ = ["Illumination"]
