"""Vectors of float32 as numbers of a kernel: loaded, reckoned with and stored as a whole.

The compiler makes vectors of a loop by itself where the loop is short, takes few rows, and these can be told
apart; else one voxel comes after another, ten times slower. Loops that are longer say what they mean, and take
half the time to compile. Results do not depend on the length of a vector: where the processor's are shorter, it
takes several.
"""

from __future__ import annotations

import operator
from typing import Any

from llvmlite import ir
from numba import njit
from numba.core import cgutils, types
from numba.core.typing.templates import Signature
from numba.extending import intrinsic, lower_builtin, models, register_model, type_callable

from weft.jit import INLINED

LANES = 16
FAST = ("fast",)  # as `fastmath` has everything else compiled
FLOATS = ir.VectorType(ir.FloatType(), LANES)
INTEGERS = ir.VectorType(ir.IntType(64), LANES)


class Vector(types.Type):
    """`LANES` numbers of type float32. Operators take two of them, or one and a float32."""


class Integers(types.Type):
    """`LANES` numbers of type int64. Operators take two of them, or one and an int64."""


VECTOR = Vector(name=f"Vector({LANES})")
WHOLE = Integers(name=f"Integers({LANES})")


@register_model(Vector)
class _VectorModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, FLOATS)


@register_model(Integers)
class _IntegersModel(models.PrimitiveModel):
    def __init__(self, manager, kind):
        super().__init__(manager, kind, INTEGERS)


def _lanes(builder, a, b, places):
    """The numbers at `places` of those of two vectors, one after the other."""
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places))


def _widen(builder, value, kind):
    """A number, in every lane; a vector as it is."""
    if value.type == kind:
        return value
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, ir.IntType(32)(0))
    return _lanes(builder, one, one, [0] * LANES)


def _define(operation, vector: types.Type, scalar: types.Type, kind: ir.Type, instruction: str) -> None:
    """Make an operator known for vectors."""

    @type_callable(operation)
    def _(context):
        def typed(a, b):
            return vector if vector in (a, b) and {a, b} <= {vector, scalar} else None

        return typed

    def lowered(context, builder, signature, arguments):
        a, b = (_widen(builder, value, kind) for value in arguments)
        flags = FAST if vector is VECTOR else ()
        return getattr(builder, instruction)(a, b, flags=flags)

    for pair in ((vector, vector), (vector, scalar), (scalar, vector)):
        lower_builtin(operation, *pair)(lowered)


for _operation, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _define(_operation, VECTOR, types.float32, FLOATS, _instruction)
for _operation, _instruction in ((operator.add, "add"), (operator.mul, "mul")):
    _define(_operation, WHOLE, types.int64, INTEGERS, _instruction)


def _pointer(context, builder, kind, array, index, to: ir.Type):
    data = context.make_array(kind)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), to.as_pointer())


def _load(typing, array, index):
    """The vector that begins at an index (uint64) of a 1-D float32 array."""

    def generate(context, builder, signature, arguments):
        array, index = arguments
        return builder.load(_pointer(context, builder, signature.args[0], array, index, FLOATS), align=4)

    return VECTOR(array, types.uint64), generate


def _store(typing, array, index, vector):
    """Write a vector, or a number in all its lanes, to a 1-D array, from an index (uint64) on."""

    def generate(context, builder, signature, arguments):
        array, index, value = arguments
        kind = INTEGERS if vector == WHOLE else FLOATS
        place = _pointer(context, builder, signature.args[0], array, index, kind)
        builder.store(_widen(builder, value, kind), place, align=8 if vector == WHOLE else 4)
        return context.get_dummy_value()

    return types.void(array, types.uint64, vector), generate


def _masked(context, builder, signature, arguments):
    """What the masked loads and stores of LLVM ask for: a place in an array, and the lanes below a count."""
    array, index, count = arguments
    place = _pointer(context, builder, signature.args[0], array, index, FLOATS)
    shorts = ir.VectorType(ir.IntType(32), LANES)
    count = _widen(builder, builder.trunc(count, ir.IntType(32)), shorts)
    mask = builder.icmp_signed("<", ir.Constant(shorts, list(range(LANES))), count)
    return place, ir.IntType(32)(4), mask


def _masked_function(builder, name: str, *arguments):
    returned = FLOATS if name == "load" else ir.VoidType()
    kind = ir.FunctionType(returned, [a.type for a in arguments])
    full = f"llvm.masked.{name}.v{LANES}f32.p0"
    return builder.call(cgutils.get_or_insert_function(builder.module, kind, full), arguments)


def _load_first(typing, array, index, count):
    """The vector that begins at an index (uint64) of a 1-D float32 array; 0 from lane `count` (int64) on."""

    def generate(context, builder, signature, arguments):
        place, align, mask = _masked(context, builder, signature, arguments)
        return _masked_function(builder, "load", place, align, mask, ir.Constant(FLOATS, [0.0] * LANES))

    return VECTOR(array, types.uint64, types.int64), generate


