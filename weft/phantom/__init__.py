"""A synthetic brain with known truth: an atlas, and a sample as a light-sheet microscope leaves it."""

from weft.phantom.make import make_phantom
from weft.phantom.settings import PhantomSettings, phantom_settings

__all__ = ["PhantomSettings", "make_phantom", "phantom_settings"]
