"""Ridge for many alphas, cross-validated, from the sums of one round."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import reduce
from itertools import accumulate
from typing import Literal

import numpy as np

from dist_dot.errors import InputError
from dist_dot.kernels.gathered import Rows
from dist_dot.kernels.kernel import Kernel
from dist_dot.kernels.leave_one_out import LeaveOneOut
from dist_dot.kernels.moments import CentredMoments, CentredTriangle, FoldMoments, merge_moments
from dist_dot.losses import Squared
from dist_dot.objective import Objective
from dist_dot.rounds.blocks import Blocks, Front, Program, Report, T
from dist_dot.rounds.layout import lay_out
from dist_dot.solvers.exact import Exact, by_rows
from dist_dot.solvers.factor import rank_tolerance
from dist_dot.solvers.least_squares import Quadratic, Summary
from dist_dot.solvers.row_space import Gathered, Spectrum, few, span
from dist_dot.training.fit import Fit, Path
from dist_dot.training.loop import minimise
from dist_dot.typing import Array

# The eigenvectors of second moments lose twice the digits of the condition: up to here eight of sixteen are left.
CONDITION = 1e4


@dataclass(frozen=True)
class CrossValidation:
    """A program (see `dist_dot.rounds.blocks`): ridge for each of the alphas, and the Fit of the best one.

    With folds the blocks have the column `fold`, and a score is the mean over the targets of R2 on
    the rows of a fold after a fit to all the others, whose sums are merged: total minus fold would cancel. One round
    for all alphas, folds and targets. The fit of the best alpha is that of `Exact`, which has some rounds more where
    the condition of X asks for them. With folds = 0 every row is one, and the score is minus the mean squared error
    over rows and targets: two rounds. The best alpha has the largest mean score, and is the first such.

    Few rows of more than 1,000 columns travel instead, in one round (see `dist_dot.solvers.row_space`). Leaving each
    row out has two more rounds in reserve. Where X with the smallest alpha has a condition above 1e4, the triangle of
    the rows replaces their second moments. Where a fit meets some row all but exactly, its error when it is left out is
    0 / 0 in the sums over all rows; few rows travel then, and their products with each other know it.

    An offset is taken off y, for the fits and for the scores.
    """

    alphas: tuple[float, ...]
    folds: int
    fit_intercept: bool

    def __call__(self, blocks: Blocks, report: Report) -> Fit:
        """Sum up the rows, score, and fit with the best alpha."""
        if by_rows(blocks.cuts):
            return self._from_rows(blocks)
        summary, path = (self._by_folds if self.folds else self._by_rows)(blocks)
        return self._best(blocks, CentredMoments(), summary, path, "auto")

    def _best(
        self, blocks: Blocks, kernel: Kernel, rows: Summary | Gathered, path: Path, method: Literal["auto", "rows"]
    ) -> Fit:
        """Return the Fit of the best alpha. No round, but where the condition asks for those of `Exact`."""
        objective = Objective(_Known(blocks, kernel, rows.flat), Squared(), path.best, self.fit_intercept)
        return replace(minimise(objective, Exact(method)), path=path)

    def _from_rows(self, blocks: Blocks) -> Fit:
        """Do everything with the rows themselves. One round."""
        cuts, p = blocks.cuts, blocks.cuts.n_features
        flat = blocks.reduce(Rows(fold=self.folds > 0), np.zeros(0)).reshape(cuts.n_samples, -1)
        end = p + cuts.n_targets + 1
        gathered = Gathered(flat[:, :end].ravel(), p, cuts.n_targets, self.fit_intercept)
        rows = gathered.rows()
        if self.folds:
            # In coordinates of the rows' own space the folds have as many columns as there are rows.
            basis, coordinates = span(flat[:, :p] - rows.mean)
            path = self._by_folds(lay_out(coordinates, flat[:, p : end - 1], flat[:, end - 1], fold=flat[:, end]))[1]
            coef = basis @ path.coef
            path = replace(path, coef=coef, intercept=path.intercept - rows.mean @ coef)
        else:
            spectrum = Spectrum(rows, self.alphas)
            path = self._path(self._mean_scores(spectrum.left_out(), blocks), *spectrum.ridge())
        return self._best(blocks, Rows(), gathered, path, "rows")

    def _by_folds(self, blocks: Blocks) -> tuple[Summary, Path]:
        parts = list(blocks.reduce(FoldMoments(self.folds), np.zeros(0)).reshape(self.folds, 1, -1))
        before = list(accumulate(parts, _both))
        after = list(accumulate(reversed(parts), lambda right, left: _both(left, right)))[::-1]
        scores = np.empty((len(self.alphas), self.folds))
        for fold, part in enumerate(parts):
            others = reduce(_both, before[:fold][-1:] + after[fold + 1 : fold + 2])
            if not others[0, 0] > 0:
                raise InputError(
                    f"the weight is zero of all rows but those of fold {fold}: there is nothing to train on"
                )
            coef, intercept = _Eigen(self._summary(blocks, others, self.fit_intercept)).ridge(self.alphas)
            if not part[0, 0] > 0:
                raise InputError(f"the rows of fold {fold} all have the weight 0: there is nothing to score")
            scores[:, fold] = _r2(self._summary(blocks, part, True).quadratic(), coef, intercept)
        summary = self._summary(blocks, before[-1], self.fit_intercept)
        return summary, self._path(scores, *self._eigen(blocks, summary).ridge(self.alphas))

    def _by_rows(self, blocks: Blocks) -> tuple[Summary, Path]:
        summary = self._summary(blocks, blocks.reduce(CentredMoments(), np.zeros(0)), self.fit_intercept)
        eigen = self._eigen(blocks, summary)
        coef, intercept = eigen.ridge(self.alphas)
        kernel = LeaveOneOut(len(self.alphas), summary.n_targets)
        sums = blocks.reduce(
            kernel,
            kernel.pack(
                mean=eigen.rows.mean,
                vectors=eigen.vectors,
                shrunk=eigen.shrunk(self.alphas),
                share=1.0 / eigen.rows.weight if self.fit_intercept else 0.0,
                coef=coef.transpose(1, 0, 2),
                intercept=intercept,
            ),
        )
        errors, exact = sums[:-1], sums[-1]
        if exact and few(blocks.cuts):
            flat = blocks.reduce(Rows(), np.zeros(0))
            gathered = Gathered(flat, blocks.cuts.n_features, summary.n_targets, self.fit_intercept)
            errors = Spectrum(gathered.rows(), self.alphas).left_out()
        elif exact:
            blocks.notice(
                f"alphas down to {min(self.alphas):g} are so small that some rows determine a coefficient alone: "
                "their scores, left out, have few digits; give larger alphas, or folds"
            )
        return summary, self._path(self._mean_scores(errors, blocks), coef, intercept)

    def _eigen(self, blocks: Blocks, summary: Summary) -> "_Eigen":
        """Return the decomposition for all alphas. One round where the condition asks for a triangle."""
        eigen = _Eigen(summary)
        if eigen.condition(min(self.alphas)) <= CONDITION:
            return eigen
        triangle = blocks.reduce(CentredTriangle(), np.zeros(0))
        return _Eigen(replace(summary, flat=triangle, triangular=True))

    def _path(self, scores: Array, coef: Array, intercept: Array) -> Path:
        return Path(np.array(self.alphas), scores, coef, intercept)

    def _mean_scores(self, errors: Array, blocks: Blocks) -> Array:
        """Return minus the mean over rows and targets (alphas, 1) of sums of squares (alphas, targets)."""
        return np.asarray(-errors.reshape(len(self.alphas), -1).mean(axis=1, keepdims=True) / blocks.cuts.n_samples)

    def _summary(self, blocks: Blocks, flat: Array, fit_intercept: bool) -> Summary:
        return Summary(flat.ravel(), False, blocks.cuts.n_samples, blocks.cuts.n_targets, fit_intercept)


def _both(left: Array, right: Array) -> Array:
    """Return the summary of the rows of both, in new memory."""
    return merge_moments(left.copy(), right)


class _Eigen:
    """X.T X = V diag(d) V.T: one decomposition for all alphas. With a triangle, which it takes as it is, d = s^2."""

    def __init__(self, summary: Summary) -> None:
        self.rows, self.fit_intercept = summary.quadratic(), summary.fit_intercept
        self._rounding = rank_tolerance(self.rows.n_features, 1)
        if summary.triangular:
            U, s, self.vectors, right = summary.decomposed()
            self.values, self._along = s * s, s[:, None] * (U.T @ right)
            self._rounding = self._rounding**2
        else:
            self.values, self.vectors = np.linalg.eigh(self.rows.xx)
            self._along = self.vectors.T @ self.rows.xy

    def condition(self, alpha: float) -> float:
        """Return the condition of X with this penalty."""
        least = max(float(self.values.min(initial=0.0)), 0.0) + alpha
        return float(np.sqrt((self.values.max(initial=0.0) + alpha) / least))

    def shrunk(self, alphas: Sequence[float]) -> Array:
        """Return 1 / (d + alpha) (p, alphas); 0 where that is 1 / 0, within rounding."""
        sizes = np.maximum(self.values, 0.0)[:, None] + np.array(alphas)
        floor = self._rounding * self.values.max(initial=0.0)
        return np.where(sizes > floor, 1.0 / np.where(sizes > floor, sizes, 1.0), 0.0)

    def ridge(self, alphas: Sequence[float]) -> tuple[Array, Array]:
        """Return W (alphas, p, k) and b (alphas, k)."""
        coef: Array = self.vectors @ (self.shrunk(alphas).T[:, :, None] * self._along)
        return coef, self.rows.intercept(coef) if self.fit_intercept else np.zeros((len(alphas), coef.shape[2]))


class _Known(Front):
    """Blocks of which one kernel's sums are known, so that an exact fit that asks for no others needs no rounds."""

    def __init__(self, blocks: Blocks, kernel: Kernel, flat: Array) -> None:
        super().__init__(blocks)
        self._kernel, self._flat, self._rounds = kernel, flat, 0

    @property
    def rounds(self) -> int:
        """The rounds that the sums and the scores have taken, once they were asked for; 0 before."""
        return self._rounds

    def reduce(self, kernel: Kernel, parameters: Array) -> Array:
        """Return what is known; else one round."""
        sums = self._flat if kernel == self._kernel else self._blocks.reduce(kernel, parameters)
        self._rounds = self._blocks.rounds
        return sums

    def run(self, program: Program[T], report: Report) -> T:
        """Run the program in this thread."""
        return program(self, report)


def _r2(rows: Quadratic, coef: Array, intercept: Array) -> Array:
    """Return R2 (alphas,) on these rows, the mean over the targets; as scikit-learn's for a constant y, 0 or 1."""
    gap = rows.y_mean - rows.mean @ coef - intercept
    squares = rows.yy + np.sum(coef * (rows.xx @ coef - 2.0 * rows.xy), axis=1) + rows.weight * gap**2
    constant = np.where(squares > 0, 0.0, 1.0)
    scores = np.where(rows.yy > 0, 1.0 - squares / np.where(rows.yy > 0, rows.yy, 1.0), constant)
    return np.asarray(scores.mean(axis=1))
