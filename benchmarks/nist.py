"""How many digits least squares keeps on NIST's reference sets, beside others. `python -m benchmarks.nist`.

The sets and their 18-digit values are in `tests/data/nist`. Everyone gets the same float64 columns; the digits are the
smallest log relative error of the coefficients, at most 15.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.harness import environment, save
from dist_dot import Objective, lay_out, losses, minimise
from dist_dot.solvers import Exact
from dist_dot.training.fit import Fit
from dist_dot.typing import Array

FOLDER = Path(__file__).parent.parent / "tests" / "data" / "nist"
CUTS = (1, 3, 10)
DEGREES = {"pontius": 2, "filip": 10} | {f"wampler{number}": 5 for number in range(1, 6)}


@dataclass(frozen=True)
class Problem:
    """A reference set: X (n, p) without a column of ones, y (n,), and what is certified, the intercept first."""

    name: str
    X: Array
    y: Array
    fit_intercept: bool
    coefficients: Array
    standard_errors: Array
    deviation: float

    @property
    def design(self) -> Array:
        """X with the ones that libraries without an intercept need."""
        return np.column_stack([np.ones(len(self.y)), self.X]) if self.fit_intercept else self.X


def problems() -> list[Problem]:
    """Return the eleven sets."""
    found = []
    for name, certified in json.loads((FOLDER / "certified.json").read_text()).items():
        y, *columns = np.loadtxt(FOLDER / f"{name}.csv", delimiter=",", skiprows=1, ndmin=2).T
        X = np.column_stack(columns)
        if name in DEGREES:
            X = X ** np.arange(1, DEGREES[name] + 1)
        values = [np.array(certified[key], float) for key in ("coefficients", "standard_errors")]
        deviation = float(certified["residual_standard_deviation"])
        found.append(Problem(name, X, y, "no intercept" not in certified["model"], *values, deviation))
    return found


def digits(found: Any, certified: Any) -> float:
    """Return the smallest log relative error, of the number itself where the certified one is 0, from 0 to 15."""
    found, certified = np.asarray(found, float), np.asarray(certified, float)
    error = np.abs(found - certified) / np.where(certified == 0, 1.0, np.abs(certified))
    return float(-np.log10(np.clip(error, 1e-15, 1.0).max())) + 0.0  # not -0


def ours(problem: Problem, method: str, blocks: int) -> Fit:
    """Return the exact fit to so many blocks."""
    rows = lay_out(problem.X, problem.y, block_rows=-(-len(problem.y) // blocks))
    return minimise(Objective(rows, losses.Squared(), 0.0, problem.fit_intercept), Exact(method))


def coefficients(fit: Fit) -> Array:
    """Return them as NIST prints them, the intercept first."""
    intercept = [fit.intercept] if fit.state.summary.fit_intercept else []
    return np.append(intercept, fit.w)


def _numpy(problem: Problem) -> Array:
    return np.linalg.lstsq(problem.design, problem.y, rcond=None)[0]


def _scikit_learn(problem: Problem) -> Array:
    from sklearn.linear_model import LinearRegression

    model = LinearRegression(fit_intercept=problem.fit_intercept).fit(problem.X, problem.y)
    return np.append([model.intercept_] if problem.fit_intercept else [], model.coef_)


def _statsmodels(problem: Problem, method: str) -> Array:
    from statsmodels.api import OLS

    return np.asarray(OLS(problem.y, problem.design).fit(method=method).params)


PEERS: dict[str, Callable[[Problem], Array]] = {
    "NumPy lstsq": _numpy,
    "scikit-learn": _scikit_learn,
    "statsmodels pinv": lambda problem: _statsmodels(problem, "pinv"),
    "statsmodels qr": lambda problem: _statsmodels(problem, "qr"),
}


def measure(problem: Problem) -> dict[str, Any]:
    """Return the record of one set: the digits of everyone, ours as the fewest over the cuts."""
    record: dict[str, Any] = {"benchmark": "nist", "name": problem.name, "n": len(problem.y), "p": problem.X.shape[1]}
    certified = problem.coefficients
    record["digits"] = {name: digits(peer(problem), certified) for name, peer in PEERS.items()}
    for method in ("auto", "qr"):
        fits = [ours(problem, method, blocks) for blocks in CUTS]
        record["digits"][f"dist_dot {method}"] = min(digits(coefficients(fit), certified) for fit in fits)
        record[f"rounds {method}"] = max(fit.rounds for fit in fits)
    record["condition"] = fits[0].state.condition
    return record


def main() -> None:
    """Measure and write the records."""
    records = [measure(problem) for problem in problems()]
    for record in records:
        print(record["name"], {name: round(value, 1) for name, value in record["digits"].items()})
    print(save("nist", [environment() | record for record in records]))


if __name__ == "__main__":
    main()
