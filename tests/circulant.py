"""A kind of design that the package has never seen: rows that one vector tells, and the group that each row is in."""

from dataclasses import dataclass

import numpy as np

from dist_dot.rows.block import Block, cut
from dist_dot.rows.design import Design


@dataclass(frozen=True, eq=False)
class Circulant(Design):
    """Row i is the first p numbers of the vector rolled by i, and then 1 in the column of its group, else 0.

    Groups are of `size` rows, and begin anew after the last one. Only the vector is held, and which rows there are.
    """

    vector: np.ndarray
    numbers: np.ndarray
    p: int
    groups: int = 0
    size: int = 1

    @property
    def shape(self):
        return len(self.numbers), self.p + self.groups

    @property
    def nbytes(self):
        return self.vector.nbytes + self.numbers.nbytes

    def rows(self, part):
        return Circulant(self.vector, self.numbers[part], self.p, self.groups, self.size)

    def take(self, numbers):
        return Circulant(self.vector, self.numbers[numbers], self.p, self.groups, self.size)

    def lag(self, j):
        return self.vector[(j - self.numbers) % len(self.vector)]

    @property
    def group(self):
        return self.numbers // self.size % self.groups if self.groups else np.zeros(len(self.numbers), int)

    def times(self, W):
        assert W.dtype == self.vector.dtype and W.shape[0] == self.shape[1]
        z = W[self.p :][self.group] if self.groups else np.zeros((len(self.numbers), *W.shape[1:]), W.dtype)
        for j in range(self.p):
            z = z + (self.lag(j) * W[j] if W.ndim == 1 else self.lag(j)[:, None] * W[j])
        return z

    def transposed_times(self, R):
        assert R.dtype == self.vector.dtype and R.shape[0] == self.shape[0]
        ends = np.zeros((*R.shape[1:], self.groups), R.dtype)
        for group in range(self.groups):
            ends[..., group] = R[self.group == group].sum(axis=0)
        return np.concatenate([np.stack([self.lag(j) @ R for j in range(self.p)], axis=-1), ends], axis=-1)

    def dense(self):
        lags = np.stack([self.lag(j) for j in range(self.p)], axis=1)
        return np.hstack([lags, np.eye(self.groups, dtype=lags.dtype)[self.group]]) if self.groups else lags


@dataclass(frozen=True)
class Maker:
    """Makes the blocks of a circulant design by their number, on whichever worker."""

    X: Circulant
    columns: dict
    block_rows: int

    @property
    def cuts(self):
        y, has = self.columns["y"], (self.columns.get(name) is not None for name in ("offset", "fold"))
        return cut(*self.X.shape, y.dtype, self.block_rows, y[0].size, *has)

    def __call__(self, number):
        part = slice(*self.cuts.bounds(number))
        columns = {name: None if values is None else values[part] for name, values in self.columns.items()}
        return Block(self.X.rows(part), start=part.start, **{"weight": None, **columns})
