"""Generalised linear models with the log link: counts, and positive amounts."""

from dataclasses import replace
from typing import Any, ClassVar, Self

from sklearn.base import RegressorMixin

from dist_dot.linear_model.base import LinearModel, apply
from dist_dot.losses import Gamma, Loss, Poisson
from dist_dot.objective import Objective
from dist_dot.rounds.layout import lay_out
from dist_dot.rows.inputs import float_dtype
from dist_dot.rows.settle import given_back
from dist_dot.solvers import Solver
from dist_dot.training.early_stopping import EarlyStopping
from dist_dot.training.fit import Callback


class GeneralizedLinearRegressor(RegressorMixin, LinearModel):  # type: ignore[misc, unused-ignore]
    """Half the mean deviance of exp(X w + b), plus alpha / 2 * ||w||^2, as in scikit-learn. Subclasses say of what."""

    _loss: ClassVar[Loss]

    def __init__(
        self,
        *,
        alpha: float = 1.0,
        fit_intercept: bool = True,
        standardize: bool = False,
        solver: str | Solver[Any] = "auto",
        max_iter: int = 1000,
        tol: float = 1e-6,
        warm_start: bool = False,
        early_stopping: EarlyStopping | None = None,
        callbacks: tuple[Callback, ...] = (),
        device: str = "auto",
    ) -> None:
        self.alpha = alpha
        self.fit_intercept = fit_intercept
        self.standardize = standardize
        self.solver = solver
        self.max_iter = max_iter
        self.tol = tol
        self.warm_start = warm_start
        self.early_stopping = early_stopping
        self.callbacks = callbacks
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to X (n, p) and y (n,), weighted by sample_weight (n,).

        A Dask array with a `distributed.Client` in force is trained on that cluster, anything else in this process.
        Warns with ConvergenceWarning if max_iter was reached. Raises DataError (a ValueError) for data that cannot be
        used, naming row and column.
        """
        X, y, sample_weight = self._checked(X, y, sample_weight)
        blocks = lay_out(X, y, sample_weight, device=self.device)
        objective = Objective(blocks, self._loss, self.alpha, self.fit_intercept)
        objective.check()
        # The mean of y is a better start than 1, the mean at z = 0, where y is large or small.
        weight, start = objective.null_model()
        objective = replace(objective, alpha=self.alpha * weight)
        objective = objective.standardized() if self.standardize else objective
        warm = self._warm_start(objective)
        self._minimise(objective, float_dtype(X), start if warm is None else warm, self.early_stopping)
        return self

    def predict(self, X: Any) -> Any:
        """Return exp(X @ coef_ + intercept_), (n,); of a Dask array a Dask array, not computed yet."""
        z = self._linear_predictor(X)
        return given_back(apply(self._loss.predict, z, z.dtype), X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return D2, the share of the deviance that the model explains: 1 - deviance(model) / deviance(mean of y).

        Three rounds; a Dask collection is not gathered.
        """
        objective, parameters = self._objective(X, y, sample_weight, self._loss)
        objective.check()
        return objective.explained(parameters)

    def to_sklearn(self) -> Any:
        """Return the fitted scikit-learn estimator of the same name, with the same predictions."""
        other = super().to_sklearn()
        other._base_loss = other._get_loss()  # which its predict asks for the link
        return other

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.positive_only = True
        return tags


class PoissonRegressor(GeneralizedLinearRegressor):
    """Counts and rates, y >= 0: half the mean Poisson deviance of exp(X w + b), plus alpha / 2 * ||w||^2.

    The parameters are scikit-learn's; `solver` and `tol` have other values (see `dist_dot.minimise`), and max_iter is
    1,000 instead of 100, because steps may be cheaper than theirs. For counts with an exposure fit the rates:
    ``fit(X, *dist_dot.losses.Poisson().exposed(y, exposure))``.

    Parameters
    ----------
    alpha : the L2 strength, >= 0, beside a mean over rows. In `dist_dot.Objective` it is alpha * sum of the weights.
    fit_intercept : whether b is fitted. It is not penalised.
    standardize : whether the penalty acts on columns of standard deviation 1 instead of the columns as they are.
    solver : "auto" (see `dist_dot.solvers.choose`), "newton", "lbfgs", "gradient_descent", or a solver of
        `dist_dot.solvers` with its options.
    max_iter : the largest number of steps.
    tol : stop when the gradient is this small a part of that of the best constant; see `dist_dot.minimise`.
    warm_start : whether a fit starts from the coefficients of the one before.
    early_stopping : None, or a `dist_dot.EarlyStopping`, which holds out some rows and stops by their loss.
    callbacks : called with a `dist_dot.Progress` after each step; see `dist_dot.minimise`.
    device : where fits and scores are computed: "auto", where the rows lie; "cpu"; or "cuda", a GPU of this process or
        of the workers. See `dist_dot.lay_out`.

    Attributes
    ----------
    coef_ (p,), intercept_, n_iter_ (steps), n_features_in_, feature_names_in_ (for data frames), and fit_, the
    `dist_dot.Fit` with the history.

    """

    _loss = Poisson()


class GammaRegressor(GeneralizedLinearRegressor):
    """Positive amounts, y > 0: half the mean gamma deviance of exp(X w + b), plus alpha / 2 * ||w||^2.

    Parameters, attributes and differences from scikit-learn are those of `PoissonRegressor`.
    """

    _loss = Gamma()
