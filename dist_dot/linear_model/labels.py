"""Class labels of any kind <-> the codes 0, 1, .. that losses take; weights of classes."""

from functools import partial
from typing import Any

import numpy as np
from sklearn.utils.class_weight import compute_class_weight

from dist_dot.errors import DataError, InputError
from dist_dot.kernels.device import labels as device_labels
from dist_dot.kernels.device import on_device
from dist_dot.rounds.layout import memory
from dist_dot.rows.arrays import NUMBERS, cast, is_lazy, is_other, namespace, no_rows, to_host
from dist_dot.rows.block import cut
from dist_dot.rows.inputs import as_array, merged, n_rows, on_host
from dist_dot.typing import Array

LABELS = "biufMmSUOT"  # the kinds of NumPy's dtypes that can be labels
FEW = 100_000  # parameters that any memory is good for
# Arrays of all parameters: L-BFGS remembers 30 steps and as many gradients, and tries four points at a time. Those of a
# thread: the sums of four points, of a tile and of a block.
VECTORS, SUMS = 80, 8


def classes_of(y: Any, n_features: int, fits: int = 1) -> Array:
    """Return the distinct labels in order, on the host. One pass over y where it is a Dask collection.

    Whole numbers that lie on a card are looked for there, two reads of y.

    Raises DataError for a label that is missing, or a number that is not whole, with its row; InputError for a single
    class, and for more than the memory is good for, where so many fits of n_features columns are made at a time.
    """
    most = most_classes(n_features, fits, *memory(True)) if is_lazy(y) else None
    classes: Array = merged("y", y, partial(_distinct, most=most), partial(_union, most=most))
    if most is None and classes.size > 2 and classes.size * fits * (n_features + 1) > FEW:
        _check_number(classes, most_classes(n_features, fits, *memory(False)))
    if classes.size < 2:
        raise InputError(f"y has only one class, {classes.tolist()[0]!r}: a classifier needs two or more")
    return classes


def most_classes(n_features: int, fits: int, nbytes: int, threads: int) -> int:
    """Return of how many classes so many bytes hold what so many fits take, and as many threads.

    A class has n_features + 1 parameters. A fit by L-BFGS remembers some `VECTORS` arrays of all of them, and each
    thread adds up `SUMS` of them. What kernels make of the rows does not grow with the classes.
    """
    return nbytes // (8 * (n_features + 1) * fits * (VECTORS + SUMS * threads))


def encoded(y: Any, classes: Array, known: bool = False) -> Any:
    """Return the code of each label (n,), float64, and the number of classes for a label that is none of them.

    It is lazy where y is a Dask collection, and of the library of y. Raises DataError for a label that is missing, and
    where all are `known` for one that is none of the classes.
    """
    y = y[:, 0] if y.ndim == 2 else y
    like = no_rows(y._meta, "float64", 1) if is_lazy(y) else None
    return as_array("y", y, partial(_codes, classes=classes, known=known), like)


def class_weights(codes: Any, sample_weight: Any, class_weight: Any, classes: Array) -> Array | None:
    """Return the weight of each class (k,), None for None: class_weight has scikit-learn's meaning.

    One pass over the codes for "balanced", where they are a Dask collection.
    """
    if class_weight is None:
        return None
    if class_weight == "balanced":
        s = 1.0 if sample_weight is None else on_host("sample_weight", sample_weight)
        codes = on_host("y", codes)
        parts: Any = np.stack([_sums_of_cuts(s * (codes == code)) for code in range(classes.size)])
        counts = np.asarray(parts.compute() if is_lazy(parts) else parts).sum(axis=1)
        # A class without weight has no rows to weigh.
        return np.asarray(counts.sum() / (classes.size * np.where(counts > 0, counts, 1.0)))
    try:
        return np.asarray(compute_class_weight(class_weight, classes=classes, y=classes), np.float64)
    except ValueError as error:  # for labels that are none
        raise InputError(f"class_weight is {class_weight!r}, and the labels of y are {classes.tolist()}") from error


def weighted(codes: Any, sample_weight: Any, of_class: Array | None) -> Any:
    """Return the weights of rows times those of their classes (k,)."""
    if of_class is None:
        return sample_weight
    if is_lazy(codes):
        of_row = codes.map_blocks(_taken, of_class=of_class, dtype=np.float64, meta=no_rows(codes._meta, "float64", 1))
    else:
        of_row = _taken(codes, of_class)
    if sample_weight is None:
        return of_row
    if is_lazy(of_row) or is_lazy(sample_weight):
        return on_host("y", of_row) * on_host("sample_weight", sample_weight)
    return of_row * cast(sample_weight, "float64", of_row)


