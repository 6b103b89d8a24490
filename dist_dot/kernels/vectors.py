"""Vectors for numba: several numbers in one variable, whose loads, products and sums have the order that is written.

LLVM makes vector code of plain loops by itself, but of rows of some ten to a hundred numbers it makes poor code: wide
bodies that such rows never fill, one number after the other for the rest, checks for overlapping arrays at each row.
Here a variable is one LLVM vector, so a loop says what is read when. That order counts: a loop that LLVM unrolls, with
its loads shuffled, loses a tenth of the memory's rate, hence `in_order`. On a narrower machine LLVM splits a vector,
and the sums keep their order.

A `Vector` has 32 bytes of the numbers of an array (`load`, `spread`, `store`), or eight float64, one for each of eight
rows (`load_rows`, `store_rows`). Vectors of one kind add, multiply and so on with each other and with plain numbers.
Indices are those of the array's numbers, C-contiguous, and are not checked: a vector may reach past the end of a row.
"""

import operator
from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.core.errors import TypingError
from numba.core.imputils import impl_ret_borrowed
from numba.extending import intrinsic, models, overload, register_model
from numba.np.arrayobj import make_array

BYTES = 32
ROWS = 8

INT32, INT64 = ir.IntType(32), ir.IntType(64)


class Vector(types.Type):  # type: ignore[misc, unused-ignore]
    """`lanes` numbers of one type."""

    def __init__(self, number: Any, lanes: int) -> None:
        self.number, self.lanes = number, lanes
        super().__init__(f"Vector({number}, {lanes})")


@register_model(Vector)
class VectorModel(models.PrimitiveModel):  # type: ignore[misc, unused-ignore]
    """An LLVM vector."""

    def __init__(self, manager: Any, vector: Vector) -> None:
        super().__init__(manager, vector, ir.VectorType(manager.lookup(vector.number).get_value_type(), vector.lanes))


