"""Registration of a pair of images: an affine, then block-wise deformable stages.

`weft.registration.register` does it from Python; `weft.registration.contract` holds what every deformable
backend takes and gives.
"""

from __future__ import annotations

import importlib
from typing import Any


def __getattr__(name: str) -> Any:
    """Import `register` on first use, and by name: the parts of this package do not depend on it."""
    if name in ("register", "Registered"):
        return getattr(importlib.import_module("weft.registration.pair"), name)
    raise AttributeError(f"module 'weft.registration' has no attribute {name!r}")
