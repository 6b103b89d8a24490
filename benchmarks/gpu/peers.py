"""The same fits by scikit-learn on the same card, through its array API, and one evaluation by two products."""

from collections.abc import Callable, Iterator
from statistics import median
from typing import Any

import numpy as np

from benchmarks.gpu.clock import Clock, Record, cases, seconds_of
from benchmarks.gpu.tables import fit_times, gradient_size, names, record, table


class Library:
    """CuPy: arrays as they are. torch says how it differs."""

    name = "CuPy"

    def own(self, array: Any) -> Any:
        """Return the array in this library, without a copy."""
        return array

    def host(self, array: Any) -> Any:
        """Return a NumPy array."""
        import cupy

        return cupy.asnumpy(array)

    def evaluation(self, X: Any, y: Any) -> Callable[[], Any]:
        """Return a function that computes the logistic loss and its gradient once, and brings both to the host."""
        import cupy

        ones, w = cupy.ones(X.shape[0], dtype=X.dtype), cupy.full(X.shape[1], 0.01, dtype=X.dtype)

        def evaluate() -> Any:
            z = X @ w
            # The sum is a product with ones: CuPy's own takes 8 s to compile.
            value = ones @ (cupy.maximum(z, 0) - y * z + cupy.log1p(cupy.exp(-cupy.abs(z))))
            return cupy.asnumpy(value), cupy.asnumpy(X.T @ (1 / (1 + cupy.exp(-z)) - y))

        return evaluate


class Torch(Library):
    """torch's tensors on the same memory."""

    name = "torch"

    def own(self, array: Any) -> Any:
        """Return the array in this library, without a copy."""
        import torch

        return torch.from_dlpack(array)

    def host(self, array: Any) -> Any:
        """Return a NumPy array."""
        return array.detach().cpu().numpy() if hasattr(array, "detach") else np.asarray(array)

    def evaluation(self, X: Any, y: Any) -> Callable[[], Any]:
        """Return a function that computes the logistic loss and its gradient once, and brings both to the host."""
        import torch

        w = torch.full((X.shape[1],), 0.01, dtype=X.dtype, device=X.device)

        def evaluate() -> Any:
            z = X @ w
            value = (torch.nn.functional.softplus(z) - y * z).sum()
            return value.item(), (X.T @ (torch.sigmoid(z) - y)).cpu()

        return evaluate


def measure(library: Library, clock: Clock, quick: bool) -> Iterator[Record]:
    """Yield a record for each table and estimator. SVDs of large tables come last: they may outlast the time."""
    todo: list[Any] = []
    for name in names(quick):
        todo += [(evaluation, {"name": name}), (fit, {"name": name, "estimator": "LogisticRegression"})]
    todo += [(fit, {"name": name, "estimator": "Ridge"}) for name in names(quick)]
    yield from cases(clock, [(function, words | {"library": library}) for function, words in todo])


def evaluation(library: Library, name: str) -> Iterator[Record]:
    """Yield the record of one evaluation by two products."""
    rows = table(name)
    evaluate = library.evaluation(library.own(rows.X), library.own(rows.labels.astype(rows.X.dtype)))
    n, p = rows.X.shape
    taken = median(seconds_of(evaluate, 7)) * 1e3
    common = {"benchmark": "evaluation", "who": library.name, "table": name, "n": n, "p": p}
    yield common | {"loss": "logistic", "ms": taken}


def fit(library: Library, name: str, estimator: str) -> Iterator[Record]:
    """Yield the record of one fit by scikit-learn."""
    import sklearn
    from sklearn.linear_model import LogisticRegression, Ridge

    def new() -> Any:
        return Ridge(solver="svd") if estimator == "Ridge" else LogisticRegression(solver="lbfgs", max_iter=1000)

    rows = table(name)
    X, y = library.own(rows.X), library.own(rows.y(estimator))
    with sklearn.config_context(array_api_dispatch=True):
        model, first, second = fit_times(lambda: new().fit(X, y))
    coef, intercept = (library.host(array) for array in (model.coef_, model.intercept_))
    steps = getattr(model, "n_iter_", None)
    yield record(
        f"scikit-learn, {library.name}",
        name,
        rows,
        estimator,
        first,
        second,
        gradient=gradient_size(estimator, rows, coef, intercept),
        steps=None if steps is None else int(np.max(library.host(steps))),
    )
