"""Exact least squares on the flights, beside others on the same rows and cores. `python -m benchmarks.exact`.

Blocks lie in the memory of the workers, the matrix of the others in that of this process; both have as many threads.
What is compared is timed in turns.
"""

import argparse
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Any

import dist_dot_cluster
import numpy as np
from sklearn.linear_model import Ridge as Reference
from sklearn.metrics import r2_score

from benchmarks import flights
from benchmarks.harness import environment, save
from dist_dot import LinearRegression, Objective, Ridge, RidgeCV, losses, minimise, solvers
from dist_dot.rounds.layout import lay_out_rows
from dist_dot.training.cross_validation import CrossValidation
from dist_dot.typing import Array

ALPHAS = tuple(np.logspace(-1, 4, 50).tolist())
FOLDS = 5


def seconds(tasks: Mapping[str, Callable[[], Any]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each task, done in turns, after a turn that does not count."""
    times: dict[str, list[float]] = {name: [] for name in tasks}
    for _ in range(repeats + 1):
        for name, task in tasks.items():
            begin = perf_counter()
            task()
            times[name].append(perf_counter() - begin)
    return {name: float(np.median(taken[1:])) for name, taken in times.items()}


def ridge(client: Any, make: flights.BlockMaker, X: Array, y: Array, repeats: int) -> dict[str, Any]:
    """Return the record of one ridge fit with alpha = 1: seconds, and F at the end."""
    blocks = lay_out_rows(make, make.cuts, client)
    objective = Objective(blocks, losses.Squared(), 1.0)
    reference = Reference(1.0, solver="cholesky")
    fits = {
        "dist_dot exact, blocks": lambda: minimise(objective, solvers.Exact("gram")),
        "dist_dot Ridge, NumPy rows": lambda: Ridge(1.0).fit(X, y),
        "scikit-learn cholesky": lambda: reference.fit(X, y),
    }
    values = {}
    for name, fit in fits.items():
        done: Any = fit()
        at = done.parameters if name.endswith("blocks") else np.append(done.coef_, done.intercept_)
        values[name] = objective.value_and_gradient(at)[0]
    descent = minimise(objective, solvers.GradientDescent(), max_iter=5000)
    return {
        "benchmark": "ridge",
        "seconds": seconds(fits, repeats),
        "objective": values,
        "descent": {"seconds": descent.history[-1].seconds, "rounds": descent.rounds, "objective": descent.value},
    }


def path(client: Any, make: flights.BlockMaker, X: Array, y: Array, repeats: int) -> dict[str, Any]:
    """Return the record of RidgeCV beside one ridge fit, and of its scores beside scikit-learn's."""
    folds = flights.WithFolds(make, FOLDS)
    blocks, with_folds = lay_out_rows(make, make.cuts, client), folds.blocks(client)
    objective = Objective(blocks, losses.Squared(), 1.0)
    search = CrossValidation(ALPHAS, FOLDS, True)
    taken = seconds(
        {
            "Ridge, blocks": lambda: minimise(objective, solvers.Exact("gram")),
            "RidgeCV, blocks": lambda: with_folds.run(search, lambda progress: False),
            "Ridge, NumPy rows": lambda: Ridge(1.0).fit(X, y),
            "RidgeCV, NumPy rows": lambda: RidgeCV(ALPHAS, cv=FOLDS).fit(X, y),
        },
        repeats,
    )
    found = with_folds.run(search, lambda progress: False).path
    scores = np.array([_scores(X, y, folds.labels() == fold) for fold in range(FOLDS)]).T
    return {
        "benchmark": "path",
        "alphas": len(ALPHAS),
        "folds": FOLDS,
        "seconds": taken,
        "alpha": found.best,
        "scikit-learn alpha": ALPHAS[int(np.argmax(scores.mean(axis=1)))],
        "difference": float(np.abs(scores - found.scores).max()),
    }


def _scores(X: Array, y: Array, test: Array) -> Any:
    """Return scikit-learn's R2 (alphas,) of one fold: a target for each alpha, so that one Gram matrix does for all."""
    targets = np.repeat(y[:, None], len(ALPHAS), axis=1)
    model = Reference(np.array(ALPHAS), solver="cholesky").fit(X[~test], targets[~test])
    return r2_score(targets[test], model.predict(X[test]), multioutput="raw_values")


def inference(make: flights.BlockMaker, X: Array, y: Array) -> dict[str, Any]:
    """Return the record of the standard errors beside statsmodels', and of the time that both take."""
    from statsmodels.api import OLS

    X = X[:, flights.full_rank(make)]
    begin = perf_counter()
    ours = LinearRegression().fit(X, y).fit_.inference()
    middle = perf_counter()
    theirs = OLS(y, np.column_stack([X, np.ones(len(y))])).fit(method="qr")
    end = perf_counter()
    return {
        "benchmark": "inference",
        "p": X.shape[1],
        "seconds": {"dist_dot": middle - begin, "statsmodels": end - middle},
        "standard errors": float(np.abs(ours.standard_error / theirs.bse - 1.0).max()),
        "coefficients": float(np.abs(ours.estimate / theirs.params - 1.0).max()),
    }


def main() -> None:
    """Measure on a local cluster and write the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    make = flights.maker()
    X, y = flights.matrix(make)
    here = environment() | {"workers": options.workers, "threads": 1, "n": len(y), "p": X.shape[1]}
    with dist_dot_cluster.open("local", options.workers) as client:
        records = [measure(client, make, X, y, options.repeats) for measure in (ridge, path)]
    records.append(inference(make, X, y))
    for record in records:
        print(record)
    print(save("exact", [here | record for record in records]))


if __name__ == "__main__":
    main()
