"""Fits of the rows of a case, and of the same rows in other words."""

import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import array_api_strict
import dask.array as da
import numpy as np

from dist_dot import (
    GammaRegressor,
    LinearRegression,
    LogisticRegression,
    LogisticRegressionCV,
    Objective,
    PoissonRegressor,
    Ridge,
    RidgeCV,
    lay_out,
    losses,
    minimise,
)
from dist_dot.solvers import LBFGS, Exact, GradientDescent, Newton
from fuzz.case import Case, Rows
from fuzz.reference import Point

TOL = 1e-12
BLOCKS = 30  # at most: more of them are only slow
SOLVERS: dict[str, Any] = {
    "auto": "auto",
    "gram": Exact("gram"),
    "qr": Exact("qr"),
    "newton": Newton("cholesky"),
    "cg": Newton("cg"),
    "lbfgs": LBFGS(),
    "gradient": GradientDescent(),
}
STEPS = {"lbfgs": 2000, "gradient": 300, "auto": 2000}
LOSSES = {
    "squared": losses.Squared(),
    "logistic": losses.Logistic(),
    "softmax": losses.Softmax(3),
    "poisson": losses.Poisson(),
    "gamma": losses.Gamma(),
    "huber": losses.Huber(1.0),
}


@dataclass
class Outcome:
    """What a fit has come to: the point, the alpha that it is the minimum for, how it ended, a score, and a note."""

    point: Point
    alpha: float
    status: str
    score: float | None = None
    warned: tuple[str, ...] = ()
    note: str = ""


def solver_of(case: Case) -> str:
    """Return the word of a solver that this family has: Exact is for the squared loss, and many fits are by L-BFGS."""
    if case.route == "cv" and case.family in ("logistic", "softmax"):
        return "lbfgs"
    return "newton" if case.family != "squared" and case.solver in ("gram", "qr") else case.solver


