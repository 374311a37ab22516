"""Transforms: the model, blending of blocks, inversion, points and file formats."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from weft.transforms.model import Affine, Displacements, Sequence, open_transform

__all__ = ["Affine", "Displacements", "Sequence", "open_transform"]


def __getattr__(name: str) -> Any:
    """Import the model on first use: it compiles kernels, which most jobs do not need."""
    if name in __all__:
        from weft.transforms import model

        return getattr(model, name)
    raise AttributeError(f"module 'weft.transforms' has no attribute {name!r}")
