"""A case: the choices that make up a fit, and the rows that follow from them."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np

FAMILIES = ("squared", "logistic", "softmax", "poisson", "gamma", "huber")
# What each field of a case is drawn from, the plainest first. What stands twice is drawn twice as often.
SPACE: dict[str, tuple[Any, ...]] = {
    "family": ("squared", *FAMILIES),
    "n": (60, 200, 60, 200, 20, 700, 7, 3, 2, 1),
    "p": (3, 2, 5, 8, 1, 3, 5, 8, 20, 60, 0),
    "columns": ("plain", "plain", "correlated", "categories", "copy", "double", "sum", "near", "nearer", "nearest"),
    "constant": ("none", "none", "none", "ones", "zeros", "tenth"),
    "unit_x": (0, 0, 0, 3, -3, 6, -6, 9, -9, 12, -12),
    "spread": (0, 0, 0, 3, 6, 12),
    "offset_x": (0, 0, 1, 2, 4, 6, 8),
    "offset_all": (False, True),
    "unit_y": (0, 0, 3, -3, 6, -6, 9, -9, 12, -12),
    "offset_y": (None, None, 0, 2, 4, 6, 8),
    "noise": (1.0, 1.0, 0.1, 0.0),
    "targets": (1, 1, 1, 2),
    "weights": ("none", "none", "uniform", "zeros", "whole", "small", "large"),
    "penalty": ("none", "none", "one", -12, -8, -4, 0, 4),
    "intercept": (True, True, False),
    "dtype": ("float64", "float64", "float64", "float32", "int32", "uint8", "fortran", "strided"),
    "solver": ("auto", "auto", "gram", "qr", "newton", "cg", "lbfgs", "gradient"),
    "route": ("estimator", "objective", "estimator", "cv"),
    "variant": (
        *("none", "unit_x", "unit_y", "columns", "rows", "blocks", "dask", "strict", "solver"),
        *("without", "twice", "cluster"),
    ),
    "block_rows": ("auto", 7, 32, 64, 1000),
}
# What --ordinary draws from: numbers as they are in practice.
ORDINARY = SPACE | {
    "n": (60, 200, 20, 700, 7, 3, 2, 1),
    "p": (3, 2, 5, 8, 1, 20),
    "columns": ("plain", "correlated", "categories", "copy", "double", "sum", "near"),
    "unit_x": (0, 3, -3, 6, -6),
    "spread": (0, 0, 3),
    "offset_x": (0, 0, 1, 2, 4),
    "unit_y": (0, 0, 3, -3, 6, -6),
    "offset_y": (None, 0, 2, 4),
    "noise": (1.0, 0.1),
    "penalty": ("none", "one", -4, 0, 4),
}


@dataclass(frozen=True)
class Case:
    """A choice from each of SPACE, and the seed of all that is drawn after."""

    family: str
    n: int
    p: int
    columns: str
    constant: str
    unit_x: int
    spread: int
    offset_x: int
    offset_all: bool
    unit_y: int
    offset_y: int | None
    noise: float
    targets: int
    weights: str
    penalty: Any
    intercept: bool
    dtype: str
    solver: str
    route: str
    variant: str
    block_rows: Any
    seed: int


def drawn(seed: int, number: int, ordinary: bool = False) -> Case:
    """Return a case. One in 200 has more columns than 1,000, where other solvers are chosen."""
    random = np.random.default_rng([seed, number])
    space = ORDINARY if ordinary else SPACE
    fields = {name: options[random.integers(len(options))] for name, options in space.items()}
    case = Case(**fields, seed=int(random.integers(2**31)))
    if random.random() < 0.005 and not ordinary:
        case = replace(case, family="squared", p=1100, n=min(case.n, 60), targets=1)
    return case


@dataclass
class Rows:
    """What a fit is given, and what it minimises: alpha stands beside a sum of losses over rows."""

    family: str
    X: Any
    y: Any
    s: Any
    alpha: float
    intercept: bool
    nulls: np.ndarray
    """(q, p): what w may be moved along without a change of z, in the units of X, exactly so."""

    @property
    def classes(self) -> int:
        return 3 if self.family == "softmax" else 1


def rows_of(case: Case) -> Rows | None:
    """Return the rows of a case; None where they are none that a model of this family may be fitted to."""
    random = np.random.default_rng(case.seed)
    X, nulls, units = _columns(case, random)
    base = random.standard_normal(case.p) / np.sqrt(max(case.p, 1))
    spread = X.std(axis=0)
    z = (X - X.mean(axis=0)) / np.where(spread > 0, spread, 1.0) @ base
    offset = 10.0**case.offset_x if case.offset_x else 0.0
    where = np.ones(case.p, bool) if case.offset_all else random.random(case.p) < 0.5
    X = (X + offset * where * np.where(spread > 0, spread, 0.0)) * units
    if offset:
        nulls = nulls[:0]  # sums are rounded
    X = _constant(case, random, X, z)
    y = _target(case, random, z)
    dtype = "float32" if case.dtype == "float32" else "float64"
    with np.errstate(over="ignore"):
        X, y, s = X.astype(dtype), y.astype(dtype), _weights(case, random)
    if case.dtype in ("int32", "uint8"):
        top = np.abs(X).max(initial=0) or 1.0
        X, nulls = np.round(X / top * (200 if case.dtype == "uint8" else 1e9)), nulls[:0]
        X = np.abs(X).astype("uint8") if case.dtype == "uint8" else X.astype("int32")
    if nulls.size and np.any(X.astype("longdouble") @ nulls.T.astype("longdouble")):
        nulls = nulls[:0]
    s = None if s is None else s.astype(dtype)
    counted = y if s is None else y[s > 0]
    if len(counted) == 0 or not np.all(np.isfinite(X)) or not np.all(np.isfinite(y)):
        return None
    if case.family in ("logistic", "softmax"):
        if len(np.unique(counted)) < (3 if case.family == "softmax" else 2):
            return None
    if case.family == "gamma" and not y.min() > 0:
        return None
    if case.dtype == "fortran":
        X = np.asfortranarray(X)
    if case.dtype == "strided":
        X = np.repeat(X, 2, axis=1)[:, ::2]
    return Rows(case.family, X, y, s, _alpha(case, X, s), case.intercept, nulls)


def _columns(case: Case, random: Any) -> tuple[Any, Any, Any]:
    """Return columns of deviations about 1, what they are dependent by, in other units, and those units."""
    n, p = case.n, case.p
    X = random.standard_normal((n, p))
    units = 10.0 ** (case.unit_x + case.spread * random.uniform(-1, 1, p))
    nulls = np.zeros((0, p))
    if case.columns == "correlated":
        X = X @ (np.eye(p) + random.standard_normal((p, p)) / np.sqrt(max(p, 1)))
    elif case.columns == "categories":
        levels = max(p - 1, 1)
        share = 1.0 / np.arange(1, levels + 1) ** 1.5
        X[:, :levels] = np.eye(levels)[random.choice(levels, n, p=share / share.sum())][:, :p]
    elif case.columns in ("copy", "double") and p > 1:
        factor = 1.0 if case.columns == "copy" else 2.0 ** random.integers(-30, 30)
        X[:, -1] = X[:, 0]
        units[-1] = units[0] * factor
        nulls = np.zeros((1, p))
        nulls[0, [0, -1]] = factor, -1.0
    elif case.columns == "sum" and p > 2:
        X[:, -1] = X[:, 0] + X[:, 1]
    elif case.columns.startswith("near") and p > 1:
        size = {"near": 1e-3, "nearer": 1e-6, "nearest": 1e-9}[case.columns]
        X[:, -1] = X[:, 0] + size * X[:, -1]
    return X, nulls, units


def _constant(case: Case, random: Any, X: Any, z: Any) -> Any:
    """Put a constant in place of the middle column."""
    if case.constant != "none" and case.p > 2:
        X = X.copy()
        X[:, case.p // 2] = {"ones": 1.0, "zeros": 0.0, "tenth": 0.1}[case.constant] * 10.0**case.unit_x
    return X


def _target(case: Case, random: Any, z: Any) -> Any:
    n, unit = case.n, 10.0**case.unit_y
    z = z + random.normal()
    if case.family == "logistic":
        return (random.random(n) < 1 / (1 + np.exp(-z))).astype(float)
    if case.family == "softmax":
        return np.argmax(np.column_stack([z, -z, 0 * z]) + random.gumbel(size=(n, 3)), axis=1).astype(float)
    if case.family == "poisson":
        return random.poisson(np.exp(np.clip(z, -10, 6))) * unit
    if case.family == "gamma":
        return np.exp(np.clip(z, -20, 20)) * (random.gamma(2.0, size=n) if case.noise else 1.0) * unit
    offset = 0.0 if case.offset_y is None else 10.0**case.offset_y
    y = (z + case.noise * random.standard_normal(n) + offset) * (unit if case.family == "squared" else 1.0)
    if case.targets == 2 and case.family == "squared":
        return np.column_stack([y, random.standard_normal(n)])
    return y


def _weights(case: Case, random: Any) -> Any:
    s = random.uniform(0.1, 2.0, case.n)
    return {
        "none": lambda: None,
        "uniform": lambda: s,
        "zeros": lambda: s * (random.random(case.n) < 0.6),
        "whole": lambda: random.integers(0, 4, case.n).astype(float),
        "small": lambda: s * 1e-9,
        "large": lambda: s * 1e9,
    }[case.weights]()


def _alpha(case: Case, X: Any, s: Any) -> float:
    """Return 0, 1, or a power of ten beside the curvature of the median column."""
    if case.penalty == "none" or case.p == 0:
        return 0.0
    if case.penalty == "one":
        return 1.0
    s = np.ones(case.n) if s is None else s
    columns = X.astype(float)
    sizes = s @ (columns - np.average(columns, axis=0, weights=s)) ** 2
    return float(10.0**case.penalty * (np.median(sizes) or 1.0))
