"""What the least-squares estimators share: several targets."""

from typing import Any, ClassVar

import numpy as np
from sklearn.base import MultiOutputMixin, RegressorMixin

from dist_dot.linear_model.base import LinearModel
from dist_dot.linear_model.scores import r2
from dist_dot.losses import Squared
from dist_dot.objective import Objective
from dist_dot.rounds.layout import lay_out
from dist_dot.rows.inputs import float_dtype
from dist_dot.rows.settle import given_back


class LeastSquares(MultiOutputMixin, RegressorMixin, LinearModel):  # type: ignore[misc, unused-ignore]
    """Linear models of the squared loss, of one target or several."""

    _checks: ClassVar[dict[str, bool]] = {"y_numeric": True, "multi_output": True}

    def predict(self, X: Any) -> Any:
        """Return X @ coef_.T + intercept_, (n,) or (n, k); of a Dask array a Dask array, not computed yet."""
        return given_back(self._linear_predictor(X), X)

    def score(self, X: Any, y: Any, sample_weight: Any = None) -> float:
        """Return R2, averaged over the targets. Two rounds; a Dask collection is not gathered."""
        return r2(*self._objective(X, y, sample_weight, Squared()))

    def _fit(
        self, X: Any, y: Any, sample_weight: Any, alpha: float | tuple[float, ...], standardize: bool = False
    ) -> None:
        """Minimise F, and give coef_ the shape (k, p) and intercept_ (k,) where y is (n, k)."""
        X, y, sample_weight = self._checked(X, y, sample_weight)
        blocks = lay_out(X, y, sample_weight, device=self.device)
        objective = Objective(blocks, Squared(), alpha, self.fit_intercept)
        objective = objective.standardized() if standardize else objective
        self._minimise(objective, float_dtype(X))
        self._shape(y.ndim)

    def _shape(self, dimensions: int) -> None:
        if dimensions == 2:
            self.coef_ = self.coef_.reshape(self.n_features_in_, -1).T
            self.intercept_ = np.reshape(self.intercept_, -1)
