"""BLAS, and functions of the user's own, from compiled code and without the interpreter's lock.

`scipy.linalg.blas` holds the lock while it multiplies: threads of a process take turns in it. The same routines have
addresses (`scipy.linalg.cython_blas`), which compiled code calls without the lock, for the same bits. On two cores the
Gram matrix of 64 blocks took 0.25 s by the one and 0.12 s by the other.

An address is another one in each process, and so it is handed over as a number: what is compiled is kept on disk.
"""

from functools import cache
from typing import Any

from llvmlite import ir
from numba.core import cgutils, types
from numba.extending import get_cython_function_address, intrinsic
from numba.np.arrayobj import make_array

INT32, CHARACTER = ir.IntType(32), ir.IntType(8)


@cache
def syrk_address(itemsize: int) -> int:
    """Return where BLAS's syrk of numbers of so many bytes begins."""
    return int(get_cython_function_address("scipy.linalg.cython_blas", "dsyrk" if itemsize == 8 else "ssyrk"))


@intrinsic
def add_square(typing: Any, address: Any, rows: Any, m: Any, p: Any, apart: Any, keep: Any, square: Any) -> Any:
    """Set square (p, p) = keep * square + X.T X below the diagonal and on it, of m rows of p numbers.

    `address` is `syrk_address`; a row begins `apart` numbers after the one before it. Rows and square are C-contiguous
    and of one dtype.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        number = context.get_value_type(rows.dtype)

        def at(value: Any) -> Any:
            return cgutils.alloca_once_value(builder, value)

        def whole(value: Any) -> Any:
            return at(builder.trunc(value, INT32))

        def data(kind: Any, array: Any) -> Any:
            return make_array(kind)(context, builder, array).data

        # Column by column, as BLAS has it, rows are columns, and below the diagonal is above it.
        upper, plain = (at(ir.Constant(CHARACTER, ord(letter))) for letter in "UN")
        m_at, p_at, apart_at = (whole(value) for value in args[2:5])
        alpha, beta = at(ir.Constant(number, 1.0)), at(context.cast(builder, args[5], keep, rows.dtype))
        given = [upper, plain, p_at, m_at, alpha, data(rows, args[1]), apart_at, beta, data(square, args[6]), p_at]
        function = ir.FunctionType(ir.VoidType(), [each.type for each in given]).as_pointer()
        builder.call(builder.inttoptr(args[0], function), given)
        return context.get_dummy_value()

    return types.none(types.intp, rows, types.intp, types.intp, types.intp, keep, square), code


@intrinsic
def call_tile(typing: Any, address: Any, m: Any, numbers: Any, apart: Any, order: Any) -> Any:
    """Call the function of m rows at an address, see `ScalarLoss.tiles`, on five parts of `numbers`.

    y, z, loss, slope and bend lie one after the other in the float64 array, `apart` numbers from each to the next.
    """

    def code(context: Any, builder: Any, signature: Any, args: Any) -> Any:
        data = make_array(numbers)(context, builder, args[2]).data
        parts = [builder.gep(data, [builder.mul(args[3], ir.Constant(args[3].type, part))]) for part in range(5)]
        given = [args[1], *parts, args[4]]
        function = ir.FunctionType(ir.VoidType(), [each.type for each in given]).as_pointer()
        builder.call(builder.inttoptr(args[0], function), given)
        return context.get_dummy_value()

    return types.none(types.intp, types.intp, numbers, types.intp, types.intp), code
