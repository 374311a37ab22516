"""How the native engine's kernels are compiled.

`fastmath` lets the compiler reorder sums and contract products: results are the same bytes in every process on
one type of CPU, and differ in the last bits between types (docs/engine.md bounds by how much). A kernel called by
a kernel is inlined by force, as a shared copy and an inlined one may be rounded differently, and which of them is
linked would depend on what else was compiled in the process.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

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


def _prefetch(typing, array, index):
    """Ask for the line of the cache that holds a number of a 1-D array, without waiting for it.

    The index, uint64, is not checked: of what lies outside nothing is read.
    """

    def generate(context, builder, signature, arguments):
        data = context.make_array(signature.args[0])(context, builder, arguments[0]).data
        byte = ir.IntType(8).as_pointer()
        place = builder.bitcast(builder.gep(data, [arguments[1]]), byte)
        flag = ir.IntType(32)
        call = builder.module.declare_intrinsic(
            "llvm.prefetch", [byte], ir.FunctionType(ir.VoidType(), [byte, flag, flag, flag])
        )
        # To be read; kept in all levels of the cache; data, not code.
        builder.call(call, [place, flag(0), flag(3), flag(1)])
        return context.get_dummy_value()

    return types.void(array, types.uint64), generate


prefetch: Any = intrinsic(_prefetch)
