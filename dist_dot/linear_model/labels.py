"""Class labels of any kind <-> the codes 0, 1, .. that losses take; weights of classes."""

from typing import Any

import numpy as np
from sklearn.utils.class_weight import compute_class_weight

from dist_dot.blocks.arrays import NUMBERS, cast, is_other, namespace, no_rows, to_host
from dist_dot.blocks.block import cut
from dist_dot.blocks.device import labels as device_labels
from dist_dot.blocks.device import on_device
from dist_dot.blocks.layout import n_rows
from dist_dot.errors import InputError
from dist_dot.typing import Array


def classes_of(y: Any) -> Array:
    """Return the distinct labels in order, on the host. One pass over y where it is a Dask collection.

    Raises InputError for a single class.
    """
    distinct: Any = device_labels.classes_of(y) if on_device(y) and y.ndim == 1 else None
    if distinct is None:
        distinct = np.unique(_hosted(y) if _is_lazy(y) else np.asarray(to_host(y)))
    classes = np.asarray(distinct.compute() if _is_lazy(distinct) else distinct)
    if classes.size < 2:
        raise InputError(f"y has only one class, {classes.tolist()[0]!r}: a classifier needs two or more")
    return classes


def encoded(y: Any, classes: Array) -> Any:
    """Return the code of each label, float64, and the number of classes for a label that is none of them.

    It is lazy where y is a Dask collection, and of the library of y.
    """
    if _is_lazy(y):
        return y.map_blocks(_codes, classes=classes, dtype=np.float64, meta=no_rows(y._meta, "float64", 1))
    return _codes(y if is_other(y) else np.asarray(y), classes)


def class_weights(codes: Any, sample_weight: Any, class_weight: Any, classes: Array) -> Array | None:
    """Return the weight of each class (k,), None for None: class_weight has scikit-learn's meaning.

    One pass over the codes for "balanced", where they are a Dask collection.
    """
    if class_weight is None:
        return None
    if isinstance(class_weight, str):
        if class_weight != "balanced":
            raise InputError(f"class_weight is {class_weight!r}: give None, 'balanced', or a dict of weights by label")
        s = 1.0 if sample_weight is None else _hosted(sample_weight)
        codes = _hosted(codes)
        parts: Any = np.stack([_sums_of_cuts(s * (codes == code)) for code in range(classes.size)])
        counts = np.asarray(parts.compute() if _is_lazy(parts) else parts).sum(axis=1)
        # A class without weight has no rows to weigh.
        return np.asarray(counts.sum() / (classes.size * np.where(counts > 0, counts, 1.0)))
    return np.asarray(compute_class_weight(class_weight, classes=classes, y=classes), np.float64)


def weighted(codes: Any, sample_weight: Any, of_class: Array | None) -> Any:
    """Return the weights of rows times those of their classes (k,)."""
    if of_class is None:
        return sample_weight
    if _is_lazy(codes):
        of_row = codes.map_blocks(_taken, of_class=of_class, dtype=np.float64, meta=no_rows(codes._meta, "float64", 1))
    else:
        of_row = _taken(codes, of_class)
    if sample_weight is None:
        return of_row
    if _is_lazy(of_row) or _is_lazy(sample_weight):
        return _hosted(of_row) * _hosted(sample_weight)
    return of_row * cast(sample_weight, "float64", of_row)


def on_host(values: Any) -> Array:
    """Return values as a NumPy array; those of a Dask collection are computed."""
    return np.asarray(to_host(values.compute() if _is_lazy(values) else values))


def _sums_of_cuts(weights: Any) -> Any:
    """Return the sums of weights (n,), float64, between cuts that depend on n alone: any chunks have the same bits."""
    n = n_rows(weights)
    rows = cut(n, 1, np.float64).block_rows
    if not _is_lazy(weights):
        return np.concatenate([_sum(weights[start : start + rows]) for start in range(0, n, rows)])
    even = weights.rechunk(rows)
    return even.map_blocks(_sum, dtype=np.float64, chunks=((1,) * even.npartitions,))


def _sum(weights: Array) -> Array:
    return np.asarray(np.sum(weights, dtype=np.float64, keepdims=True))


def _codes(y: Any, classes: Array) -> Any:
    if on_device(y) and device_labels.takes(y, classes):
        return device_labels.codes_of(y, classes)
    if not is_other(y):
        places = np.minimum(np.searchsorted(classes, y), classes.size - 1)
        return np.where(classes[places] == y, places, classes.size).astype(np.float64)
    if classes.dtype.kind not in NUMBERS:
        return _codes(np.asarray(to_host(y)), classes)
    xp = namespace(y)
    whole = xp.isdtype(y.dtype, ("integral", "bool")) and classes.dtype.kind in "biu"
    y = xp.astype(y, xp.int64 if whole else xp.float64)
    known = cast(classes, "int64" if whole else "float64", y)
    places = xp.searchsorted(known, y)
    places = xp.minimum(places, xp.full_like(places, classes.size - 1))
    found = xp.where(xp.take(known, places, axis=0) == y, places, xp.full_like(places, classes.size))
    return xp.astype(found, xp.float64)


def _taken(codes: Any, of_class: Array) -> Any:
    if not is_other(codes):
        return of_class[codes.astype(np.intp)]
    xp = namespace(codes)
    return xp.take(cast(of_class, "float64", codes), xp.astype(codes, xp.int64), axis=0)


def _hosted(values: Any) -> Any:
    """Return values as a NumPy array, of a Dask collection as one whose chunks are NumPy's."""
    if not _is_lazy(values):
        return to_host(values)
    return values.map_blocks(to_host, dtype=values.dtype, meta=np.empty((0,))) if is_other(values._meta) else values


def _is_lazy(y: Any) -> bool:
    return hasattr(y, "__dask_graph__")
