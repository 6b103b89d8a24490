"""What is known of rows before anything is fitted to them: sums of y, moments of columns, F where z is a constant."""

from dataclasses import dataclass

import numpy as np

from dist_dot.errors import DataError, InputError
from dist_dot.kernels.passes import Moments
from dist_dot.kernels.targets import ConstantValues, OffsetSums, ReferenceSums, SlopeSizes, TargetSums
from dist_dot.losses import Loss, line, shifted
from dist_dot.reference import ROUNDING, Sizes
from dist_dot.rounds.blocks import Blocks
from dist_dot.typing import Array

# Deviations from 0 at which the mean of a column is far: uncentred, the squares of float32 rows have three digits less.
FAR = 32.0
# How far slopes at one constant may be from those at another that they tell, in units of the slopes of a label.
NEAR = 1.0
# The curvature at a constant that a Hessian can be divided by.
TINY = float(np.finfo(np.float32).tiny) / float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class ColumnMoments:
    """Weighted means and central second moments of the columns of X.

    weight is sum_i s_i; mean (p,) are the weighted means; spread (p,) is sum_i s_i (x_ij - mean_j)^2; far (p,) is
    whether the mean is more than 32 deviations from 0.
    """

    weight: float
    mean: Array
    spread: Array
    far: Array


