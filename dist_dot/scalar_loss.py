"""A loss of your own, given as functions of two numbers."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256
from threading import RLock
from types import CodeType
from typing import Any, ClassVar

import numpy as np

from dist_dot.errors import InputError
from dist_dot.typing import Array

Scalar = Callable[[float, float], float]
_lock = RLock()


def _itself(number: Any) -> Any:
    return number


@dataclass(frozen=True, repr=False)
class ScalarLoss:
    """A loss of your own, given as functions of two numbers y and z, which numba compiles into the pass.

    ::

        ScalarLoss(
            lambda y, z: math.log(math.cosh(z - y)), lambda y, z: math.tanh(z - y),
            lambda y, z: 1.0 - math.tanh(z - y) ** 2, name="log cosh", curvature=1.0,
        )

    `loss`, `slope` and `bend` are loss(y, z) and its first and second derivatives in z, in Python that numba can
    compile: arithmetic, `math`, conditions. X is then read once for each evaluation, as it is for the losses that are
    here. They are compiled once in each process, some 0.3 s. `link` and `prediction` are what `Loss.link` and
    `Loss.predict` are, functions of one number or array: the mean of y to the z that predicts it, and back. The other
    fields are those of `dist_dot.losses.Loss`, `domain` the smallest and the largest y.

    It is for rows of NumPy's. Write a class with the methods of `dist_dot.losses.Loss` for those of a GPU, or where a
    function of arrays is at hand. Raises InputError for functions that numba cannot compile.
    """

    loss: Scalar
    slope: Scalar
    bend: Scalar
    name: str = "own"
    domain: tuple[float, float] = (-math.inf, math.inf)
    curvature: float | None = None
    link: Callable[[Any], Any] = _itself
    prediction: Callable[[Any], Any] = _itself

    outputs: ClassVar[int] = 1

    def __post_init__(self) -> None:
        _universal(self.loss, "loss")
        _universal(self.slope, "slope")
        _universal(self.bend, "bend")

    def __repr__(self) -> str:
        """Return the same text for the same functions, in any process: a checkpoint is known by it."""
        functions = (self.loss, self.slope, self.bend, self.link, self.prediction)
        digest = sha256(repr([_told(function) for function in functions]).encode()).hexdigest()[:16]
        return f"ScalarLoss({self.name!r}, {self.domain}, {self.curvature}, {digest})"

    def value(self, y: Array, z: Array) -> Array:
        """Return loss(y, z), elementwise."""
        return self._of(self.loss, "loss", y, z)

    def first(self, y: Array, z: Array) -> Array:
        """Return d loss / dz, elementwise."""
        return self._of(self.slope, "slope", y, z)

    def second(self, y: Array, z: Array) -> Array:
        """Return d2 loss / dz2, elementwise."""
        return self._of(self.bend, "bend", y, z)

    def dropped(self, y: Array) -> Array:
        """Return 0 for every row."""
        return 0.0 * y

    def predict(self, z: Array) -> Array:
        """Return the prediction at z."""
        prediction: Array = self.prediction(z)
        return prediction

    def tiles(self) -> int:
        """Return the address, in this process, of the compiled function of the rows of a tile.

        Its arguments are the number m of rows, the addresses of y, z, and of what it sets, loss, slope and bend, m
        float64 numbers each, and 1 where the bend alone is asked for, else 0.
        """
        with _lock:
            return int(_tile_function(self.loss, self.slope, self.bend).address)

    def _of(self, function: Scalar, name: str, y: Array, z: Array) -> Array:
        if not isinstance(z, np.ndarray | np.generic | float | int):
            raise InputError(
                f"the loss {self.name!r} is made of functions of numbers, which are for rows of NumPy's: write a class "
                "with the methods of dist_dot.losses.Loss for arrays of other libraries"
            )
        values = _universal(function, name)(y, z)
        return np.asarray(values, np.asarray(z).dtype) if isinstance(z, np.ndarray) else values


def _compiled(function: Scalar, name: str) -> Any:
    """Return the function as numba compiles it. Raises InputError where it cannot."""
    from numba import njit
    from numba.core.errors import NumbaError

    compiled = njit(error_model="numpy")(function)
    try:
        compiled.compile("float64(float64, float64)")
    except (NumbaError, TypeError) as error:
        words = str(error).strip().splitlines()
        raise InputError(f"numba cannot compile {name} as a function of two numbers: {words[0]}") from error
    return compiled


@lru_cache
def _universal(function: Scalar, name: str) -> Any:
    """Return the function of arrays. The lock keeps two threads from compiling the same."""
    from numba import vectorize

    with _lock:
        compiled = _compiled(function, name)
        return vectorize(["float64(float64, float64)"])(lambda y, z: compiled(y, z))


@lru_cache
def _tile_function(loss: Scalar, slope: Scalar, bend: Scalar) -> Any:
    from numba import carray, cfunc, types

    of_value, of_slope, of_bend = (
        _compiled(function, name) for function, name in ((loss, "loss"), (slope, "slope"), (bend, "bend"))
    )
    numbers = types.CPointer(types.float64)

    @cfunc(types.void(types.intp, numbers, numbers, numbers, numbers, numbers, types.intp), error_model="numpy")  # type: ignore[untyped-decorator, unused-ignore]
    def tile(m: int, y: Any, z: Any, value: Any, first: Any, second: Any, order: int) -> None:
        at, where = carray(y, m), carray(z, m)
        values, firsts, seconds = carray(value, m), carray(first, m), carray(second, m)
        for i in range(m):
            if order:
                seconds[i] = of_bend(at[i], where[i])
            else:
                values[i] = of_value(at[i], where[i])
                firsts[i] = of_slope(at[i], where[i])

    return tile


def _told(function: Any) -> Any:
    """Return what tells a function from another: its code and what that holds, but not where it was written."""
    code = getattr(function, "__code__", None)
    if code is None:
        return repr(getattr(function, "__qualname__", type(function).__qualname__))
    cells = [cell.cell_contents for cell in function.__closure__ or ()]
    held = [_told(each) if callable(each) else repr(each) for each in (*cells, *(function.__defaults__ or ()))]
    return _code(code), held


def _code(code: CodeType) -> Any:
    constants = [_code(each) if isinstance(each, CodeType) else repr(each) for each in code.co_consts]
    return code.co_code.hex(), code.co_names, constants
