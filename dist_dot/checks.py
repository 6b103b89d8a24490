"""Parameters are what they say, before a row is looked at: a number, a whole number, a flag, functions."""

from collections.abc import Callable, Iterable
from numbers import Integral, Real
from typing import Any

import numpy as np

from dist_dot.errors import InputError
from dist_dot.typing import Array


def number(name: str, value: Any, advice: str, least: float = 0.0, most: float = float("inf")) -> float:
    """Return a real number between these, NaN and infinity excluded unless they are asked for.

    Raises InputError for another one, and for what is no number, such as a word or a flag. advice says what to give.
    """
    if isinstance(value, bool) or not isinstance(value, Real) or not least <= float(value) <= most:
        raise InputError(f"{name} is {value!r}: {advice}")
    return float(value)


def finite(name: str, value: Any, advice: str = "give a finite number >= 0") -> float:
    """Return a finite number >= 0. Raises InputError for another one."""
    return number(name, value, advice, most=1.7976931348623157e308)


def strengths(name: str, value: Any) -> float | tuple[float, ...]:
    """Return a finite number >= 0, or several as a tuple. Raises InputError for anything else."""
    if isinstance(value, list | tuple | np.ndarray) and np.ndim(value):
        each = value.tolist() if isinstance(value, np.ndarray) else value
        return tuple(finite(f"{name}[{j}]", one) for j, one in enumerate(each))
    return finite(name, value)


def whole(name: str, value: Any, least: int = 0) -> int:
    """Return a whole number that is not smaller than this. Raises InputError for another one."""
    if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
        raise InputError(f"{name} is {value!r}: give a whole number >= {least}")
    return int(value)


def numbers(name: str, values: Any) -> Array:
    """Return numbers as an array of float64. Raises InputError for what are none."""
    array = np.asarray(values)
    if array.dtype.kind not in "iuf":
        raise InputError(f"{name} is {values!r}: give numbers")
    return array.astype(np.float64)


def flag(name: str, value: Any) -> bool:
    """Return True or False, of Python's or of NumPy's. Raises InputError for anything else."""
    if type(value).__name__ not in ("bool", "bool_"):
        raise InputError(f"{name} is {value!r}: give True or False")
    return bool(value)


def functions(name: str, values: Any) -> tuple[Callable[..., Any], ...]:
    """Return functions as a tuple. Raises InputError for one function alone, and for what cannot be called."""
    if callable(values) or not isinstance(values, Iterable):
        raise InputError(f"{name} is {values!r}: give a list of functions, such as [{_name(values)}]")
    listed = tuple(values)
    for each in listed:
        if not callable(each):
            raise InputError(f"{name} holds {each!r}, which cannot be called: give functions of the progress")
    return listed


def _name(value: Any) -> str:
    return str(getattr(value, "__name__", "print"))
