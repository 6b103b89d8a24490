"""A table's columns -> a design matrix: numbers standardised, categories one-hot."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from dist_dot.errors import DataError
from dist_dot.jobs.job import Data
from dist_dot.jobs.sources import Part, Table, require_columns
from dist_dot.kernels.targets import accepted
from dist_dot.kernels.tree import fold, root
from dist_dot.losses import Loss
from dist_dot.objective import deviations
from dist_dot.rounds.layout import make_block
from dist_dot.rows.block import Block, Cuts
from dist_dot.typing import Array

EXACT = 2**53
"""The whole numbers up to which float64 has all of them."""
MOST_WHOLE = 2**63 - 1
Each = Callable[[Callable[[Any], Any], Sequence[Any]], Iterable[Any]]
"""map, here or on a cluster."""


@dataclass(frozen=True)
class Numeric:
    """A column of numbers, used as (x - mean) / scale.

    A column that does not vary in the training rows has the scale 0. It is a feature that is 0 in every row, whatever
    the table holds later: nothing can be learned from it.
    """

    name: str
    mean: float
    scale: float


@dataclass(frozen=True)
class Categorical:
    """A column of categories: one feature per value, 1 where a row has it. An unknown value has none of them."""

    name: str
    values: tuple[str | int, ...]


@dataclass(frozen=True)
class Encoding:
    """How a row of the table becomes a row of X."""

    numeric: tuple[Numeric, ...]
    categorical: tuple[Categorical, ...]
    target: Categorical | None = None
    """Where the target is a class, its column and the classes: y is their number."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the features, in the order of the columns of X."""
        numbers = [column.name for column in self.numeric]
        return (
            *numbers,
            *(f"{column.name}={value}" for column in self.categorical for value in column.values),
        )

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns of the table that it reads."""
        return (*(column.name for column in self.numeric), *(column.name for column in self.categorical))

    def design(self, table: pa.Table) -> Array:
        """Return X (rows, features), float64."""
        X = np.zeros((table.num_rows, len(self.names)))
        for j, number in enumerate(self.numeric):
            if number.scale > 0:
                X[:, j] = (numbers(table, number.name) - number.mean) / number.scale
        first = len(self.numeric)
        for category in self.categorical:
            code = self.codes(table, category)
            rows = np.flatnonzero(code >= 0)
            X[rows, first + code[rows]] = 1.0
            first += len(category.values)
        return X

    def codes(self, table: pa.Table, category: Categorical) -> Array:
        """Return which of the category's values each row has (rows,), -1 for another."""
        values = pa.array(
            category.values, pa.int64() if category.values and isinstance(category.values[0], int) else pa.string()
        )
        codes = pc.index_in(_words(table, category.name), value_set=values)
        return np.asarray(codes.fill_null(-1).to_numpy(zero_copy_only=False))


