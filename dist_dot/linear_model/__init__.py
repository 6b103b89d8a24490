"""scikit-learn estimators: fit, predict, score."""

from dist_dot.linear_model.glm import GammaRegressor, PoissonRegressor
from dist_dot.linear_model.linear_regression import LinearRegression
from dist_dot.linear_model.logistic import LogisticRegression
from dist_dot.linear_model.logistic_cv import LogisticRegressionCV
from dist_dot.linear_model.ridge import Ridge
from dist_dot.linear_model.ridge_cv import RidgeCV

__all__ = [
    "GammaRegressor",
    "LinearRegression",
    "LogisticRegression",
    "LogisticRegressionCV",
    "PoissonRegressor",
    "Ridge",
    "RidgeCV",
]
