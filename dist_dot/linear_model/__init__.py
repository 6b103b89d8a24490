"""scikit-learn estimators: fit, predict, score."""

from dist_dot.linear_model.linear_regression import LinearRegression
from dist_dot.linear_model.ridge import Ridge

__all__ = ["LinearRegression", "Ridge"]