def _sums_of_cuts(weights: Any) -> Any:
    """Return the sums of weights (n,), float64, between cuts that depend on n alone: any chunks have the same bits."""
    n = n_rows(weights)
    rows = cut(n, 1, np.float64).block_rows
    if not is_lazy(weights):
        return np.concatenate([_sum(weights[start : start + rows]) for start in range(0, n, rows)])
    even = weights.rechunk(rows)
    return even.map_blocks(_sum, dtype=np.float64, chunks=((1,) * even.npartitions,))


def _sum(weights: Array) -> Array:
    return np.asarray(np.sum(weights, dtype=np.float64, keepdims=True))


def _host(y: Any, start: int) -> Array:
    """Return labels (m,), the first that of row `start`, on the host. Raises DataError for a missing one."""
    return present("y", np.asarray(to_host(y)).reshape(-1), start, "a label is missing: drop such rows before the fit")


def present(name: str, labels: Array, start: int, words: str) -> Array:
    """Return labels (m,), the first that of row `start`. Raises DataError for one that is missing."""
    missing = labels != labels  # NaN, and NaT
    if labels.dtype.kind == "O":
        missing = missing | (labels == None)  # noqa: E711 - of each label
    _refuse(missing, labels, start, words, name)
    return labels


def _refuse(wrong: Any, labels: Array, start: int, words: str, name: str = "y") -> None:
    """Raise DataError for the first label that is wrong."""
    if np.any(wrong):
        row = int(np.argmax(wrong))
        raise DataError(f"{name} is {labels[row]} in row {start + row}: {words}")


def _distinct(y: Any, start: int, most: int | None) -> Array:
    """Return the distinct labels of some rows, in order, found where they lie if they are whole numbers on a card."""
    there = device_labels.classes_of(namespace(y).reshape(y, (-1,))) if on_device(y) else None
    if there is not None:
        return _check_number(there, most)
    labels = _host(y, start)
    if labels.dtype.kind not in LABELS:
        raise DataError(f"y has dtype {labels.dtype}: expected labels, words or whole numbers")
    found = _union([labels], None)
    if labels.dtype.kind == "f":
        broken = found[(found != np.floor(found)) | np.isinf(found)]
    else:
        broken = [v for v in found if isinstance(v, float) and not v.is_integer()] if labels.dtype.kind == "O" else []
    if len(broken):
        words = "labels are words or whole numbers; numbers like these are for a regressor, such as Ridge"
        _refuse(labels == broken[0], labels, start, words)
    return _check_number(found, most)


def _union(parts: list[Array], most: int | None) -> Array:
    """Return the distinct labels of several parts, in order."""
    labels = np.concatenate(parts)
    try:
        found = np.unique(labels)
    except TypeError as error:
        raise DataError(f"y has labels of several kinds, that have no order: {error}") from None
    return _check_number(found, most)


def _check_number(found: Array, most: int | None) -> Array:
    if most is not None and found.size > most:
        raise InputError(
            f"y has {found.size:,} classes or more, and the memory holds a model of {most:,}: is y a number for a "
            "regressor, such as Ridge, or the name of a row?"
        )
    return found


def _codes(y: Any, start: int, classes: Array, known: bool) -> Any:
    """Return the codes of some rows, in the library of y; found on the host where that has no such classes."""
    if is_other(y) and classes.dtype.kind in NUMBERS:
        codes = _codes_there(y, classes)
        if not _any(codes == classes.size if known else y != y):
            return codes
    labels = _host(y, start)
    places = np.minimum(np.searchsorted(classes, labels), classes.size - 1)
    none = classes[places] != labels
    if known:
        _refuse(
            none, labels, start, "it was not there when the classes were looked for, so y gives other rows each time"
        )
    return cast(np.where(none, classes.size, places), "float64", y)


def _codes_there(y: Any, classes: Array) -> Any:
    """Return the codes of labels that are numbers, in their own library."""
    if on_device(y) and device_labels.takes(y, classes):
        return device_labels.codes_of(y, classes)
    xp = namespace(y)
    whole = xp.isdtype(y.dtype, ("integral", "bool")) and classes.dtype.kind in "biu"
    y = xp.astype(y, xp.int64 if whole else xp.float64)
    known = cast(classes, "int64" if whole else "float64", y)
    places = xp.searchsorted(known, y)
    places = xp.minimum(places, xp.full_like(places, classes.size - 1))
    found = xp.where(xp.take(known, places, axis=0) == y, places, xp.full_like(places, classes.size))
    return xp.astype(found, xp.float64)


def _any(wrong: Any) -> bool:
    """Whether one of some flags is set. On a card by a kernel of our own: CuPy compiles its `any` for seconds."""
    if on_device(wrong):
        found = device_labels.classes_of(wrong)
        return found is not None and bool(found[-1])
    return bool(namespace(wrong).any(wrong))


def _taken(codes: Any, of_class: Array) -> Any:
    if not is_other(codes):
        return of_class[codes.astype(np.intp)]
    xp = namespace(codes)
    return xp.take(cast(of_class, "float64", codes), xp.astype(codes, xp.int64), axis=0)
