"""How the native engine's kernels are compiled, and what they ask of the processor."""

from __future__ import annotations

from typing import Any

from llvmlite import ir
from numba.core import types
from numba.extending import intrinsic

from weft.jit import INLINED, JIT, U

__all__ = ["INLINED", "JIT", "LANES", "U", "interpolate", "prefetch"]


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


LANES = 16  # voxels interpolated at once


def _interpolate(typing, m00, m01, m10, m11, offsets, scratch, pitch, first, out, target):
    """Interpolate `LANES` voxels trilinearly.

    Both neighbours along x are loaded as one number of 64 bits: four loads a voxel, and three instructions for
    each of them. A loop is compiled to eight loads of 32 bits, or to gathers, both more than twice as slow.

    Parameters
    ----------
    m00, m01, m10, m11
        The image, 1-D float32, and the views of it that begin one row, one plane, and both later.
    offsets
        1-D int64: the first of the eight corners. Used from `first` on.
    scratch, pitch
        1-D float32: where the voxel lies between the corners, rows of z, y and x at this pitch; used from `first` on.
    out, target
        1-D float32, and where in it the values go.
    """

    def generate(context, builder, signature, arguments):
        real = ir.FloatType()
        fast = {"flags": ["fast"]}
        images = [
            context.make_array(kind)(context, builder, value).data
            for kind, value in zip(signature.args[:4], arguments[:4], strict=True)
        ]
        offsets, scratch = (
            context.make_array(signature.args[k])(context, builder, arguments[k]).data for k in (4, 5)
        )
        pitch, first, target = arguments[6], arguments[7], arguments[9]
        out = context.make_array(signature.args[8])(context, builder, arguments[8]).data

        def vector(data, index, size):
            return builder.bitcast(builder.gep(data, [index]), ir.VectorType(real, size).as_pointer())

        def pick(a, b, lanes):
            return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(lanes)), lanes))

        def between(a, b, fraction):
            return builder.fadd(a, builder.fmul(fraction, builder.fsub(b, a, **fast), **fast), **fast)

        corners = [
            builder.load(builder.gep(offsets, [builder.add(first, first.type(k))])) for k in range(LANES)
        ]
        fractions = []
        for _ in range(3):
            fractions.append(builder.load(vector(scratch, first, LANES), align=4))
            first = builder.add(first, pitch)
        fz, fy, fx = fractions
        along_x = []
        for image in images:
            pairs = [builder.load(vector(image, corner, 2), align=4) for corner in corners]
            while len(pairs) > 1:
                joined = list(range(2 * pairs[0].type.count))
                pairs = [pick(a, b, joined) for a, b in zip(pairs[::2], pairs[1::2], strict=True)]
            left, right = (pick(pairs[0], pairs[0], list(range(side, 2 * LANES, 2))) for side in (0, 1))
            along_x.append(between(left, right, fx))
        p, q, r, s = along_x
        value = between(between(p, q, fy), between(r, s, fy), fz)
        builder.store(value, vector(out, target, LANES), align=4)
        return context.get_dummy_value()

    index = types.uint64
    arrays = (m00, m01, m10, m11, offsets, scratch)
    return types.void(*arrays, index, index, out, index), generate


interpolate: Any = intrinsic(_interpolate)
