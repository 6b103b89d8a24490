"""Ridge for many alphas, cross-validated, from the sums of one round."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import accumulate
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from dist_dot.blocks.block import Blocks, Kernel, Program, Report, T
from dist_dot.blocks.leave_one_out import LeaveOneOut
from dist_dot.blocks.moments import CentredMoments, FoldMoments, merge_moments
from dist_dot.losses import Squared
from dist_dot.objective import Objective
from dist_dot.solvers.exact import Exact
from dist_dot.solvers.factor import rank_tolerance
from dist_dot.solvers.least_squares import Quadratic, Summary
from dist_dot.training.fit import Fit, Path
from dist_dot.training.loop import minimise
from dist_dot.typing import Array


@dataclass(frozen=True)
class CrossValidation:
    """A program (see `dist_dot.blocks.block`): ridge for each of the alphas, and the Fit of the best one.

    With folds the last column of y is the number of each row's fold, and a score is the mean over the targets of R2 on
    the rows of a fold after a fit to all the others, whose sums are merged: total minus fold would cancel. One round
    for all alphas, folds and targets. With folds = 0 every row is one, and the score is minus the mean squared error
    over rows and targets: two rounds. The best alpha has the largest mean score, and is the first such.
    """

    alphas: tuple[float, ...]
    folds: int
    fit_intercept: bool

    def __call__(self, blocks: Blocks, report: Report) -> Fit:
        """Sum up the rows, score, and fit with the best alpha. BLAS keeps to one thread: see `Loop`."""
        with threadpool_limits(1):
            summary, scores = (self._by_folds if self.folds else self._by_rows)(blocks)
            coef, intercept = _Eigen(summary.quadratic(), self.fit_intercept).ridge(self.alphas)
        path = Path(np.array(self.alphas), scores, coef, intercept)
        known: Any = _Summed(blocks, summary)
        objective = Objective(known, Squared(), path.best, self.fit_intercept)
        return replace(minimise(objective, Exact("gram")), path=path)

    def _by_folds(self, blocks: Blocks) -> tuple[Summary, Array]:
        parts = list(blocks.reduce(FoldMoments(self.folds), np.zeros(0)).reshape(self.folds, 1, -1))
        before = list(accumulate(parts, _both))
        after = list(accumulate(reversed(parts), lambda right, left: _both(left, right)))[::-1]
        scores = np.empty((len(self.alphas), self.folds))
        for fold, part in enumerate(parts):
            others = reduce(_both, before[:fold][-1:] + after[fold + 1 : fold + 2])
            rows = self._summary(blocks, others, self.fit_intercept).quadratic()
            coef, intercept = _Eigen(rows, self.fit_intercept).ridge(self.alphas)
            scores[:, fold] = _r2(self._summary(blocks, part, True).quadratic(), coef, intercept)
        return self._summary(blocks, before[-1], self.fit_intercept), scores

    def _by_rows(self, blocks: Blocks) -> tuple[Summary, Array]:
        summary = self._summary(blocks, blocks.reduce(CentredMoments(), np.zeros(0)), self.fit_intercept)
        rows = summary.quadratic()
        eigen = _Eigen(rows, self.fit_intercept)
        coef, intercept = eigen.ridge(self.alphas)
        kernel = LeaveOneOut(len(self.alphas), summary.n_targets)
        errors = blocks.reduce(
            kernel,
            kernel.pack(
                mean=rows.mean,
                vectors=eigen.vectors,
                shrunk=eigen.shrunk(self.alphas),
                share=1.0 / rows.weight if self.fit_intercept else 0.0,
                coef=coef.transpose(1, 0, 2),
                intercept=intercept,
            ),
        )
        scores = -errors.reshape(len(self.alphas), -1).mean(axis=1, keepdims=True) / summary.n_samples
        return summary, scores

    def _summary(self, blocks: Blocks, flat: Array, fit_intercept: bool) -> Summary:
        n_targets = blocks.cuts.n_targets - int(self.folds > 0)
        return Summary(flat.ravel(), False, blocks.cuts.n_samples, n_targets, fit_intercept)


def _both(left: Array, right: Array) -> Array:
    """Return the summary of the rows of both, in new memory."""
    return merge_moments(left.copy(), right)


class _Eigen:
    """X.T X = V diag(d) V.T: one decomposition for all alphas."""

    def __init__(self, rows: Quadratic, fit_intercept: bool) -> None:
        self.rows, self.fit_intercept = rows, fit_intercept
        self.values, self.vectors = np.linalg.eigh(rows.xx)

    def shrunk(self, alphas: Sequence[float]) -> Array:
        """Return 1 / (d + alpha) (p, alphas); 0 where that is 1 / 0, within rounding."""
        sizes = np.maximum(self.values, 0.0)[:, None] + np.array(alphas)
        floor = rank_tolerance(self.values.size, 1) * self.values.max(initial=0.0)
        return np.where(sizes > floor, 1.0 / np.where(sizes > floor, sizes, 1.0), 0.0)

    def ridge(self, alphas: Sequence[float]) -> tuple[Array, Array]:
        """Return W (alphas, p, k) and b (alphas, k)."""
        along = self.vectors.T @ self.rows.xy
        coef: Array = self.vectors @ (self.shrunk(alphas).T[:, :, None] * along)
        return coef, self.rows.intercept(coef) if self.fit_intercept else np.zeros((len(alphas), along.shape[1]))


class _Summed:
    """Blocks whose second moments are known, so that an exact fit of them needs no more rounds."""

    def __init__(self, blocks: Blocks, summary: Summary) -> None:
        self._blocks, self._flat = blocks, summary.flat
        self.cuts, self.rounds = replace(blocks.cuts, n_targets=summary.n_targets), 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._blocks, name)

    def reduce(self, kernel: Kernel, parameters: Array) -> Array:
        """Return the moments, and count the rounds that they and the scores have taken."""
        self.rounds = self._blocks.rounds
        return self._flat

    def run(self, program: Program[T], report: Report) -> T:
        """Run the program in this thread: it asks for nothing that is not known."""
        known: Any = self
        return program(known, report)


def _r2(rows: Quadratic, coef: Array, intercept: Array) -> Array:
    """Return R2 (alphas,) on these rows, the mean over the targets; as scikit-learn's for a constant y, 0 or 1."""
    gap = rows.y_mean - rows.mean @ coef - intercept
    squares = rows.yy + np.sum(coef * (rows.xx @ coef - 2.0 * rows.xy), axis=1) + rows.weight * gap**2
    constant = np.where(squares > 0, 0.0, 1.0)
    scores = np.where(rows.yy > 0, 1.0 - squares / np.where(rows.yy > 0, rows.yy, 1.0), constant)
    return np.asarray(scores.mean(axis=1))