def learn_encoding(table: Table, data: Data, loss: Loss | None, train: Part, each: Each, cuts: Cuts) -> Encoding:
    """Return the encoding of a table: means and scales from the training rows, categories from all rows.

    Without a loss the target is a class, and so a category too. One pass over the columns used, in the ranges of
    `cuts`, whose results are merged in the fold's fixed tree. Raises DataError for an unknown column, one of the wrong
    kind, a value that is missing, NaN, infinite or too large, a target that the loss does not take and a negative
    weight, each with its row in the table, and for a target that is always of the same class.
    """
    classes = loss is None
    weights = () if data.weight is None else (data.weight,)
    for key, columns in (
        ("target", (data.target,)),
        ("weight", weights),
        ("numeric", data.numeric),
        ("categorical", data.categorical),
    ):
        require_columns(table, columns, key)
        for column in columns:
            check_kind(table.schema.field(column), key, key == "categorical" or (classes and key == "target"))
    words = (*data.categorical, data.target) if classes else data.categorical
    ranges = [cuts.bounds(number) for number in range(cuts.n_blocks)]
    parts = list(each(partial(_summarise, table, data, words, loss, train), ranges))
    heaviest = np.max([most for *_, most in parts], axis=0)
    for where, most in zip(("to train on", "held out"), heaviest, strict=True):
        if most == 0.0:
            raise DataError(f"column {data.weight!r} is 0 in all rows {where}: no row counts")
    nodes = {(0, number): moments for number, (moments, *_) in enumerate(parts)}
    moments = fold(nodes, cuts.n_blocks, _merge_moments)[root(cuts.n_blocks)]
    count, mean, spread = moments
    for name, sound in zip(data.numeric, np.isfinite(spread), strict=True):
        if data.standardize and not sound:
            raise DataError(f"column {name!r} has squares that overflow float64: divide it by a power of ten")
    scale = deviations(mean, spread / np.maximum(count, 1.0))
    numeric = tuple(
        Numeric(name, float(m), float(s)) if data.standardize else Numeric(name, 0.0, 1.0)
        for name, m, s in zip(data.numeric, mean, scale, strict=True)
    )
    values: list[set[Any]] = [set().union(*sets) for sets in zip(*(sets for _, sets, _ in parts), strict=True)]
    categorical = tuple(Categorical(name, tuple(sorted(found))) for name, found in zip(words, values, strict=True))
    if not classes:
        return Encoding(numeric, categorical)
    target = categorical[-1]
    if len(target.values) < 2:
        raise DataError(
            f"column {data.target!r} is {target.values[0]!r} in all rows: softmax takes two classes or more"
        )
    return Encoding(numeric, categorical[:-1], target)


@dataclass(frozen=True)
class BlockMaker:
    """Makes block `number` of a part from the table: what a Dask task calls, and calls again after a loss.

    starts[i] is the row of the table where block i begins; the last entry is the end. device says where the rows are
    kept, "cpu" or "cuda".
    """

    table: Table
    data: Data
    encoding: Encoding
    part: Part
    cuts: Cuts
    starts: tuple[int, ...]
    device: str = "cpu"

    def __call__(self, number: int) -> Block:
        """Read the rows of the block, encode and check them."""
        start, stop = self.starts[number : number + 2]
        weights = () if self.data.weight is None else (self.data.weight,)
        rows = self.table.read(start, stop, (*self.encoding.columns, self.data.target, *weights))
        rows = rows.filter(pa.array(self.part.mask(start, stop)))
        columns = {} if self.data.weight is None else {"sample_weight": numbers(rows, self.data.weight)}
        target = self.encoding.target
        y = numbers(rows, self.data.target) if target is None else self.encoding.codes(rows, target)
        X, y = self.encoding.design(rows), np.asarray(y, np.float64)
        return make_block(X, y, self.cuts, number, columns, self.device)


def numbers(table: pa.Table, name: str) -> Array:
    """Return a column as float64 numbers, (rows,)."""
    return np.asarray(_decoded(table.column(name)).cast(pa.float64()).to_numpy())


def _decoded(column: Any) -> Any:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _words(table: pa.Table, name: str) -> Any:
    column = _decoded(table.column(name))
    whole = pa.types.is_integer(column.type)
    return column.cast(pa.int64() if whole else pa.string()).combine_chunks()