class Baseline:
    """Sums that are asked for once, and what follows from them. A penalty has no share in them.

    A constant z is one number for each output (n_outputs,), to which rows add their offsets. Gradients are unpenalised
    and padded: of each output p + 1 numbers, that in b last, whether an intercept is fitted or not. Losses whose slope
    is a line in y tell the gradient at one constant from that at another: see `dist_dot.losses.line`.
    """

    def __init__(self, blocks: Blocks, loss: Loss, fit_intercept: bool) -> None:
        self._blocks, self._loss, self._fit_intercept = blocks, loss, fit_intercept
        cuts = blocks.cuts
        self._p, self._targets, self._outputs = cuts.n_features, cuts.n_targets, cuts.n_targets * loss.outputs
        # `functools.cached_property` has one lock for all objects in Python 3.11: loops that meet in each round would
        # wait for each other.
        self._target_sums: Array | None = None
        self._offset_sums: Array | None = None
        self._reference_sums: list[Array] | None = None
        self._moments: ColumnMoments | None = None
        self._by_expansion = False

    @property
    def target_sums(self) -> Array:
        """The sums of `TargetSums`. One round, which reads y alone. Raises InputError if the weights sum to zero."""
        if self._target_sums is None:
            sums = self._blocks.reduce(TargetSums(self._loss), np.zeros(0))
            if not np.isfinite(sums[0]):
                raise DataError("the sample weights overflow float64 in sum: divide them by a power of ten")
            if not sums[0] > 0:
                raise InputError("the sample weights are all zero: no row counts")
            self._target_sums = sums
        return self._target_sums

    @property
    def weight(self) -> float:
        """The sum of the weights. The round of `target_sums`."""
        return float(self.target_sums[0])

    @property
    def mean(self) -> Array:
        """The weighted mean of each target, or the share of each class. The round of `target_sums`."""
        mean: Array = self.target_sums[1:] / self.target_sums[0]
        return mean

    @property
    def _of_offsets(self) -> Array:
        """The sums of `OffsetSums`. One round, which reads y and the offsets."""
        if self._offset_sums is None:
            self._offset_sums = self._blocks.reduce(OffsetSums(self._loss), np.zeros(0))
        return self._offset_sums

    @property
    def knows_columns(self) -> bool:
        """Whether `reference_sums` costs no round any more."""
        return self._reference_sums is not None

    @property
    def reference_sums(self) -> list[Array]:
        """The gradient at the best constant, and the other sums of `ReferenceSums`: of x, of x^2, and of the targets.

        One round, which reads X once, beside that of `target_sums`.
        """
        if self._reference_sums is None:
            null, p = self.best_constant(), self._p
            sums = self._blocks.reduce(ReferenceSums(self._loss), null)
            self._reference_sums = self._finite(np.split(sums, null.size + np.array([0, p, 2 * p])))
        return self._reference_sums

    def _finite(self, sums: list[Array]) -> list[Array]:
        """Return the sums of `reference_sums`. Raises DataError where squares of a column or of y are out of range."""
        _, first, raw, of_targets = sums
        of_y, sizes = "y" if self._targets == 1 else "a target of y", of_targets.reshape(2, -1)[1]
        with np.errstate(over="ignore", invalid="ignore", under="ignore"):
            mean, of_mean = first / self.weight, float(np.max(np.abs(self.mean)))
            large = {f"column {j} of X": mean[j] for j in np.flatnonzero(~np.isfinite(raw))[:1]}
            large |= {} if np.isfinite(of_targets).all() else {of_y: of_mean}
            small = {f"column {j} of X": mean[j] for j in np.flatnonzero((raw == 0) & (mean != 0))[:1]}
            small |= {of_y: of_mean} if of_mean and not sizes.all() else {}
        for name, about in large.items():
            raise DataError(
                f"{name} is about {about:.0e}, and its squares overflow float64: divide it by a power of ten"
            )
        for name, about in small.items():
            raise DataError(
                f"{name} is about {about:.0e}, and its squares vanish in float64: multiply it by a power of ten"
            )
        return sums

    def mean_model(self) -> Array:
        """Return the z (n_outputs,) for the mean of y where rows have no offset. The round of `target_sums`."""
        several, mean = self._loss.outputs > 1, self.mean
        return np.asarray(self._loss.link(mean) if several else [self._loss.link(float(m)) for m in mean])

    def null_model(self) -> Array:
        """Return the padded parameters of W = 0 and the b that predicts the mean of y. The round of `target_sums`.

        Where rows have an offset, a round more: what they predict is b + offset, and the b is the best one, but for the
        logistic loss and those of the user's own, where it is link(mean of y) less the mean offset.
        """
        full = np.zeros((self._outputs, self._p + 1))
        full[:, -1] = self.mean_model()
        if self._blocks.cuts.offset and self._loss.outputs == 1:
            shares = self._of_offsets[1:-1] / self._of_offsets[0]
            if shifted(self._loss, 0.0, 0.0) is None:
                full[:, -1] -= shares
            else:
                full[:, -1] = [self._loss.link(float(m)) for m in shares]
        return full.ravel()

    def best_constant(self) -> Array:
        """Return the same, with z = 0 where y is at an end of its domain throughout.

        There z would be infinite, and the gradient nothing but what `link` puts in its place.
        """
        null, mean = self.null_model(), self.mean
        low, high = (0.0, 1.0) if self._loss.outputs > 1 else self._loss.domain
        at_end = mean >= high * (1.0 - 1e-12)  # the sums of s and of s y have roundings of their own
        at_end = np.full(mean.size, at_end.any()) if self._loss.outputs > 1 else at_end | (mean <= low)
        null.reshape(self._outputs, -1)[at_end, -1] = 0.0
        return null

    def moments(self) -> ColumnMoments:
        """Return the moments of the columns. Those of `reference_sums`, and a round more where a column is far from 0.

        Such columns are summed up about their means, so that nothing cancels.
        """
        if self._moments is None:
            self._moments = self._measured()
        return self._moments

    def _measured(self) -> ColumnMoments:
        p, weight = self._p, self.weight
        _, first, raw, _ = self.reference_sums
        mean = first / weight
        with np.errstate(over="ignore", invalid="ignore"):
            spread = raw - first * mean
        spread = np.where(np.isfinite(spread), spread, raw)
        far = np.isfinite(raw) & (spread < raw / FAR**2)
        if far.any():
            centre = np.where(far, mean, 0.0)
            sums = self._blocks.reduce(Moments(), np.append(centre, np.zeros(self._targets)))
            left, squares = sums[1 : 1 + p], sums[1 + p + self._targets :][:p]
            mean = np.where(far, centre + left / weight, mean)
            spread = np.where(far, squares - left * left / weight, spread)
        return ColumnMoments(weight, mean, np.maximum(spread, 0.0), far)

    def sizes(self) -> Sizes:
        """Return how large the numbers are that the gradient at the best constant is the sum of."""
        _, first, raw, of_targets = self.reference_sums
        weight, intercept = self.weight, self._fit_intercept
        slopes, parts = of_targets.reshape(2, -1).max(axis=1)
        one, mean = [weight] * int(intercept), first / weight
        with np.errstate(over="ignore", invalid="ignore"):
            centred = raw - first * mean
        if intercept and self._by_expansion:
            # Those sums have the roundings of products: what is left of a column far from 0 is known about its mean.
            mean, centred = self.moments().mean, self.moments().spread
        return Sizes(np.append(raw, one), np.append(centred, one), mean, slopes, parts)

    def curvature(self) -> float:
        """Return the typical curvature of the loss in z: its supremum, or that at the constant for the mean of y."""
        return typical_curvature(self._loss, self.mean)

    def curvatures(self) -> Array:
        """Return the same for each output (n_outputs,)."""
        means = [self.target_sums[1:]] if self._loss.outputs > 1 else self.target_sums[1:]
        each = [typical_curvature(self._loss, np.asarray(mean) / self.target_sums[0]) for mean in means]
        return np.broadcast_to(each, (self._outputs,)).astype(np.float64)

    def rounding(self, W: Array, b: Array) -> float:
        """Return what F may be off by the rounding of z alone, where z is the difference of large numbers.

        Roundings are independent, row by row, and the slopes are those of the best constant. Sizes that overflow say
        nothing.
        """
        _, _, raw, of_targets = self.reference_sums
        cuts, slopes = self._blocks.cuts, of_targets.reshape(2, -1)[0]
        with np.errstate(over="ignore", invalid="ignore"):
            parts = np.sqrt(raw / self.weight) @ np.abs(W) + np.abs(b)
            parts = parts + np.sqrt(self._of_offsets[-1] / self.weight) if cuts.offset else parts
            squares = float(np.sum(parts**2 * slopes)) * self.weight / cuts.n_samples
        size = ROUNDING * float(np.finfo(cuts.dtype).eps) * float(np.sqrt(squares))
        return size if np.isfinite(size) else 0.0

    def constants(self, W: Array, b: Array) -> Array | None:
        """Return the z of all rows, where it is the same for all and the loss's slope is a line in y; else None."""
        return None if W.any() or self._blocks.cuts.offset or line(self._loss, b) is None else b

    def sums_at(self, z: Array) -> Array:
        """Return [loss, padded gradient] at a constant. One round, which reads y alone, beside `reference_sums`."""
        value = self._blocks.reduce(ConstantValues(self._loss), z)
        gradient, first, _, _ = self.reference_sums
        return np.append(value, self._moved(gradient, first, self._at_best(), z))

    def shown_at(self, z: Array) -> bool:
        """Whether the sums of an expansion at a constant tell the columns. At most the round of `target_sums`.

        At W = 0 the curvature of a loss, where no y has a share in it, is the same for all rows: the Hessian is X.T X.
        Its sums have to be of float64 rows: those of others are products in float32. And the slopes must not be far
        from those of the best constant: their difference would be one of large numbers.
        """
        if self.knows_columns or self._blocks.cuts.dtype != "float64":
            return False
        if np.any(np.abs(self._shift(z, self._at_best())[1]) > NEAR):
            return False
        y = np.zeros(1 if self._loss.outputs > 1 else z.size)
        curvature = self._loss.second(y, z)
        return bool(np.array_equal(curvature, self._loss.second(y + 1.0, z)) and np.ravel(curvature)[0] > TINY)

    def remember(self, gradient: Array, triangle: Array, z: Array) -> None:
        """Keep what the sums of an expansion at a constant say of the columns. One round, which reads y alone.

        The triangle begins with that of the first output.
        """
        p, at_best = self._p, self._at_best()
        curvature = np.ravel(self._loss.second(np.zeros(1 if self._loss.outputs > 1 else z.size), z))[0]
        i = np.arange(p + 1)
        raw, first = triangle[i * (i + 3) // 2][:p] / curvature, triangle[p * (p + 1) // 2 :][:p] / curvature
        of_targets = self._blocks.reduce(SlopeSizes(self._loss), at_best)
        sums = [self._moved(gradient, first, z, at_best), first, raw, of_targets]
        self._reference_sums = self._finite(sums)
        self._by_expansion = True

    def _at_best(self) -> Array:
        """Return the best constant."""
        return self.best_constant().reshape(self._outputs, -1)[:, -1]

    def _moved(self, gradient: Array, first: Array, z: Array, to: Array) -> Array:
        """Return the gradient at another constant; `first` (p,) are the sums of s x."""
        by, more = self._shift(z, to)
        sums = np.append(first, self.target_sums[0])
        moved: Array = by[:, None] * gradient.reshape(z.size, -1) + more[:, None] * sums
        return moved.ravel()

    def _shift(self, z: Array, to: Array) -> tuple[Array, Array]:
        """Return f and g, where f r + g is the slope at other constants of a row whose slope is r."""
        (a, c), (other_a, other_c) = line(self._loss, z) or (z, z), line(self._loss, to) or (to, to)
        by = other_c / c
        return by, other_a - by * a


def typical_curvature(loss: Loss, mean_y: Array) -> float:
    """Return the supremum of d2 loss / dz2; where there is none, that at the constant which predicts the mean of y."""
    if loss.curvature is not None:
        return loss.curvature
    mean = float(np.mean(mean_y))
    return float(loss.second(np.array(mean), np.array(loss.link(mean))))