def _store_first(typing, array, index, count, vector):
    """Write the first `count` (int64) lanes of a vector to a 1-D float32 array, from an index (uint64) on."""

    def generate(context, builder, signature, arguments):
        place, align, mask = _masked(context, builder, signature, arguments[:3])
        _masked_function(builder, "store", arguments[3], place, align, mask)
        return context.get_dummy_value()

    return types.void(array, types.uint64, types.int64, vector), generate


def _apart(typing, first, second):
    """Of the numbers of two vectors, one after the other: those at even places, and those at odd ones."""

    def generate(context, builder, signature, arguments):
        first, second = arguments
        sides = [_lanes(builder, first, second, list(range(side, 2 * LANES, 2))) for side in (0, 1)]
        return context.make_tuple(builder, signature.return_type, sides)

    return types.UniTuple(VECTOR, 2)(first, second), generate


def _load_pairs(typing, array, offsets, index):
    """Of a 1-D float32 array the numbers at the offsets (1-D int64) from an index (uint64) on, and those after them.

    Both are loaded as one number of 64 bits: half as many loads as the compiler makes of a loop, whether one voxel comes after
    another there or they are gathered, and less than half the time.
    """

    def generate(context, builder, signature, arguments):
        array, offsets, index = arguments
        first = context.make_array(signature.args[1])(context, builder, offsets).data
        pair = ir.VectorType(ir.FloatType(), 2)
        pairs = []
        for k in range(LANES):
            offset = builder.load(builder.gep(first, [builder.add(index, index.type(k))]))
            place = _pointer(context, builder, signature.args[0], array, offset, pair)
            pairs.append(builder.load(place, align=4))
        while len(pairs) > 1:
            joined = list(range(2 * pairs[0].type.count))
            pairs = [_lanes(builder, a, b, joined) for a, b in zip(pairs[::2], pairs[1::2], strict=True)]
        sides = [_lanes(builder, pairs[0], pairs[0], list(range(side, 2 * LANES, 2))) for side in (0, 1)]
        return context.make_tuple(builder, signature.return_type, sides)

    return types.UniTuple(VECTOR, 2)(array, offsets, types.uint64), generate


def _each(instructions) -> Any:
    """An intrinsic made of instructions for vectors, or numbers, a and b."""

    def function(typing, a, b):
        def generate(context, builder, signature, arguments):
            return instructions(builder, *(_widen(builder, value, FLOATS) for value in arguments))

        return VECTOR(a, b), generate

    function.__doc__ = instructions.__doc__
    return intrinsic(function)


def _least(builder, a, b):
    """The lesser of two numbers, lane by lane."""
    return builder.select(builder.fcmp_ordered("<", a, b, flags=FAST), a, b)


def _most(builder, a, b):
    """The greater of two numbers, lane by lane."""
    return builder.select(builder.fcmp_ordered(">", a, b, flags=FAST), a, b)


def _less(builder, a, b):
    """1 where a is less than b, else 0."""
    return builder.uitofp(builder.fcmp_ordered("<", a, b, flags=FAST), FLOATS)


def _extreme(name: str) -> Any:
    def function(typing, a):
        def generate(context, builder, signature, arguments):
            kind = ir.FunctionType(ir.FloatType(), [FLOATS])
            reduce = cgutils.get_or_insert_function(
                builder.module, kind, f"llvm.vector.reduce.{name}.v{LANES}f32"
            )
            return builder.call(reduce, arguments)

        return types.float32(a), generate

    function.__doc__ = f"The {name[1:]}imum of a vector's numbers."
    return intrinsic(function)


def _floor(typing, a):
    """The greatest whole number that is not above, lane by lane."""

    def generate(context, builder, signature, arguments):
        kind = ir.FunctionType(FLOATS, [FLOATS])
        floor = cgutils.get_or_insert_function(builder.module, kind, f"llvm.floor.v{LANES}f32")
        return builder.call(floor, arguments)

    return VECTOR(a), generate


def _integers(typing, a):
    """Whole numbers of less than 2^31, as int64."""

    def generate(context, builder, signature, arguments):
        short = builder.fptosi(arguments[0], ir.VectorType(ir.IntType(32), LANES))
        return builder.sext(short, INTEGERS)

    return WHOLE(a), generate


def _count(typing):
    """0, 1, 2 .."""

    def generate(context, builder, signature, arguments):
        return ir.Constant(FLOATS, [float(k) for k in range(LANES)])

    return Signature(VECTOR, (), None), generate


load: Any = intrinsic(_load)
apart: Any = intrinsic(_apart)
load_pairs: Any = intrinsic(_load_pairs)
load_first: Any = intrinsic(_load_first)
store: Any = intrinsic(_store)
store_first: Any = intrinsic(_store_first)
least: Any = _each(_least)
most: Any = _each(_most)
less: Any = _each(_less)
lowest: Any = _extreme("fmin")
highest: Any = _extreme("fmax")
floor: Any = intrinsic(_floor)
integers: Any = intrinsic(_integers)
count_lanes: Any = intrinsic(_count)


@njit(**INLINED)
def whole(n):
    """n, rounded up to whole vectors."""
    return (n + LANES - 1) // LANES * LANES