def check_kind(field: pa.Field, key: str, categories: bool) -> None:
    """Raise DataError for a column of this key of [data] that does not hold numbers, or words or whole numbers."""
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    whole = pa.types.is_integer(kind)
    if categories:
        if not (whole or pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)):
            raise DataError(f"column {field.name!r} in [data] {key} holds {kind}: expected words or whole numbers")
    elif not (whole or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DataError(f"column {field.name!r} in [data] {key} holds {kind}: expected numbers")


def _summarise(
    table: Table, data: Data, words: Sequence[str], loss: Loss | None, train: Part, rows: tuple[int, int]
) -> tuple[Array, list[set[Any]], Array]:
    """Return (count, mean, spread) of the numeric columns over the training rows, (3, k), and the categories of all.

    And the largest weight (2,) of the rows to train on, and of those held out: -1 where there are none.
    """
    start, stop = rows
    weights = () if data.weight is None else (data.weight,)
    part = table.read(start, stop, (*data.numeric, *data.categorical, data.target, *weights))
    for name in part.column_names:
        check_values(part.column(name), name, start, name in words)
    mask = train.mask(start, stop)
    heaviest = np.ones(2)
    for name in weights:
        weight = numbers(part, name)
        _check_range(weight, (0.0, np.inf), f"column {name!r}", start, "weights are >= 0")
        heaviest = np.array([weight[mask].max(initial=-1.0), weight[~mask].max(initial=-1.0)])
    if loss is not None:
        _check_range(numbers(part, data.target), loss.domain, f"column {data.target!r}", start, accepted(loss))
    X = np.stack([numbers(part, name)[mask] for name in data.numeric]) if data.numeric else np.zeros((0, mask.sum()))
    count = X.shape[1]
    with np.errstate(over="ignore", invalid="ignore"):  # the sums of all rows are looked at
        mean = X.sum(axis=1) / max(count, 1)
        spread = ((X - mean[:, None]) ** 2).sum(axis=1)
    values = [_values(part, name, table.url) for name in words]
    return np.stack([np.full(mean.shape, float(count)), mean, spread]), values, heaviest


def _values(part: pa.Table, name: str, url: str) -> set[Any]:
    try:
        return set(pc.unique(_words(part, name)).to_pylist())
    except UnicodeDecodeError as error:
        raise DataError(f"column {name!r} of {url} holds a word that is no UTF-8: {error.object!r}") from None


def _check_range(values: Array, range: tuple[float, float], what: str, start: int, expected: str) -> None:
    """Raise DataError for a value outside of the range, with the number of its row in the table."""
    wrong = np.flatnonzero((values < range[0]) | (values > range[1]))
    if wrong.size:
        raise DataError(f"{what} is {values[wrong[0]]} in row {start + wrong[0]}: {expected}")


def _merge_moments(left: Array, right: Array) -> Array:
    """Merge counts, means and spreads (Chan, Golub and LeVeque, 1983, equation 2.1)."""
    with np.errstate(over="ignore", invalid="ignore"):
        count = left[0] + right[0]
        share = right[0] / np.maximum(count, 1.0)
        gap = right[1] - left[1]
        return np.stack([count, left[1] + gap * share, left[2] + right[2] + gap * gap * left[0] * share])


def check_values(column: Any, name: str, start: int, words: bool) -> None:
    """Raise DataError for a value that is missing, NaN, infinite or too large, with its row in the table.

    words is whether the values are categories.
    """
    column = _decoded(column)
    if column.type in ((pa.uint64(),) if words else (pa.int64(), pa.uint64())):
        most = MOST_WHOLE if words else EXACT
        large = pc.greater(column, pa.scalar(most, column.type))
        if column.type == pa.int64():
            large = pc.or_(large, pc.less(column, -most))
        row = pc.index(large, True).as_py()
        if row >= 0:
            advice = "categories are below 2^63: make them words" if words else (
                "float64 holds whole numbers up to 2^53 exactly: name the column in categorical if they are labels, "
                "else have the table hold it as floats"
            )  # fmt: skip
            raise DataError(f"column {name!r} is {column[row].as_py()} in row {start + row}: {advice}")
    bad = pc.is_null(column, nan_is_null=True)
    if pa.types.is_floating(column.type):
        bad = pc.or_(bad, pc.invert(pc.is_finite(pc.fill_null(column, 0.0))))
    row = pc.index(bad, True).as_py()
    if row >= 0:
        value = column[row].as_py()
        seen = "missing" if value is None else "NaN" if value != value else "infinite"
        raise DataError(f"column {name!r} is {seen} in row {start + row}: fill or drop such rows first")
