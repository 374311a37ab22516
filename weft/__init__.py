"""weft: from a microscope's raw tiles to a registered, measured and checked volume."""

__version__ = "0.1.0"
