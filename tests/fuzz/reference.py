"""F in long double, and how far from its minimum a fit may end.

The formulas are those of scikit-learn's documentation: a sum of s_i times half the deviance (the log loss; half the
square) plus alpha / 2 ||w||^2, with an intercept that is not penalised.

The bound is made of what README and docstrings promise, and of nothing that a fit has shown:

- the gradient is tol times that of the best constant, in coordinates in which each column is centred and has curvature
  1. A solver may have another idea of such coordinates, hence SLACK.
- what is rounding alone counts as small enough. In exact arithmetic the fit would be that of rows that differ by
  gamma = 5 (sqrt(n) + p + 5) eps in each number: the first order of what such a change does to the gradient, with the
  signs of everything against it. The root is for sums of n roundings that are independent, the 5 for luck.
"""

from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from fuzz.case import Rows

SLACK = 10.0
L = np.longdouble


@dataclass
class Point:
    """Coefficients W (p, k) and intercepts b (k,)."""

    W: np.ndarray
    b: np.ndarray


class Reference:
    """F of these rows, near any point."""

    def __init__(self, rows: Rows) -> None:
        if rows.s is not None and not np.all(rows.s > 0):  # which count for nothing, whatever z is there
            kept = rows.s > 0
            rows = replace(rows, X=rows.X[kept], y=rows.y[kept], s=rows.s[kept])
        self.rows, self.family = rows, rows.family
        self.A = rows.X.astype(L)
        self.n, self.p = self.A.shape
        self.s = np.ones(self.n, L) if rows.s is None else rows.s.astype(L)
        y = rows.y.astype(L).reshape(self.n, -1)
        self.Y = (y == np.arange(3)).astype(L) if self.family == "softmax" else y
        self.k = self.Y.shape[1]
        self.alpha = L(rows.alpha)
        total = self.s.sum()
        self.m = self.s @ self.A / total if rows.intercept else np.zeros(self.p, L)
        self.eps = L(np.finfo(rows.y.dtype).eps)
        self.gamma = 5 * (np.sqrt(L(self.n)) + self.p + 5) * self.eps
        mean = self.s @ self.Y / total
        with np.errstate(divide="ignore"):
            self.constant, curvature = {
                "squared": lambda: (mean, np.ones(self.k, L)),
                "huber": lambda: (mean, np.ones(self.k, L)),
                "logistic": lambda: (np.log(mean / (1 - mean)), mean * (1 - mean)),
                "softmax": lambda: (np.log(mean), mean * (1 - mean)),
                "poisson": lambda: (np.log(mean) if mean.all() else np.zeros(1, L), mean if mean.all() else mean + 1),
                "gamma": lambda: (np.log(mean), np.ones(self.k, L)),
            }[self.family]()
        # What one unit of a coordinate does to F: (p + 1, k), the last one that of the intercept.
        centred = (self.A - self.m) ** 2 + (self.eps * self.A) ** 2
        sizes = np.append(self.s @ centred, total)[:, None] * curvature
        sizes[:-1] += self.alpha
        self.d = np.sqrt(np.where(sizes > 0, sizes, 1))

    def per_row(self, Z):
        """Return the slopes (n, k), the diagonal of the curvatures (n, k), and what is subtracted to make a slope."""
        with np.errstate(over="ignore"):
            if self.family == "softmax":
                q = np.exp(Z - Z.max(axis=1, keepdims=True))
                q /= q.sum(axis=1, keepdims=True)
                return q - self.Y, q * (1 - q), q
            if self.family == "logistic":
                q = 1 / (1 + np.exp(-Z))
                return q - self.Y, q * (1 / (1 + np.exp(Z))), q
            if self.family == "poisson":
                q = np.exp(Z)
                return q - self.Y, q, q
            if self.family == "gamma":
                q = self.Y * np.exp(-Z)
                return 1 - q, q, np.ones_like(q)
            r = Z - self.Y
            if self.family == "huber":
                inside = np.abs(r) <= 1
                return np.clip(r, -1, 1), np.ones_like(r), np.where(inside, np.abs(self.Y), 0)
            return r, np.ones_like(r), np.abs(self.Y)

    def gradient(self, Z, W):
        """Return the gradient (p + 1, k) in centred columns, and that of the columns as they are, without intercept."""
        r = self.s[:, None] * self.per_row(Z)[0]
        last = r.sum(axis=0) if self.rows.intercept else np.zeros(self.k, L)
        penalty = self.alpha * W
        return np.vstack([(self.A - self.m).T @ r + penalty, last]), np.vstack([self.A.T @ r + penalty, last])

    def rounding(self, Z, W, b):
        """Return what a relative change of 1 in each number may do to both gradients, to first order."""
        r, c, value = self.per_row(Z)
        size = np.abs(self.A) @ np.abs(W) + np.abs(b)
        if self.family != "softmax":  # a change of z that is not small meets the largest curvature on its way
            c = np.maximum(c, np.maximum(*(self.per_row(Z + sign * self.gamma * size)[1] for sign in (-1, 1))))
        moved = c * size + value
        if self.family == "softmax":
            moved += value * ((value * size).sum(axis=1, keepdims=True) - value * size)
        r, moved, A = self.s[:, None] * np.abs(r), self.s[:, None] * moved, np.abs(self.A)
        penalty = self.alpha * np.abs(W)
        last = (r + moved).sum(axis=0) if self.rows.intercept else np.zeros(self.k, L)
        plain = np.vstack([A.T @ (r + moved) + penalty, last])
        centred = np.vstack([np.abs(self.A - self.m).T @ moved + A.T @ r + penalty, last])
        apart = plain + np.append(np.abs(self.m), L(0))[:, None] * last
        return centred, plain, apart

    def z(self, point: Point):
        return self.A @ point.W.astype(L) + point.b.astype(L)

    def _sizes(self, triple):
        centred, plain, apart = triple
        return [*self._norms((centred, plain)), self._norms((apart, plain))[0]]

    @cached_property
    def _best_constant(self):
        """The norms of the gradient there: scaled and as it is; and those of its rounding."""
        nothing = np.zeros((self.p, self.k), L)
        Z = np.broadcast_to(self.constant, (self.n, self.k))
        found = self._norms(self.gradient(Z, nothing))
        rounding = self._sizes(self.rounding(Z, nothing, np.zeros(self.k, L)))
        at_zero = self._norms(self.gradient(np.zeros((self.n, self.k), L), nothing))
        sizes = zip(found, rounding[:2], at_zero, strict=True)
        found = [max(size, zero) if size <= self.gamma * about else size for size, about, zero in sizes]
        return [*found, found[0]], rounding

    def _norms(self, pair):
        scaled, plain = pair
        return np.linalg.norm((scaled / self.d).astype(float)), np.abs(plain).max(initial=0)

    def residual(self, point: Point, tol: float):
        """Return [(gradient, bound)] in scaled and in plain coordinates, and in scaled ones with a laxer bound.

        That bound does not know that a change of one row's z does the same to the sums of all columns, so that what it
        does to a column which is constant cancels.
        """
        Z, W, b = self.z(point), point.W.astype(L), point.b.astype(L)
        found, rounding = self._norms(self.gradient(Z, W)), self._sizes(self.rounding(Z, W, b))
        found = (*found, found[0])
        constant, there = self._best_constant
        bounds = [SLACK * tol * c + self.gamma * (a + t) for a, c, t in zip(rounding, constant, there, strict=True)]
        return list(zip(map(float, found), map(float, bounds), strict=True))

    def lost(self, point: Point) -> bool:
        """Whether rounding may change the gradient by more than all that the one at the best constant is made of."""
        W, b = point.W.astype(L), point.b.astype(L)
        return bool(self.gamma * self._sizes(self.rounding(self.z(point), W, b))[0] > self._best_constant[1][0])

    def hessian(self, point: Point):
        """Return the eigenvalues and vectors of the Hessian in the scaled coordinates, those of w and b in one row."""
        q = self.per_row(self.z(point))
        columns = np.hstack([self.A - self.m, np.full((self.n, 1), L(self.rows.intercept))])
        size, total = columns.shape[1], columns.shape[1] * self.k
        H = np.zeros((size, self.k, size, self.k), L)
        for c in range(self.k):
            for e in range(self.k):
                w = q[1][:, c] if c == e else (-q[2][:, c] * q[2][:, e] if self.family == "softmax" else None)
                if self.family == "huber":
                    w = (np.abs(q[0][:, c]) < 1).astype(L)
                if w is not None:
                    H[:, c, :, e] = columns.T @ ((self.s * w)[:, None] * columns)
        H = H.reshape(total, total)
        penalty = np.full((size, self.k), self.alpha)
        penalty[-1] = 0
        unit = 1 / self.d.ravel()
        H = (unit[:, None] * (H + np.diag(penalty.ravel())) * unit).astype(float)
        return np.linalg.eigh(H)

    def decrement(self, point: Point) -> float:
        """Return sqrt(g.T H^-1 g), the norm in Newton's coordinates, beside that at the best constant."""
        sizes, V = self.hessian(point)
        kept = sizes > 1e-14 * sizes[-1]
        Z = np.broadcast_to(self.constant, (self.n, self.k))
        null = self.gradient(Z, np.zeros((self.p, self.k), L))[0], self.gradient(self.z(point), point.W.astype(L))[0]
        first, here = (
            np.linalg.norm(V[:, kept].T @ (g / self.d).ravel().astype(float) / np.sqrt(sizes[kept])) for g in null
        )
        return float(here / first) if first else np.inf

    def clear_gradient(self, point: Point, clear: float) -> float:
        """Return the norm of the scaled gradient where the Hessian has more than this part of its largest value."""
        sizes, V = self.hessian(point)
        gradient = (self.gradient(self.z(point), point.W.astype(L))[0] / self.d).ravel().astype(float)
        return float(np.linalg.norm(V[:, sizes > clear * sizes[-1]].T @ gradient))

    def bend(self, energy: float) -> float:
        """Return what a move of this d.T H d may do to the scaled gradient to second order: sum s c x dz^2 / 2.

        The third derivative of these losses is no larger than the second, c, but for those that have none.
        """
        if self.family in ("squared", "huber"):
            return 0.0
        rows = ((self.A - self.m) / self.d[:-1].min(axis=1)).astype(float)
        return 0.5 * float(energy) * float(np.linalg.norm(rows, axis=1).max(initial=0.0))

    def scaled(self, point: Point):
        """Return the coefficients in the scaled coordinates, and the intercept of the centred columns."""
        W = point.W.astype(L)
        return (np.vstack([W, point.b.astype(L) + self.m @ W]) * self.d).ravel().astype(float)

    def dependence(self, point: Point) -> float:
        """Return how far the smallest w is from this one, as a share of it: the part outside of the rows' space.

        NaN where the rank is not clear, or another one in columns of norm 1.
        """
        rows = ((self.A - self.m)[self.s > 0]).astype(float)
        norms = np.linalg.norm(rows, axis=0)
        size = norms.max(initial=0)
        if not size:
            return float(np.abs(point.W).max(initial=0) > 0)
        V, kept = self._rank(rows / size)
        own = self._rank(rows / np.where(norms > 0, norms, 1.0))[1]
        if kept is None or own is None or kept.sum() != own.sum():
            return np.nan
        W = point.W.astype(float)
        outside = V[~kept] @ W
        return float(np.linalg.norm(outside) / max(np.linalg.norm(W), 1e-300))

    def _rank(self, rows):
        """Return the right singular vectors, and which singular values are not 0; None where that is not clear."""
        sizes, V = np.linalg.svd(rows)[1:]
        sizes = np.append(sizes, np.zeros(max(0, self.p - sizes.size)))
        kept = sizes > 1e-6 * sizes[0]
        return V, None if np.any(sizes[~kept] > 1e-15 * np.sqrt(self.n) * sizes[0]) else kept
