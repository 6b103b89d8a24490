"""What the least-squares estimators share: several targets."""

from typing import Any

import numpy as np
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import check_is_fitted, validate_data

from dist_dot.blocks.device.settle import given_back
from dist_dot.blocks.layout import float_dtype, lay_out
from dist_dot.linear_model.base import LinearModel, is_plain
from dist_dot.losses import Squared
from dist_dot.objective import Objective


class LeastSquares(MultiOutputMixin, RegressorMixin, LinearModel):  # type: ignore[misc, unused-ignore]
    """Linear models of the squared loss, of one target or several."""

    def predict(self, X: Any) -> Any:
        """Return X @ coef_.T + intercept_, (n,) or (n, k); of a Dask array a Dask array, not computed yet."""
        return given_back(self._linear_predictor(X), X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R2, the mean of those of the targets where there are several.

        Three rounds for each target where X is a Dask array or of another library than NumPy; nothing is gathered.
        """
        X, y, sample_weight = self._received(X, y, sample_weight)
        if is_plain(X):
            return float(super().score(X, y, sample_weight))
        check_is_fitted(self)
        scores = []
        for target, (w, b) in enumerate(zip(np.atleast_2d(self.coef_), np.atleast_1d(self.intercept_), strict=True)):
            of_target = y if y.ndim == 1 else y[:, target]
            objective = Objective(lay_out(X, of_target, sample_weight, device=self.device), Squared())
            scores.append(objective.explained(np.append(w, b)))
        return float(np.mean([score if np.isfinite(score) else 0.0 for score in scores]))  # 0 for a constant, as there

    def _fit(self, X: Any, y: Any, sample_weight: Any, alpha: float, standardize: bool = False) -> None:
        """Minimise F, and give coef_ the shape (k, p) and intercept_ (k,) where y is (n, k)."""
        X, y, sample_weight = self._checked(X, y, sample_weight)
        blocks = lay_out(X, y, sample_weight, device=self.device)
        objective = Objective(blocks, Squared(), alpha, self.fit_intercept)
        objective = objective.standardized() if standardize else objective
        self._minimise(objective, float_dtype(X))
        self._shape(y.ndim)

    def _checked(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        """Return X (n, p), y (n,) or (n, k) and the weights (n,) or None, checked by scikit-learn where plain."""
        X, y, sample_weight = self._received(X, y, sample_weight)
        if is_plain(X):
            kinds = [np.float64, np.float32]
            X, y = validate_data(self, X, y, dtype=kinds, y_numeric=True, multi_output=True, order="C")
            if sample_weight is not None:
                sample_weight = np.broadcast_to(np.asarray(sample_weight, X.dtype), y.shape[:1])
        return X, y, sample_weight

    def _shape(self, dimensions: int) -> None:
        if dimensions == 2:
            self.coef_ = self.coef_.reshape(self.n_features_in_, -1).T
            self.intercept_ = np.asarray(self.intercept_, self.coef_.dtype).reshape(-1)
