"""Fusion: render tiles at their solved poses into regions of one output grid."""

from weft.fusion.cache import TileCache
from weft.fusion.region import BLENDS, fuse_region, output_grid

__all__ = ["BLENDS", "TileCache", "fuse_region", "output_grid"]
