"""Problems with known optima: each a loss, rows and alpha, with a minimum that SciPy has found from its own formulas.

The reference shares nothing with the package: F is written out here, and minimised by a trust-region method with the
exact Hessian of it, to a gradient of 1e-9 of its size at the start.
"""

from dataclasses import dataclass
from functools import cache

import numpy as np
from scipy.optimize import minimize
from scipy.special import expit, logsumexp, softmax

from dist_dot import Objective, lay_out, losses
from dist_dot.rows.block import Block
from dist_dot.rows.design import Dense


@dataclass(frozen=True, eq=False)
class Problem:
    """Rows, and F of them."""

    name: str
    loss: losses.Loss
    X: np.ndarray
    y: np.ndarray
    alpha: float
    weight: np.ndarray | None = None
    fit_intercept: bool = True
    offset: np.ndarray | None = None

    def objective(self, block_rows=100):
        blocks = lay_out(self.X, self.y, self.weight, offset=self.offset, block_rows=block_rows)
        return Objective(blocks, self.loss, self.alpha, self.fit_intercept)


def dense_block(X, y, weight=None, start=0, **columns):
    """A block of rows in one array."""
    return Block(Dense(X), y, weight, start, **columns)


def columns(n, p, spread=1.0, seed=0):
    """Correlated columns, off centre, of scales between 10^-spread and 10^spread."""
    random = np.random.default_rng(seed)
    mix = np.eye(p) + random.standard_normal((p, p)) / np.sqrt(p)
    return (random.standard_normal((n, p)) @ mix + 0.5) * 10.0 ** np.linspace(-spread, spread, p)


def categories(n, levels, seed=0):
    """One-hot columns, some of them rare."""
    random = np.random.default_rng(seed)
    share = 1.0 / np.arange(1, levels + 1) ** 1.5
    return np.eye(levels)[random.choice(levels, n, p=share / share.sum())]


@cache
def problems():
    """Return the table."""
    random = np.random.default_rng(7)
    X = columns(600, 7)
    unit = X / X.std(0)
    z = unit @ random.standard_normal(7) / 2
    noise = random.standard_normal(600)
    mixed = np.hstack([columns(600, 3, seed=1), categories(600, 12)])
    counts = random.poisson(np.exp(z / 2 + 1)).astype(float)
    outliers = z + 0.1 * noise + 20 * (random.random(600) < 0.1)
    labels = np.argmax(unit[:, :4] + random.gumbel(size=(600, 4)), axis=1).astype(float)
    chance = (random.random(600) < expit(z)).astype(float)
    weight = random.uniform(0, 2, 600)
    table = (
        Problem("squared", losses.Squared(), X, z + noise, 1.0),
        Problem("logistic", losses.Logistic(), X, chance, 1.0),
        Problem("logistic, rare categories", losses.Logistic(), mixed, chance, 0.1, weight),
        Problem("logistic, almost separable", losses.Logistic(), unit, (z > 0).astype(float), 1e-3, None, False),
        Problem("softmax", losses.Softmax(4), X, labels, 0.5, weight),
        Problem("poisson", losses.Poisson(), X, counts, 0.1, weight),
        Problem("poisson, large means", losses.Poisson(), unit, np.round(1e4 * np.exp(z)), 1.0),
        Problem("gamma", losses.Gamma(), X, np.exp(z / 2) * random.gamma(2.0, size=600), 1.0),
        Problem("huber", losses.Huber(1.0), X, outliers, 1.0),
        Problem("huber, two targets", losses.Huber(1.0), X, np.column_stack([outliers, z]), 1.0),
    )
    return {problem.name: problem for problem in table}


def losses_and_derivatives(loss, y, z):
    """Return the losses (n,), the slopes (n, k) and the curvatures (n, k, k) at z (n, k), as textbooks have them."""
    if loss.name == "softmax":
        q = softmax(z, axis=1)
        chosen = np.eye(z.shape[1])[y[:, 0].astype(int)]
        diagonal = np.eye(z.shape[1]) * q[:, :, None]
        return logsumexp(z, axis=1) - (chosen * z).sum(1), q - chosen, diagonal - q[:, :, None] * q[:, None, :]
    r = z - y
    value, first, second = {
        "squared": lambda: (r**2 / 2, r, np.ones_like(r)),
        "logistic": lambda: (np.logaddexp(0, z) - y * z, expit(z) - y, expit(z) * expit(-z)),
        "poisson": lambda: (np.exp(z) - y * z, np.exp(z) - y, np.exp(z)),
        "gamma": lambda: (z + y * np.exp(-z), 1 - y * np.exp(-z), y * np.exp(-z)),
        "huber": lambda: (
            np.where(abs(r) <= 1, r**2 / 2, abs(r) - 0.5),
            np.clip(r, -1, 1),
            (abs(r) <= 1).astype(float),
        ),
    }[loss.name]()
    return value.sum(1), first, second[:, :, None] * np.eye(z.shape[1])


@cache
def optimum(name):
    """Return the smallest F of a problem of the table."""
    return minimum(problems()[name])[0]


def minimum(problem):
    """Return the smallest F of a problem, and the W (p, k) and b (k,) that it is at."""
    n = len(problem.X)
    X = np.hstack([problem.X, np.ones((n, 1))]) if problem.fit_intercept else problem.X
    y = problem.y.reshape(n, -1)
    offset = 0.0 if problem.offset is None else problem.offset[:, None]
    scale = np.linalg.norm(X, axis=0)  # of the reference's own coordinates
    X = X / scale
    k = problem.loss.outputs if problem.loss.outputs > 1 else y.shape[1]
    s = np.ones(n) if problem.weight is None else problem.weight
    alpha = np.full(X.shape[1], problem.alpha) / scale**2
    if problem.fit_intercept:
        alpha[-1] = 0.0
    penalty = np.repeat(alpha, k)

    def parts(v):
        return losses_and_derivatives(problem.loss, y, X @ v.reshape(-1, k) + offset)

    def value(v):
        return s @ parts(v)[0] + 0.5 * penalty @ v**2

    def gradient(v):
        return (X.T @ (s[:, None] * parts(v)[1])).ravel() + penalty * v

    def hessian(v):
        d = s[:, None, None] * parts(v)[2]
        return np.einsum("ij,icd,il->jcld", X, d, X, optimize=True).reshape(v.size, v.size) + np.diag(penalty)

    start = np.zeros(X.shape[1] * k)
    if problem.loss.name in ("poisson", "gamma") and problem.fit_intercept:
        start.reshape(-1, k)[-1] = np.log(np.average(y, axis=0, weights=s)) * scale[-1]
    size = np.abs(gradient(start)).max()
    found = minimize(value, start, jac=gradient, hess=hessian, method="trust-exact", options={"gtol": 1e-9 * size})
    assert np.abs(gradient(found.x)).max() <= 1e-6 * size
    last = found.x - np.linalg.lstsq(hessian(found.x), gradient(found.x), rcond=1e-14)[0]  # to the last digits
    W = last.reshape(-1, k) / scale[:, None]
    return found.fun, *((W[:-1], W[-1]) if problem.fit_intercept else (W, np.zeros(k)))
