"""Rows in every form that a caller may hand in, and the estimators that they are handed to."""

import time
from contextlib import contextmanager

import array_api_strict
import dask.array as da
import dask.dataframe as dd
import numpy as np
import pandas as pd

from dist_dot import (
    GammaRegressor,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    PoissonRegressor,
    Ridge,
    RidgeCV,
)

N = 30
X = np.random.default_rng(0).standard_normal((N, 3))
Y = X @ [1.0, 2.0, 3.0] + 1.0
LABELS, COUNTS = (Y > 1).astype(int), np.round(np.abs(Y)) + 1.0
WEIGHTS = np.random.default_rng(1).uniform(0.5, 2.0, N)
SECOND = array_api_strict.Device("device1")

MODELS = [
    LinearRegression(),
    Ridge(),
    RidgeCV(cv=3),
    LogisticRegression(),
    LogisticRegressionCV(2, cv=3),
    PoissonRegressor(),
    GammaRegressor(),
]


def name_of(model):
    return type(model).__name__


def target_of(model):
    """Return a y that the model can be fitted to."""
    if isinstance(model, LogisticRegression):
        return LABELS
    return COUNTS if isinstance(model, PoissonRegressor | GammaRegressor) else Y


class DataArray:
    """An array with names, as xarray has them: no array of the API standard, and a Dask collection if its data are."""

    def __init__(self, data):
        self.data = data
        self.dims = tuple("xyz"[: data.ndim])

    shape = property(lambda self: self.data.shape)
    ndim = property(lambda self: self.data.ndim)
    dtype = property(lambda self: self.data.dtype)
    values = property(lambda self: np.asarray(self.data))

    def __len__(self):
        return len(self.data)

    def __array__(self, dtype=None, copy=None):
        return np.asarray(self.data, dtype=dtype)

    def __getitem__(self, key):
        return DataArray(self.data[key])

    def __dask_graph__(self):
        return self.data.__dask_graph__() if isinstance(self.data, da.Array) else None


def names(columns):
    return list("abcdefgh"[:columns])


def frame(array):
    """Return a data frame of rows, a Series of numbers: with an index that means nothing here."""
    index = np.arange(len(array))[::-1]
    if array.ndim == 1:
        return pd.Series(array, index=index)
    return pd.DataFrame(array, columns=names(array.shape[1]), index=index)


def nullable(array):
    return frame(array).astype("Float64" if array.dtype.kind == "f" else "Int64")


def second_device(array):
    return array_api_strict.asarray(np.ascontiguousarray(array), device=SECOND)


def chunked(array, rows=10):
    return da.from_array(array, chunks=(rows, *array.shape[1:]))


def unknown(array):
    """Return a Dask array that does not know how many rows it has."""
    return chunked(array)[da.from_array(np.ones(len(array), bool), chunks=10)]


def dask_frame(array):
    sorted_ = frame(array).sort_index()
    sorted_[:] = array
    return dd.from_pandas(sorted_, npartitions=3)


def to_host(array):
    """Return a NumPy array of what a model has predicted."""
    if hasattr(array, "compute"):
        array = array.compute()
    if isinstance(array, array_api_strict._array_object.Array):
        array = array_api_strict.asarray(array, device=array_api_strict.Device("CPU_DEVICE"))
        return np.from_dlpack(array)
    return np.asarray(array)


@contextmanager
def nothing_left(client):
    """Check that what is done on a cluster leaves no key there and no task."""
    with client.as_current():
        yield
    deadline = time.monotonic() + 10
    while tasks := client.run_on_scheduler(keys):
        assert time.monotonic() < deadline, tasks
        time.sleep(0.01)


def keys(dask_scheduler):
    return list(map(str, dask_scheduler.tasks))[:5]
