"""dist_dot trains linear models, data-parallel, on a Dask cluster.

The names below are all there is to import; each is loaded when it is first used, so that `import dist_dot` is quick.
The exceptions that are not among them are in `dist_dot.errors`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dist_dot import errors
from dist_dot.errors import DataError, SolverError

if TYPE_CHECKING:
    from dist_dot import losses, solvers
    from dist_dot.linear_model import (
        GammaRegressor,
        LinearRegression,
        LogisticRegression,
        LogisticRegressionCV,
        PoissonRegressor,
        Ridge,
        RidgeCV,
    )
    from dist_dot.objective import Objective
    from dist_dot.products import cosine_similarity, dot, gram, inner, top_k
    from dist_dot.rounds.layout import lay_out
    from dist_dot.training.checkpoint import Checkpoints
    from dist_dot.training.early_stopping import EarlyStopping
    from dist_dot.training.fit import Fit, Progress, Status
    from dist_dot.training.loop import minimise

__version__ = "0.1.0"

_LAZY = {
    "Checkpoints": "dist_dot.training.checkpoint",
    "EarlyStopping": "dist_dot.training.early_stopping",
    "Fit": "dist_dot.training.fit",
    "GammaRegressor": "dist_dot.linear_model",
    "LinearRegression": "dist_dot.linear_model",
    "LogisticRegression": "dist_dot.linear_model",
    "LogisticRegressionCV": "dist_dot.linear_model",
    "Objective": "dist_dot.objective",
    "PoissonRegressor": "dist_dot.linear_model",
    "Progress": "dist_dot.training.fit",
    "Ridge": "dist_dot.linear_model",
    "RidgeCV": "dist_dot.linear_model",
    "Status": "dist_dot.training.fit",
    "cosine_similarity": "dist_dot.products",
    "dot": "dist_dot.products",
    "gram": "dist_dot.products",
    "inner": "dist_dot.products",
    "lay_out": "dist_dot.rounds.layout",
    "minimise": "dist_dot.training.loop",
    "top_k": "dist_dot.products",
}

__all__ = [
    "Checkpoints",
    "DataError",
    "EarlyStopping",
    "Fit",
    "GammaRegressor",
    "LinearRegression",
    "LogisticRegression",
    "LogisticRegressionCV",
    "Objective",
    "PoissonRegressor",
    "Progress",
    "Ridge",
    "RidgeCV",
    "SolverError",
    "Status",
    "cosine_similarity",
    "dot",
    "errors",
    "gram",
    "inner",
    "lay_out",
    "losses",
    "minimise",
    "solvers",
    "top_k",
]


def __getattr__(name: str) -> Any:
    if name in ("losses", "solvers"):
        return import_module(f"dist_dot.{name}")
    if name in _LAZY:
        return getattr(import_module(_LAZY[name]), name)
    raise AttributeError(f"module 'dist_dot' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
