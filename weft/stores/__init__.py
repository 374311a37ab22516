"""Stores: how weft's results lie on disk."""

from weft.stores.ome_zarr import open_image

__all__ = ["open_image"]
