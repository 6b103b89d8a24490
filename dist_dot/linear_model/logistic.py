"""Logistic regression: two classes, or several."""

from collections.abc import Callable
from functools import partial
from typing import Any, ClassVar, Self

import numpy as np
from sklearn.base import ClassifierMixin
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted

from dist_dot.errors import InputError
from dist_dot.linear_model.base import LinearModel, apply, is_plain
from dist_dot.linear_model.labels import class_weights, classes_of, encoded, weighted
from dist_dot.linear_model.scores import accuracy, area_under_curve, mean_loss
from dist_dot.losses import Logistic, Loss, Softmax
from dist_dot.objective import Objective
from dist_dot.rounds.layout import lay_out
from dist_dot.rows.arrays import NUMBERS, cast, is_other, namespace, to_host
from dist_dot.rows.inputs import float_dtype
from dist_dot.rows.settle import given_back
from dist_dot.solvers import Solver
from dist_dot.training.early_stopping import EarlyStopping
from dist_dot.training.fit import Callback
from dist_dot.typing import Array


class LogisticRegression(ClassifierMixin, LinearModel):  # type: ignore[misc, unused-ignore]
    """Logistic regression with an L2 penalty: C * log loss + 1/2 ||W||^2, as in scikit-learn.

    Two classes of any two labels have one column of coefficients; several have one each (softmax).

    Parameters
    ----------
    C : the inverse of the L2 strength, > 0; np.inf for no penalty. In `dist_dot.Objective` alpha is 1 / C.
    fit_intercept : whether b is fitted. It is not penalised.
    class_weight : None, "balanced", or a dict of weights by label, which multiply the weights of rows.
    standardize : whether the penalty acts on columns of standard deviation 1 instead of the columns as they are.
    solver : "auto" (see `dist_dot.solvers.choose`), "newton", "lbfgs", "gradient_descent", or a solver of
        `dist_dot.solvers` with its options.
    max_iter : the largest number of steps. 1,000 instead of scikit-learn's 100: steps may be cheaper than theirs.
    tol : stop when the gradient is this small a part of that of the best constant; see
        `dist_dot.minimise`. scikit-learn's tol differs.
    warm_start : whether a fit starts from the coefficients of the one before.
    early_stopping : None, or a `dist_dot.EarlyStopping`, which holds out some rows and stops by their loss.
    callbacks : called with a `dist_dot.Progress` after each step; see `dist_dot.minimise`.
    device : where fits and scores are computed: "auto", where the rows lie; "cpu"; or "cuda", a GPU of this process or
        of the workers. See `dist_dot.lay_out`.

    Attributes
    ----------
    classes_ (k,), coef_ (1, p) and intercept_ (1,) for two classes, (k, p) and (k,) for more, whose intercepts add up
    to 0; n_iter_ (steps), n_features_in_, feature_names_in_ (for data frames), and fit_, the `dist_dot.Fit` with the
    history.

    """

    def __init__(
        self,
        C: float = 1.0,
        *,
        fit_intercept: bool = True,
        class_weight: Any = None,
        standardize: bool = False,
        solver: str | Solver[Any] = "auto",
        max_iter: int = 1000,
        tol: float = 1e-6,
        warm_start: bool = False,
        early_stopping: EarlyStopping | None = None,
        callbacks: tuple[Callback, ...] = (),
        device: str = "auto",
    ) -> None:
        self.C = C
        self.fit_intercept = fit_intercept
        self.class_weight = class_weight
        self.standardize = standardize
        self.solver = solver
        self.max_iter = max_iter
        self.tol = tol
        self.warm_start = warm_start
        self.early_stopping = early_stopping
        self.callbacks = callbacks
        self.device = device

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Fit to X (n, p) and the labels y (n,), weighted by sample_weight (n,).

        A Dask array with a `distributed.Client` in force is trained on that cluster, anything else in this process.
        Warns with ConvergenceWarning if max_iter was reached. Raises DataError (a ValueError) for data that cannot be
        used, naming row and column.
        """
        X, y, sample_weight = self._checked(X, y, sample_weight)
        self.classes_ = classes_of(y, X.shape[1])
        codes = encoded(y, self.classes_, known=True)
        weight = weighted(codes, sample_weight, class_weights(codes, sample_weight, self.class_weight, self.classes_))
        blocks = lay_out(X, codes, weight, device=self.device)
        objective = Objective(blocks, self._loss, 1.0 / self.C, self.fit_intercept)
        objective = objective.standardized() if self.standardize else objective
        self._minimise(objective, float_dtype(X), self._warm_start(objective), self.early_stopping)
        self._shape()
        return self

    _checks: ClassVar[dict[str, bool]] = {}

    def decision_function(self, X: Any) -> Any:
        """Return z = X @ coef_.T + intercept_: (n,) for two classes, > 0 for the second one; else (n, k)."""
        return given_back(self._decision(X), X)

    def predict(self, X: Any) -> Any:
        """Return the likeliest label of each row (n,); of a Dask array a Dask array, not computed yet.

        Labels that are numbers are an array of the library of X, others one of NumPy.
        """
        z = self._decision(X)
        return given_back(apply(partial(_labels, classes=self.classes_), z, self.classes_.dtype), X)

    def predict_proba(self, X: Any) -> Any:
        """Return the probability of each class (n, k); of a Dask array a Dask array, not computed yet."""
        return self._of_classes(X, lambda loss, z: loss.predict(z))

    def predict_log_proba(self, X: Any) -> Any:
        """Return the logarithm of the probability of each class (n, k), also where that is 0 to rounding."""
        return self._of_classes(X, _log_predict)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the accuracy. One round; a Dask collection is not gathered."""
        return accuracy(*self._coded(X, y, sample_weight))

    def log_loss(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the mean negative log likelihood. Three rounds, two of them over y alone; nothing is gathered.

        Raises DataError for a label that the model does not know.
        """
        return mean_loss(*self._coded(X, y, sample_weight))

    def auc(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return the area under the ROC curve of two classes, to some 1e-8. Four rounds; nothing is gathered.

        Raises InputError for more classes than two, and for rows of one class only.
        """
        check_is_fitted(self)
        if len(self.classes_) > 2:
            raise InputError(f"the area under the curve is one of two classes, the model knows {len(self.classes_)}")
        return area_under_curve(*self._coded(X, y, sample_weight))

    def _decision(self, X: Any) -> Any:
        z = self._linear_predictor(X)
        return z[:, 0] if len(self.classes_) == 2 else z

    def _coded(self, X: Any, y: Any, sample_weight: Any) -> tuple[Objective, Array]:
        check_is_fitted(self)
        return self._objective(X, y, sample_weight, self._loss)

    def _numbered(self, y: Any) -> Any:
        """Return the codes of labels."""
        return encoded(y, self.classes_)

    def _of_classes(self, X: Any, function: Callable[[Loss, Any], Any]) -> Any:
        z = self._decision(X)
        return given_back(apply(partial(_of_both, partial(function, self._loss)), z, z.dtype, len(self.classes_)), X)

    @property
    def _loss(self) -> Loss:
        return Logistic() if len(self.classes_) == 2 else Softmax(len(self.classes_))

    def _checked(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        """Return X (n, p), labels y (n,) and the weights (n,) or None, checked by scikit-learn where X is plain."""
        X, y, sample_weight = super()._checked(X, y, sample_weight)
        if is_plain(X):
            check_classification_targets(y)
        return X, y, sample_weight

    def _shape(self) -> None:
        """Give the coefficients a row for each class; take from them what is the same in all."""
        self.coef_ = self.coef_.reshape(self.n_features_in_, -1).T
        self.intercept_ = np.reshape(self.intercept_, -1)
        if len(self.classes_) > 2 and self.fit_intercept:
            self.intercept_ = self.intercept_ - self.intercept_.mean()


def _labels(z: Any, classes: Array) -> Any:
    """Return the likeliest class of each row (n,), in the library of z where it can hold the classes."""
    z = z if classes.dtype.kind in NUMBERS else np.asarray(to_host(z))
    xp = namespace(z)
    codes = xp.astype(z > 0, xp.int64) if z.ndim == 1 else xp.argmax(z, axis=1)
    return xp.take(cast(classes, classes.dtype.name, z), codes, axis=0) if is_other(z) else classes[codes]


def _of_both(function: Callable[[Any], Any], z: Any) -> Any:
    """Return function(z) (n, k), of -z and of z where there is one z for two classes."""
    if z.ndim == 2:
        return function(z)
    return (namespace(z) if is_other(z) else np).stack([function(-z), function(z)], axis=1)


def _log_predict(loss: Loss, z: Any) -> Any:
    """Return log predict(z), which is minus the loss of each class: also where a probability is 0 to rounding."""
    if z.ndim == 1:
        return -loss.value(0.0 * z + 1.0, z)
    codes = (0.0 * z[:, 0] + c for c in range(z.shape[1]))
    return (namespace(z) if is_other(z) else np).stack([-loss.value(code, z) for code in codes], axis=1)
