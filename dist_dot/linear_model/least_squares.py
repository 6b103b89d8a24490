"""What the least-squares estimators share: several targets."""

from typing import Any

import numpy as np
from sklearn.base import MultiOutputMixin, RegressorMixin
from sklearn.utils.validation import validate_data

from dist_dot.blocks.layout import float_dtype, lay_out
from dist_dot.linear_model.base import LinearModel, is_plain
from dist_dot.losses import Squared
from dist_dot.objective import Objective


class LeastSquares(MultiOutputMixin, RegressorMixin, LinearModel):  # type: ignore[misc, unused-ignore]
    """Linear models of the squared loss, of one target or several."""

    def predict(self, X: Any) -> Any:
        """Return X @ coef_.T + intercept_, (n,) or (n, k); of a Dask array a Dask array, not computed yet."""
        return self._linear_predictor(X)

    def _fit(self, X: Any, y: Any, sample_weight: Any, alpha: float, standardize: bool = False) -> None:
        """Minimise F, and give coef_ the shape (k, p) and intercept_ (k,) where y is (n, k)."""
        X, y, sample_weight = self._checked(X, y, sample_weight)
        objective = Objective(lay_out(X, y, sample_weight), Squared(), alpha, self.fit_intercept)
        objective = objective.standardized() if standardize else objective
        self._minimise(objective, float_dtype(X))
        self._shape(y.ndim)

    def _checked(self, X: Any, y: Any, sample_weight: Any) -> tuple[Any, Any, Any]:
        """Return X (n, p), y (n,) or (n, k) and the weights (n,) or None, checked by scikit-learn where plain."""
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
