"""Designs: what the X of a block is made of. A kind of X is one class here, or in a file of its own.

Kernels ask a design for its products and know nothing else of it. Two are here: `Dense`, rows in one array of NumPy's
or of another library, and `Stacked`, designs side by side.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import reduce
from operator import add

import numpy as np

from dist_dot.rows.arrays import namespace
from dist_dot.rows.travel import Travels
from dist_dot.typing import Array


class Design(Travels, ABC):
    """The X of a block: m rows of p columns.

    What is given and returned are arrays of the block's library and dtype, on its device. A kind says how many bytes it
    takes, which tells how many of its rows are a tile. Designs do not change once they are made, and pickle.
    """

    @property
    @abstractmethod
    def shape(self) -> tuple[int, int]:
        """(m, p)."""

    @property
    @abstractmethod
    def nbytes(self) -> int:
        """Bytes of memory that it takes."""

    @abstractmethod
    def rows(self, part: slice) -> "Design":
        """Return the rows of a range, without a copy."""

    @abstractmethod
    def take(self, numbers: Array) -> "Design":
        """Return the rows of these numbers."""

    @abstractmethod
    def times(self, W: Array) -> Array:
        """Return X W, (m, k) for W (p, k), (m,) for (p,)."""

    @abstractmethod
    def transposed_times(self, R: Array) -> Array:
        """Return R.T X, the sum of the rows times each column of R: (k, p) for R (m, k), (p,) for (m,)."""

    @abstractmethod
    def dense(self) -> Array:
        """Return the rows as one array (m, p), without a copy where they are one."""

    @property
    def array(self) -> Array | None:
        """The rows where they are one array: kernels then read them in the way that is fastest. Else None."""
        return None

    @property
    def parts(self) -> Sequence[object]:
        """What the rows are told by, in a fixed order: arrays, numbers, text, other designs, and tuples of these.

        A checksum is made of it, so that it must be the same for the same rows. By default it is every field.
        """
        return type(self).__name__, *self.__dict__.values()

    @property
    def multiplies(self) -> bool:
        """Whether `gram` is better than a product of dense rows, which are made a tile at a time where it is not."""
        return False

    def gram(self, d: Array) -> Array:
        """Return X.T diag(d) X (p, p), for d (m,) of the dtype in which it is to be multiplied."""
        return self.cross(self, d)

    def cross(self, other: "Design", d: Array) -> Array:
        """Return X.T diag(d) Other (p, q)."""
        xp = namespace(d)
        left = xp.astype(self.dense(), d.dtype, copy=False)
        right = left if other is self else xp.astype(other.dense(), d.dtype, copy=False)
        product: Array = left.T @ (d[:, None] * right)
        return product


@dataclass(frozen=True, eq=False)
class Dense(Design):
    """Rows in one array (m, p) of NumPy's or of another library: C-contiguous where that is NumPy or CuPy."""

    values: Array

    @property
    def shape(self) -> tuple[int, int]:
        """(m, p)."""
        m, p = self.values.shape
        return int(m), int(p)

    @property
    def nbytes(self) -> int:
        """Bytes of the array."""
        m, p = self.shape
        return m * p * int(namespace(self.values).finfo(self.values.dtype).bits) // 8

    def rows(self, part: slice) -> "Dense":
        """Return the rows of a range, without a copy."""
        return Dense(self.values[part, :])

    def take(self, numbers: Array) -> "Dense":
        """Return the rows of these numbers, in another array."""
        return Dense(namespace(self.values).take(self.values, numbers, axis=0))

    def times(self, W: Array) -> Array:
        """Return X W."""
        product: Array = self.values @ W
        return product

    def transposed_times(self, R: Array) -> Array:
        """Return R.T X."""
        product: Array = (R if R.ndim == 1 else R.T) @ self.values
        return product

    def dense(self) -> Array:
        """Return the array itself."""
        return self.values

    @property
    def array(self) -> Array:
        """The array itself."""
        return self.values

    @property
    def parts(self) -> Sequence[object]:
        """The array; of a kind that is made of this one, its name too."""
        return (self.values,) if type(self) is Dense else super().parts


@dataclass(frozen=True, eq=False)
class Stacked(Design):
    """Designs side by side: the columns of the first, then those of the next. All have the same rows."""

    designs: tuple[Design, ...]

    @property
    def shape(self) -> tuple[int, int]:
        """(m, p), p of all together."""
        return self.designs[0].shape[0], sum(design.shape[1] for design in self.designs)

    @property
    def nbytes(self) -> int:
        """Bytes of all."""
        return sum(design.nbytes for design in self.designs)

    def rows(self, part: slice) -> "Stacked":
        """Return the rows of a range, without a copy."""
        return Stacked(tuple(design.rows(part) for design in self.designs))

    def take(self, numbers: Array) -> "Stacked":
        """Return the rows of these numbers."""
        return Stacked(tuple(design.take(numbers) for design in self.designs))

    def times(self, W: Array) -> Array:
        """Return X W: the sum of the products of each with its rows of W."""
        places = np.cumsum([0, *(design.shape[1] for design in self.designs)])
        ends = zip(places[:-1], places[1:], strict=True)
        return reduce(add, (X.times(W[start:stop, ...]) for X, (start, stop) in zip(self.designs, ends, strict=True)))

    def transposed_times(self, R: Array) -> Array:
        """Return R.T X: the products of each, end to end."""
        products = [design.transposed_times(R) for design in self.designs]
        together: Array = namespace(R).concat(products, axis=R.ndim - 1)
        return together

    def dense(self) -> Array:
        """Return the rows as one array, in new memory."""
        arrays = [design.dense() for design in self.designs]
        together: Array = namespace(arrays[0]).concat(arrays, axis=1)
        return together

    @property
    def multiplies(self) -> bool:
        """Whether one of them does."""
        return any(design.multiplies for design in self.designs)

    def cross(self, other: Design, d: Array) -> Array:
        """Return X.T diag(d) Other: the products of each with the other one, below each other."""
        if isinstance(other, Stacked):
            columns = [self.cross(design, d) for design in other.designs]
            beside: Array = namespace(d).concat(columns, axis=1)
            return beside
        below: Array = namespace(d).concat([design.cross(other, d) for design in self.designs], axis=0)
        return below