def _of(array: Any) -> Vector:
    return Vector(array.dtype, BYTES * 8 // array.dtype.bitwidth)


def _pointer(context: Any, builder: Any, array_type: Any, array: Any, index: Any, to: Any) -> Any:
    if array_type.layout != "C":
        raise TypingError(f"{array_type} is not C-contiguous")
    data = make_array(array_type)(context, builder, array).data
    return builder.bitcast(builder.gep(data, [index]), to.as_pointer())


def _splat(builder: Any, number: Any, vector: Any) -> Any:
    one = builder.insert_element(ir.Constant(vector, ir.Undefined), number, ir.Constant(INT32, 0))
    lanes = ir.Constant(ir.VectorType(INT32, vector.count), [0] * vector.count)
    return builder.shuffle_vector(one, ir.Constant(vector, ir.Undefined), lanes)


def _shuffled(builder: Any, a: Any, b: Any, lanes: list[int]) -> Any:
    return builder.shuffle_vector(a, b, ir.Constant(ir.VectorType(INT32, len(lanes)), lanes))


def _halved(builder: Any, vectors: Any, group: int) -> Any:
    """Return the lower and the upper half of each group of lanes, added, of one or two vectors end to end."""
    lower = [lane for lane in range(sum(vector.type.count for vector in vectors)) if lane % group < group // 2]
    upper = [lane + group // 2 for lane in lower]
    return builder.fadd(*(_shuffled(builder, vectors[0], vectors[-1], half) for half in (lower, upper)))


def _call(builder: Any, name: str, args: Any) -> Any:
    kind = args[0].type
    suffix = f"v{kind.count}f{64 if isinstance(kind.element, ir.DoubleType) else 32}"
    function = ir.FunctionType(kind, [kind] * len(args))
    return builder.call(cgutils.get_or_insert_function(builder.module, function, f"{name}.{suffix}"), args)


@intrinsic
def lanes(typing: Any, array: Any) -> Any:
    """Return how many numbers of the array a vector has."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return context.get_constant(types.intp, _of(array).lanes)

    return types.intp(array), code


@intrinsic
def load(typing: Any, array: Any, index: Any) -> Any:
    """Return array[index : index + lanes]."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = context.get_value_type(signature.return_type)
        pointer = _pointer(context, builder, array, args[0], args[1], vector)
        return builder.load(pointer, align=array.dtype.bitwidth // 8)

    return _of(array)(array, types.intp), code


@intrinsic
def store(typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """Set array[index : index + lanes]."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pointer = _pointer(context, builder, array, args[0], args[1], args[2].type)
        builder.store(args[2], pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(array, types.intp, vector), code


@intrinsic
def spread(typing: Any, array: Any, index: Any) -> Any:
    """Return array[index] in every lane."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        vector = context.get_value_type(signature.return_type)
        number = builder.load(_pointer(context, builder, array, args[0], args[1], vector.element))
        return _splat(builder, number, vector)

    return _of(array)(array, types.intp), code


@intrinsic
def zeros(typing: Any, array: Any) -> Any:
    """Return zeros, as many as `lanes`."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(context.get_value_type(signature.return_type), [0.0] * signature.return_type.lanes)

    return _of(array)(array), code


@intrinsic
def zero_rows(typing: Any) -> Any:
    """Return a zero for each of eight rows."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return ir.Constant(context.get_value_type(signature.return_type), [0.0] * ROWS)

    return Vector(types.float64, ROWS)(), code


@intrinsic
def load_rows(typing: Any, array: Any, index: Any) -> Any:
    """Return array[index : index + 8] as float64."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        wide = context.get_value_type(signature.return_type)
        narrow = ir.VectorType(context.get_value_type(array.dtype), ROWS)
        numbers = builder.load(
            _pointer(context, builder, array, args[0], args[1], narrow), align=array.dtype.bitwidth // 8
        )
        return numbers if narrow == wide else builder.fpext(numbers, wide)

    return Vector(types.float64, ROWS)(array, types.intp), code


@intrinsic
def store_rows(typing: Any, array: Any, index: Any, vector: Any) -> Any:
    """Set array[index : index + 8], rounded to its dtype."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        narrow = ir.VectorType(context.get_value_type(array.dtype), ROWS)
        numbers = args[2] if narrow == args[2].type else builder.fptrunc(args[2], narrow)
        pointer = _pointer(context, builder, array, args[0], args[1], narrow)
        builder.store(numbers, pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(array, types.intp, vector), code


@intrinsic
def store_totals(typing: Any, array: Any, index: Any, a: Any, b: Any, c: Any, d: Any) -> Any:
    """Set array[index : index + 4] to the totals of the four vectors: halves are added until one number is left."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        pairs = [_halved(builder, args[first : first + 2], a.lanes) for first in (2, 4)]
        sums = _halved(builder, pairs, a.lanes // 2)
        group = a.lanes // 4
        while group > 1:
            sums = _halved(builder, [sums], group)
            group //= 2
        pointer = _pointer(context, builder, array, args[0], args[1], sums.type)
        builder.store(sums, pointer, align=array.dtype.bitwidth // 8)
        return context.get_dummy_value()

    return types.none(array, types.intp, a, b, c, d), code


@intrinsic
def total(typing: Any, vector: Any) -> Any:
    """Return the sum of the lanes: halves are added until one number is left."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        sums = args[0]
        while sums.type.count > 1:
            sums = _halved(builder, [sums], sums.type.count)
        return builder.extract_element(sums, ir.Constant(INT32, 0))

    return vector.number(vector), code


@intrinsic
def unwritten(typing: Any, array: Any) -> Any:
    """Return the array as a read-only one, so that what is compiled for those is not compiled once more for it."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return impl_ret_borrowed(context, builder, signature.return_type, args[0])

    return array.copy(readonly=True)(array), code


@intrinsic
def in_order(typing: Any) -> Any:
    """Keep LLVM from unrolling the loop that contains this."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        nothing = ir.InlineAsm(ir.FunctionType(ir.VoidType(), []), "", "", side_effect=True)
        builder.call(nothing, []).attributes.add("convergent")  # so it may not be put where conditions differ
        return context.get_dummy_value()

    return types.none(), code


@intrinsic
def read(typing: Any, array: Any, index: Any) -> Any:
    """Read array[index] for the sake of its cache line alone; like `in_order`, this is not unrolled."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = builder.load(_pointer(context, builder, array, args[0], args[1], ir.IntType(8)))
        use = ir.InlineAsm(ir.FunctionType(ir.VoidType(), [INT32]), "", "r", side_effect=True)
        builder.call(use, [builder.zext(byte, INT32)]).attributes.add("convergent")
        return context.get_dummy_value()

    return types.none(array, types.intp), code


@intrinsic(prefer_literal=True)
def prefetch(typing: Any, array: Any, index: Any, level: Any) -> Any:
    """Ask for the cache line of array[index], which may lie beyond the end, in the L1 or the L2 cache: level 1 or 2."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        byte = ir.IntType(8).as_pointer()
        function = ir.FunctionType(ir.VoidType(), [byte, INT32, INT32, INT32])
        asked = cgutils.get_or_insert_function(builder.module, function, "llvm.prefetch.p0i8")
        pointer = _pointer(context, builder, array, args[0], args[1], ir.IntType(8))
        builder.call(asked, [pointer, *(ir.Constant(INT32, number) for number in (0, near, 1))])  # to read, data
        return context.get_dummy_value()

    if not isinstance(level, types.IntegerLiteral):
        raise TypingError("the level of the cache must be written out")
    near = 4 - level.literal_value
    return types.none(array, types.intp, level), code


@intrinsic
def fma(typing: Any, a: Any, b: Any, c: Any) -> Any:
    """Return a * b + c, rounded once where the machine can."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _call(builder, "llvm.fmuladd", args)

    return a(a, b, c), code


@intrinsic
def absolute(typing: Any, a: Any) -> Any:
    """Return |a|."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _call(builder, "llvm.fabs", args)

    return a(a), code


@intrinsic
def power_of_two(typing: Any, a: Any) -> Any:
    """Return 2^k, k being the whole number in the lowest bits of a float64, put into the exponent's bits."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole = ir.VectorType(INT64, a.lanes)
        bias, shift = (ir.Constant(whole, [number] * a.lanes) for number in (1023, 52))
        bits = builder.shl(builder.add(builder.bitcast(args[0], whole), bias), shift)
        return builder.bitcast(bits, args[0].type)

    return a(a), code


@intrinsic
def exponent(typing: Any, a: Any) -> Any:
    """Return the whole k of positive normal float64 numbers m 2^k, 1 <= m < 2."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole = ir.VectorType(INT64, a.lanes)
        bias, shift = (ir.Constant(whole, [number] * a.lanes) for number in (1023, 52))
        bits = builder.lshr(builder.bitcast(args[0], whole), shift)
        return builder.sitofp(builder.sub(bits, bias), args[0].type)

    return a(a), code


@intrinsic
def mantissa(typing: Any, a: Any) -> Any:
    """Return the m of the same."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        whole = ir.VectorType(INT64, a.lanes)
        digits, one = (ir.Constant(whole, [number] * a.lanes) for number in ((1 << 52) - 1, 1023 << 52))
        bits = builder.or_(builder.and_(builder.bitcast(args[0], whole), digits), one)
        return builder.bitcast(bits, args[0].type)

    return a(a), code


@intrinsic
def square_root(typing: Any, a: Any) -> Any:
    """Return the square root, correctly rounded."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return _call(builder, "llvm.sqrt", args)

    return a(a), code


@intrinsic
def _where_greater(typing: Any, a: Any, b: Any, yes: Any, no: Any) -> Any:
    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        return builder.select(builder.fcmp_ordered(">", args[0], args[1]), args[2], args[3])

    return a(a, b, yes, no), code


@intrinsic
def _as(typing: Any, vector: Any, number: Any) -> Any:
    """Return the number in every lane of such a vector."""

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        cast = context.cast(builder, args[1], number, vector.number)
        return _splat(builder, cast, context.get_value_type(vector))

    return vector(vector, number), code


def where_greater(a: Any, b: float, yes: Any, no: Any) -> Any:
    """Return `yes` in the lanes where a > b, `no` elsewhere and where a is NaN; either may be a number."""
    raise NotImplementedError("compiled only")


@overload(where_greater, strict=False)
def _where_greater_code(a: Any, b: Any, yes: Any, no: Any) -> Any:
    if not isinstance(a, Vector):
        return None
    if isinstance(yes, Vector) and isinstance(no, Vector):
        return lambda a, b, yes, no: _where_greater(a, _as(a, b), yes, no)
    if isinstance(yes, Vector):
        return lambda a, b, yes, no: _where_greater(a, _as(a, b), yes, _as(a, no))
    if isinstance(no, Vector):
        return lambda a, b, yes, no: _where_greater(a, _as(a, b), _as(a, yes), no)
    return lambda a, b, yes, no: _where_greater(a, _as(a, b), _as(a, yes), _as(a, no))


def _arithmetic(symbol: Callable[..., Any], instruction: str) -> None:
    """Let vectors take the operator, with each other and with numbers on either side."""

    @intrinsic
    def both(typing: Any, a: Any, b: Any) -> Any:
        def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
            return getattr(builder, instruction)(*args)

        return a(a, b), code

    @overload(symbol, strict=False)
    def code_of(a: Any, b: Any) -> Any:
        if isinstance(a, Vector) and isinstance(b, Vector):
            return lambda a, b: both(a, b)
        if isinstance(a, Vector) and isinstance(b, types.Number):
            return lambda a, b: both(a, _as(a, b))
        if isinstance(a, types.Number) and isinstance(b, Vector):
            return lambda a, b: both(_as(b, a), b)
        return None


for _symbol, _instruction in (
    (operator.add, "fadd"),
    (operator.sub, "fsub"),
    (operator.mul, "fmul"),
    (operator.truediv, "fdiv"),
):
    _arithmetic(_symbol, _instruction)