def fit(case: Case, rows: Rows) -> Outcome:
    """Fit these rows by the route and the solver of the case."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        word = solver_of(case)
        if case.route == "objective" or case.family == "huber":
            found = _minimised(case, rows, word)
        elif case.route == "cv" and case.family in ("squared", "logistic", "softmax") and rows.alpha > 0 and case.n > 3:
            found = _cross_validated(case, rows)
        else:
            found = _estimated(rows, SOLVERS[word], STEPS.get(word, 200))
    words = [str(each.message) for each in caught if issubclass(each.category, RuntimeWarning)]
    return replace(found, warned=tuple(words))


def _minimised(case: Case, rows: Rows, word: str) -> Outcome:
    size = case.block_rows if case.block_rows == "auto" else max(case.block_rows, rows.X.shape[0] // BLOCKS)
    blocks = lay_out(rows.X, rows.y, rows.s, block_rows=size)
    objective = Objective(blocks, LOSSES[rows.family], rows.alpha, rows.intercept)
    found = minimise(objective, SOLVERS[word], tol=TOL, max_iter=STEPS.get(word, 200))
    return Outcome(_point(found.w, found.intercept, rows), rows.alpha, found.status.name, note=found.note)


def _point(W: Any, b: Any, rows: Rows) -> Point:
    W = np.asarray(W)
    return Point(W.reshape(rows.X.shape[1], -1), np.atleast_1d(np.asarray(b, float)))


def _estimated(rows: Rows, solver: Any, steps: int) -> Outcome:
    options: dict[str, Any] = {"fit_intercept": rows.intercept, "solver": solver, "tol": TOL, "max_iter": steps}
    family, alpha = rows.family, rows.alpha
    if family == "squared":
        model = Ridge(alpha, **options) if alpha else LinearRegression(**options)
    elif family in ("logistic", "softmax"):
        model = LogisticRegression(1 / alpha if alpha else np.inf, **options)
    else:
        total = float(rows.X.shape[0] if rows.s is None else np.sum(_host(rows.s).astype(np.float64)))
        model = {"poisson": PoissonRegressor, "gamma": GammaRegressor}[family](alpha=alpha / total, **options)
    model.fit(rows.X, rows.y, rows.s)
    point = _point(np.atleast_2d(model.coef_).T, model.intercept_, rows)
    return Outcome(point, alpha, model.fit_.status.name, note=model.fit_.note)


def _cross_validated(case: Case, rows: Rows) -> Outcome:
    alphas = rows.alpha * np.array([1.0, 16.0, 256.0])
    if rows.family == "squared":
        cv = None if case.seed % 2 else np.arange(rows.X.shape[0]) % 3
        model = RidgeCV(alphas, fit_intercept=rows.intercept, cv=cv).fit(rows.X, rows.y, rows.s)
        alpha, score, note = model.alpha_, model.best_score_, model.fit_.note
    else:
        model = LogisticRegressionCV(1 / alphas, cv=3, fit_intercept=rows.intercept, tol=TOL, scoring="neg_log_loss")
        model.fit(rows.X, rows.y, rows.s)
        alpha, score, note = 1 / float(np.ravel(model.C_)[0]), model.scores_.mean(axis=1).max(), ""
    point = _point(np.atleast_2d(model.coef_).T, model.intercept_, rows)
    return Outcome(point, alpha, model.fit_.status.name, score, note=note)


def _host(s: Any) -> np.ndarray:
    return np.asarray(s.compute() if hasattr(s, "compute") else s)


Back = Callable[[Outcome], Outcome]


@dataclass
class Variant:
    """The same fit in other words: its case and rows, the way back, and those rows as NumPy arrays.

    bits says that the fit must be the same one to the last bit.
    """

    case: Case
    rows: Rows
    back: Back
    plain: Rows | None = None
    bits: bool = False


def variant(case: Case, rows: Rows, client: Any) -> Variant | None:
    """Return the case in other words; None where it has none."""
    random = np.random.default_rng(case.seed + 1)
    return VARIANTS[case.variant](case, rows, random, client)


def _same(found: Outcome) -> Outcome:
    return found


def _moved(W: float = 1.0, b: float = 1.0, add: float = 0.0, alpha: float = 1.0) -> Back:
    return lambda found: replace(
        found, point=Point(found.point.W * W, found.point.b * b + add), alpha=found.alpha * alpha
    )


def _unit_x(case: Case, rows: Rows, random: Any, client: Any) -> Variant | None:
    if rows.X.dtype.kind != "f":
        return None
    unit = 2.0 ** int(random.integers(-40, 40))
    X = rows.X * rows.X.dtype.type(unit)
    if not np.all(np.isfinite(X)) or np.any(X / rows.X.dtype.type(unit) != rows.X):
        return None
    there = replace(rows, X=X, alpha=rows.alpha * unit**2)
    return Variant(case, there, _moved(W=unit, alpha=unit**-2))


def _unit_y(case: Case, rows: Rows, random: Any, client: Any) -> Variant | None:
    unit = 2.0 ** int(random.integers(-40, 40))
    there = replace(rows, y=rows.y * rows.y.dtype.type(unit))
    if not np.all(np.isfinite(there.y)) or np.any(there.y / rows.y.dtype.type(unit) != rows.y):
        return None
    if rows.family == "squared":
        back = _moved(W=1 / unit, b=1 / unit)
        scored = lambda found: replace(back(found), score=None)  # noqa: E731
        return Variant(case, there, scored)
    if not rows.intercept or rows.family not in ("poisson", "gamma"):
        return None
    there.alpha = rows.alpha * (unit if rows.family == "poisson" else 1.0)
    return Variant(case, there, _moved(add=-np.log(unit), alpha=rows.alpha / there.alpha if rows.alpha else 1.0))


def _columns(case: Case, rows: Rows, random: Any, client: Any) -> Variant | None:
    order = random.permutation(rows.X.shape[1])
    back = np.argsort(order)
    there = replace(rows, X=rows.X[:, order])
    return Variant(case, there, lambda found: replace(found, point=Point(found.point.W[back], found.point.b)))


def _rows(case: Case, rows: Rows, random: Any, client: Any) -> Variant | None:
    if case.route == "cv":
        return None
    order = random.permutation(rows.X.shape[0])
    s = None if rows.s is None else rows.s[order]
    return Variant(case, replace(rows, X=rows.X[order], y=rows.y[order], s=s), _same)


def _blocks(case: Case, rows: Rows, random: Any, client: Any) -> Variant | None:
    other = replace(case, route="objective", block_rows=int(random.integers(1, 50)))
    return None if case.route == "cv" else Variant(other, rows, _same)


def _dask(case: Case, rows: Rows, random: Any, client: Any) -> Variant | None:
    n, p = rows.X.shape
    rows_at, columns_at = int(random.integers(1, n + 1)), max(1, int(random.integers(1, p + 2)))
    X = da.from_array(np.ascontiguousarray(rows.X), chunks=(rows_at, columns_at))
    chunks = (int(random.integers(1, n + 1)), *rows.y.shape[1:])
    s = None if rows.s is None else da.from_array(rows.s, chunks=rows_at)
    return Variant(case, replace(rows, X=X, y=da.from_array(rows.y, chunks=chunks), s=s), _same, rows, bits=True)


def _cluster(case: Case, rows: Rows, random: Any, client: Any) -> Variant | None:
    return _dask(case, rows, random, client)


def _strict(case: Case, rows: Rows, random: Any, client: Any) -> Variant | None:
    X, y = (array_api_strict.asarray(np.ascontiguousarray(values)) for values in (rows.X, rows.y))
    s = None if rows.s is None else array_api_strict.asarray(rows.s)
    return Variant(case, replace(rows, X=X, y=y, s=s), _same, rows)


def _solver(case: Case, rows: Rows, random: Any, client: Any) -> Variant | None:
    words = ("gram", "qr", "newton", "cg", "lbfgs") if case.family == "squared" else ("newton", "cg", "lbfgs")
    other = replace(case, solver=str(random.choice(words)))
    return None if case.route == "cv" else Variant(other, rows, _same)


def _without(case: Case, rows: Rows, random: Any, client: Any) -> Variant | None:
    """Rows of weight 0 at the end: copies of others whose X is another."""
    if case.route == "cv":
        return None
    n = rows.X.shape[0]
    more = random.integers(0, n, 5)
    s = np.ones(n, rows.y.dtype) if rows.s is None else rows.s
    there = replace(
        rows,
        X=np.concatenate([rows.X, rows.X[more][:, ::-1]]),
        y=np.concatenate([rows.y, rows.y[more]]),
        s=np.append(s, np.zeros(5, s.dtype)),
    )
    return Variant(case, there, _same)


def _twice(case: Case, rows: Rows, random: Any, client: Any) -> Variant | None:
    """Each row twice, with half of its weight."""
    if case.route == "cv":
        return None
    s = np.ones(rows.X.shape[0], rows.y.dtype) if rows.s is None else rows.s
    there = replace(rows, X=np.repeat(rows.X, 2, 0), y=np.repeat(rows.y, 2, 0), s=np.repeat(s / 2, 2))
    return Variant(case, there, _same)


VARIANTS: dict[str, Callable[..., Variant | None]] = {
    "none": lambda case, rows, random, client: None,
    "unit_x": _unit_x,
    "unit_y": _unit_y,
    "columns": _columns,
    "rows": _rows,
    "blocks": _blocks,
    "dask": _dask,
    "strict": _strict,
    "solver": _solver,
    "without": _without,
    "twice": _twice,
    "cluster": _cluster,
}
