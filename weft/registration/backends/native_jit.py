"""How the native engine's kernels are compiled, and what they ask of the processor."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from weft.jit import INLINED, JIT, U

__all__ = ["INLINED", "JIT", "U", "prefetch"]


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
