"""How the kernels of the engine, and of the folds that it looks for, are compiled.

`fastmath` lets the compiler reorder sums and contract products: results are the same bytes in every process on
one type of CPU, and differ in the last bits between types (docs/engine.md bounds by how much). A kernel called by
a kernel is inlined by force, as a shared copy and an inlined one may be rounded differently, and which of them is
linked would depend on what else was compiled in the process.
"""

from __future__ import annotations

from typing import Any

import numpy as np

JIT: dict[str, Any] = {
    "fastmath": True,
    "nogil": True,
    "cache": True,
    "error_model": "numpy",
    "boundscheck": False,
}
INLINED = {**JIT, "forceinline": True}
# Offsets have no sign: a signed one may count from the end, and loops over such are not vectorised.
U = np.uint64
