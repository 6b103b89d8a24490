"""The objective F, and what is known about it: each method call is one round, unless it says otherwise."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dist_dot.errors import InputError, SolverError
from dist_dot.kernels.gram import unpacked
from dist_dot.kernels.passes import (
    Curvature,
    Expansion,
    GramProduct,
    HessianProduct,
    Moments,
    Roundings,
    ValueAndGradient,
    coupled,
)
from dist_dot.kernels.targets import ConstantValues, ReferenceSums, SlopeSizes, TargetSums
from dist_dot.losses import Huber, Loss, line
from dist_dot.reference import ROUNDING, Reference, Sizes
from dist_dot.rounds.blocks import Blocks
from dist_dot.rounds.held_out import HeldOut
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


@dataclass(frozen=True)
class Coefficients:
    """What a linear fit finds: w (p,) and a number, 0 without an intercept; for k > 1 outputs w (p, k) and b (k,)."""

    w: Array
    intercept: float | Array


@dataclass(frozen=True)
class Objective:
    """The regularised sum of losses over the rows of `blocks`.

    ::

        F(W, b) = sum_i s_i * loss(y_i, z_i)  +  alpha / 2 * ||scale * W||^2          z_i = <x_i, W> + b + o_i

    X is (n, p), W is (p, k) and b (k,), with k outputs: 1, as many as y has targets, whose losses add up, or a class
    each. b is never penalised, and is 0 without `fit_intercept`; s_i >= 0 are the sample weights, 1 where none were
    given, and o_i the offsets, 0 where none were. `scale` (p,) is 1 where none is given; with the standard deviations
    of the columns the penalty is that of standardised columns, and W is still that of X as it is (see `standardized`).

    Solvers see one flat vector of `n_parameters` numbers: W row by row, then b, which is not there without
    `fit_intercept`.

    Raises InputError for an alpha that is negative or not finite, and for a scale of another length.
    """

    blocks: Blocks
    loss: Loss
    alpha: float = 0.0
    fit_intercept: bool = True
    scale: Array | None = None

    def __post_init__(self) -> None:
        if not (np.isfinite(self.alpha) and self.alpha >= 0):
            raise InputError(f"alpha is {self.alpha!r}: the L2 strength is a finite number >= 0")
        if self.scale is not None and self.scale.shape != (self.n_features,):
            raise InputError(f"scale has shape {self.scale.shape}, expected ({self.n_features},), one for each column")

    @property
    def problem(self) -> "Linear":
        """The problem without the rows. Standardised columns are in its `scale`."""
        return Linear(self.loss, self.alpha, self.fit_intercept, self.scale)

    @property
    def convex(self) -> bool:
        """True: so are the losses, and the penalty."""
        return True

    @property
    def n_features(self) -> int:
        """Columns of X."""
        return self.blocks.cuts.n_features

    @property
    def n_targets(self) -> int:
        """Columns of y."""
        return self.blocks.cuts.n_targets

    @property
    def n_outputs(self) -> int:
        """Columns of W."""
        return self.n_targets * self.loss.outputs

    @property
    def n_parameters(self) -> int:
        """Length of the flat vector: (p + 1) k, or p k without an intercept."""
        return (self.n_features + int(self.fit_intercept)) * self.n_outputs

    def split(self, parameters: Array) -> tuple[Array, Array]:
        """Return W (p, k) and b (k,), which is 0 without an intercept, of a flat vector."""
        count = self.n_features * self.n_outputs
        W = parameters[:count].reshape(self.n_features, self.n_outputs)
        return W, parameters[count:] if self.fit_intercept else np.zeros(self.n_outputs)

    def join(self, W: Array, b: Array) -> Array:
        """Return the flat vector of W (p, k) and b (k,), which does not count without an intercept: `split` undone."""
        return np.vstack([W, b])[: self.n_features + int(self.fit_intercept)].astype(np.float64).ravel()

    def padded(self, parameters: Array) -> Array:
        """Return the flat vector as kernels take it: [w, b] of each output, with b = 0 where there is none."""
        if parameters.shape != (self.n_parameters,):
            raise InputError(f"parameters have shape {parameters.shape}, expected ({self.n_parameters},)")
        if self.n_outputs == 1:
            return parameters if self.fit_intercept else np.append(parameters, 0.0)
        W, b = self.split(parameters)
        return np.vstack([W, b]).T.ravel()

    @property
    def penalty(self) -> Array:
        """Alpha * scale^2 for each coefficient, 0 for an intercept: the Hessian of the penalty, as its diagonal."""
        known: Array | None = self.__dict__.get("known_penalty")
        if known is None:
            one = np.full(self.n_features, float(self.alpha))
            if self.scale is not None:
                one *= self.scale * self.scale
            known = np.append(np.repeat(one, self.n_outputs), np.zeros(self.n_outputs * int(self.fit_intercept)))
            known.flags.writeable = False
            self.__dict__["known_penalty"] = known
        return known

    def standardized(self) -> "Objective":
        """Return the objective whose penalty is that of standardised columns. Rounds as for `moments`.

        W and b of its minimiser are what a fit to (x - mean) / deviation finds, divided by the deviations, with the
        intercept that belongs to it: an exact minimiser, without another X. Without an intercept the columns are only
        scaled, by their deviations too. A column that does not vary keeps the scale 1.
        """
        moments = self.moments()
        deviation = deviations(moments.mean, moments.spread / moments.weight)
        scaled = replace(self, scale=np.where(deviation > 0, deviation, 1.0))
        known = ("target_sums", "reference_sums", "column_moments", "by_expansion")  # no penalty has a share in them
        scaled.__dict__.update({name: self.__dict__[name] for name in known if name in self.__dict__})
        return scaled

    def check(self) -> None:
        """Raise DataError if a y is outside of the loss's domain, InputError if the weights are all 0.

        One round that reads y alone; none for a loss that takes every y.
        """
        if any(map(np.isfinite, self.loss.domain)):
            self._target_sums  # noqa: B018 (they are looked at when they are made)

    def value_and_gradient(self, parameters: Array) -> tuple[float, Array]:
        """Return F and its gradient at a flat vector. One round; reads X once."""
        sums = self.blocks.reduce(ValueAndGradient(self.loss), self.padded(parameters))
        return self._penalised(sums, parameters)

    def first_value_and_gradient(self, parameters: Array) -> tuple[float, Array]:
        """Return the same at the start of a run. One round, which reads y alone where `reference` is known.

        That is at W = 0, for a loss whose slope is a line in y. Elsewhere it is `value_and_gradient`, and so it is
        where rows are held out, whose loss comes with an evaluation.
        """
        z, known = self._constants(parameters), "reference_sums" in self.__dict__
        if z is None or not known or isinstance(self.blocks, HeldOut):
            return self.value_and_gradient(parameters)
        value = self.blocks.reduce(ConstantValues(self.loss), z)
        gradient, first, _, _ = self._reference_sums
        at_best = self._best_constant().reshape(z.size, -1)[:, -1]
        return self._penalised(np.append(value, self._moved(gradient, first, at_best, z)), parameters)

    def values_and_gradients(self, points: Array) -> tuple[Array, Array]:
        """Return F (m,) and its gradients (m, n_parameters) at m points (m, n_parameters). One round; reads X once.

        Raises InputError for points of another shape.
        """
        if points.ndim != 2 or not len(points):
            raise InputError(f"points have shape {points.shape}, expected (m, {self.n_parameters})")
        padded = np.concatenate([self.padded(point) for point in points])
        sums = self.blocks.reduce(ValueAndGradient(self.loss, len(points)), padded).reshape(len(points), -1)
        both = [self._penalised(of_point, point) for of_point, point in zip(sums, points, strict=True)]
        return np.array([value for value, _ in both]), np.array([gradient for _, gradient in both])

    def hessian(self, parameters: Array, centre: Array | None = None) -> Array:
        """Return the Hessian of F (n_parameters, n_parameters). One round; n p^2 operations for each pair of outputs.

        That is one pair for one output, k (k + 1) / 2 for softmax. With a centre (p,) it is that of F as a function of
        W and b + centre @ W: the same but for a change of coordinates, in which columns far from 0 cancel nothing.
        """
        return self._hessian(self.blocks.reduce(Curvature(self.loss, _tuple(centre)), self.padded(parameters)))

    def expansion(self, parameters: Array, centre: Array | None = None) -> tuple[float, Array, Array]:
        """Return F, its gradient, and its Hessian as above. One round; costs little more than the Hessian alone.

        Where `shows_columns`, and without a centre, there is one more round, which reads y alone, and `reference` and
        `moments` are then known.
        """
        sums = self.blocks.reduce(Expansion(self.loss, _tuple(centre)), self.padded(parameters))
        split = 1 + self.n_outputs * (self.n_features + 1)
        if not np.any(centre) and self.shows_columns(parameters):
            self._remember(sums[1:split], sums[split:], parameters)
        return (*self._penalised(sums[:split], parameters), self._hessian(sums[split:]))

    def shows_columns(self, parameters: Array) -> bool:
        """Whether an expansion at a flat vector knows the columns of X, and they are not known yet.

        At most the round of `check`.

        At W = 0 the curvature of a loss, where no y has a share in it, is the same for all rows: the Hessian is X.T X.
        Its sums have to be of float64 rows: those of others are products in float32. And the slopes must not be far
        from those of the best constant: their difference would be one of large numbers.
        """
        z = self._constants(parameters)
        if z is None or "reference_sums" in self.__dict__ or self.blocks.cuts.dtype != "float64":
            return False
        if np.any(np.abs(self._shift(z, self._best_constant().reshape(z.size, -1)[:, -1])[1]) > NEAR):
            return False
        y = np.zeros(1 if self.loss.outputs > 1 else z.size)
        curvature = self.loss.second(y, z)
        return bool(np.array_equal(curvature, self.loss.second(y + 1.0, z)) and np.ravel(curvature)[0] > TINY)

    def hessian_product(self, parameters: Array, direction: Array) -> Array:
        """Return the Hessian of F at a flat vector times a direction. One round; reads X once."""
        both = np.concatenate([self.padded(parameters), self.padded(direction)])
        product: Array = self._strip(self.blocks.reduce(HessianProduct(self.loss), both)) + self.penalty * direction
        return product

    def curvature_bound_product(self, direction: Array) -> Array:
        """Return H d for an H that is no smaller than the Hessian of F at any point. One round; reads X once.

        H = c * X.T S X + alpha I with c the supremum of d2 loss / dz2: the Hessian itself for the squared loss.
        Raises SolverError for a loss whose curvature has no bound.
        """
        if self.loss.curvature is None:
            raise SolverError(f"the curvature of the {self.loss.name} loss has no bound: use a solver with line search")
        sums = self.blocks.reduce(GramProduct(), self.padded(direction))
        product: Array = self.loss.curvature * self._strip(sums) + self.penalty * direction
        return product

    def moments(self) -> ColumnMoments:
        """Return the moments of the columns. The rounds of `reference`, and one more where a column is far from 0.

        Such columns are summed up about their means, so that nothing cancels. `reference` does not make its rounds
        again. Raises InputError if the weights sum to zero.
        """
        known: ColumnMoments | None = self.__dict__.get("column_moments")
        if known is None:
            known = self.__dict__["column_moments"] = self._moments()
        return known

    def _moments(self) -> ColumnMoments:
        p, weight = self.n_features, float(self._target_sums[0])
        _, first, raw, _ = self._reference_sums
        mean = first / weight
        with np.errstate(over="ignore", invalid="ignore"):
            spread = raw - first * mean
        spread = np.where(np.isfinite(spread), spread, raw)
        far = np.isfinite(raw) & (spread < raw / FAR**2)
        if far.any():
            centre = np.where(far, mean, 0.0)
            sums = self.blocks.reduce(Moments(), np.append(centre, np.zeros(self.n_targets)))
            left, squares = sums[1 : 1 + p], sums[1 + p + self.n_targets :][:p]
            mean = np.where(far, centre + left / weight, mean)
            spread = np.where(far, squares - left * left / weight, spread)
        return ColumnMoments(weight, mean, np.maximum(spread, 0.0), far)

    def start(self) -> Array:
        """Return the flat vector where a run begins that is given no other: 0.

        For the Huber loss it is the `null_model` where F is lower there, unless rows have an offset: far from y that
        loss has no curvature, and nothing says how far to go. It costs two rounds of y alone, one of which `reference`
        does not make again.
        """
        zero = np.zeros(self.n_parameters)
        if not isinstance(self.loss, Huber) or not self.fit_intercept or self.blocks.cuts.offset:
            return zero
        null = self.null_model()[1]
        intercepts = np.append(np.zeros(self.n_outputs), self.split(null)[1])
        values = self.blocks.reduce(ConstantValues(self.loss), intercepts)
        return null if values[1] < values[0] else zero

    def null_model(self) -> tuple[float, Array]:
        """Return the sum of the weights, and the flat vector of W = 0 and the b that predicts the mean of y. One round.

        It reads y alone. Without an intercept the vector is 0. Raises InputError if the weights sum to zero.
        """
        sums = self._target_sums
        return float(sums[0]), self._strip(self._null_model(sums))

    def reference(self) -> Reference:
        """Return the gradient at W = 0 and z = link(weighted mean of y), for all rows, and the rounding of its sums.

        That z is the same without an intercept and whatever the offsets are, and 0 where y is at an end of its domain
        throughout. The gradient is in the units of those near the minimum, whatever the unit of y and wherever a run
        starts. Two rounds: one reads y alone, and is not made again after `check`; the other reads X once.
        Raises InputError if the weights sum to zero.
        """
        weight = float(self._target_sums[0])
        gradient, first, raw, of_targets = self._reference_sums
        p = self.n_features
        slopes, parts = of_targets.reshape(2, -1).max(axis=1)
        one, mean = [weight] * int(self.fit_intercept), first / weight if self.fit_intercept else np.zeros(p)
        with np.errstate(over="ignore", invalid="ignore"):
            centred = raw - first * mean
        if self.fit_intercept and "by_expansion" in self.__dict__:
            # Those sums have the roundings of products: what is left of a column far from 0 is known about its mean.
            mean, centred = self.moments().mean, self.moments().spread
        sizes = Sizes(np.append(raw, one), np.append(centred, one), mean, slopes, parts)
        return Reference.of(self._strip(gradient), sizes, self.blocks.cuts)

    def far_columns(self) -> tuple[Array, Array]:
        """Return the means (p,) of columns far from 0, as numbers of the rows' dtype, and sum_i s_i (x_ij - mean_j)^2.

        The means are 0 for other columns, and for all of them without an intercept; the sums (p,) are 0 where a column
        is constant but for rounding. Rounds as for `moments`.
        """
        if not self.fit_intercept:
            return np.zeros(self.n_features), self._reference_sums[2]
        moments = self.moments()
        mean = np.where(moments.far, moments.mean, 0.0).astype(self.blocks.cuts.dtype).astype(np.float64)
        varies = deviations(moments.mean, moments.spread / moments.weight) > 0
        return mean, np.where(varies & np.isfinite(moments.spread), moments.spread, 0.0)

    def curvature(self) -> float:
        """Return the typical curvature of the loss in z: its supremum, or that of the best constant.

        A round of y, once.
        """
        return typical_curvature(self.loss, self._target_sums[1:] / self._target_sums[0])

    def least_curvature(self) -> Array:
        """Return the curvature in z (n_outputs,) that is rounding beside the typical. No round beside `reference`."""
        return float(np.finfo(np.float64).eps) * self._curvatures

    def rounding(self, parameters: Array) -> float:
        """Return what F may be off by the rounding of z alone, where z is the difference of large numbers.

        Roundings are independent, row by row, and the slopes are those of the best constant. No round but those of
        `reference`. Sizes that overflow say nothing.
        """
        _, _, raw, of_targets = self._reference_sums
        weight, (W, b) = float(self._target_sums[0]), self.split(parameters)
        slopes = of_targets.reshape(2, -1)[0]
        with np.errstate(over="ignore", invalid="ignore"):
            parts = np.sqrt(raw / weight) @ np.abs(W) + np.abs(b)
            squares = float(np.sum(parts**2 * slopes)) * weight / self.blocks.cuts.n_samples
        size = ROUNDING * float(np.finfo(self.blocks.cuts.dtype).eps) * float(np.sqrt(squares))
        return size if np.isfinite(size) else 0.0

    def is_rounding(self, parameters: Array, gradient: Array) -> bool:
        """Return whether the gradient at a flat vector is rounding. Two rounds beside those of `moments`.

        In exact arithmetic it would be that of rows, w and b that differ by (sqrt(n) + p + 5) roundings, times 4, in
        each number. It is rounding where such changes, there and at the best constant, may make as much of its largest
        entry, and of its norm in columns that are centred and have curvature 1. Where they may make more than all that
        the gradient at the best constant is the sum of, z is lost, and they explain nothing.
        """
        cuts, k, eps = self.blocks.cuts, self.n_outputs, float(np.finfo(self.blocks.cuts.dtype).eps)
        moments, raw = self.moments(), self._reference_sums[2]
        mean = moments.mean if self.fit_intercept else np.zeros(self.n_features)
        unit = 4.0 * eps * (np.sqrt(cuts.n_samples) + self.n_features + 5.0)
        kernel = Roundings(self.loss, tuple(map(float, mean)), float(unit))
        points = self.padded(parameters), self._best_constant()
        there, null = (self.blocks.reduce(kernel, point).reshape(2, -1) for point in points)
        pull = self.penalty * np.abs(parameters)
        about, plain = (unit * (self._strip(each) + pull) for each in there + null)
        spread = (moments.spread if self.fit_intercept else raw) + eps * eps * raw
        sizes = self.curvature() * np.append(spread, [moments.weight] * int(self.fit_intercept))
        root = np.sqrt(np.repeat(sizes, k) + self.penalty)
        root = np.where(root > 0, root, 1.0)
        centred = gradient.reshape(-1, k).copy()
        if self.fit_intercept:
            centred[:-1] -= mean[:, None] * centred[-1]
        scaled, bound, size = (np.linalg.norm(each / root) for each in (centred.ravel(), about, self._strip(null[0])))
        largest = np.abs(gradient).max(initial=0.0)
        return bool(scaled <= bound <= size and largest <= plain.max(initial=0.0))

    def violation(self, parameters: Array, gradient: Array) -> Array:
        """Return the gradient: F is smooth, and has its minimum where that is 0."""
        return gradient

    def result(self, parameters: Array) -> Coefficients:
        """Return W and b of a flat vector as a Fit has them."""
        W, b = self.split(parameters)
        return Coefficients(W[:, 0], float(b[0])) if self.n_outputs == 1 else Coefficients(W, b)

    def held_out_loss(self, parameters: Array) -> float:
        """Return the mean loss of the rows held out. No round where F was evaluated there lately, else one.

        Raises InputError for blocks of which no rows are held out.
        """
        if not isinstance(self.blocks, HeldOut):
            raise InputError("no rows are held out of these blocks: give `minimise` early_stopping=EarlyStopping()")
        return self.blocks.loss_at(self.loss, self.padded(parameters))

    def explained(self, parameters: Array) -> float:
        """Return D2 = 1 - deviance(model) / deviance(best constant): R2 for the squared loss. Three rounds.

        Without a penalty, on these blocks, which may hold other rows than the model was trained on. The best constant
        knows no offset. D2 is 1.0 for a constant y that is met exactly and -inf for one that is not. Reads X once.
        """
        constant = self._null_model(self._target_sums).reshape(self.n_outputs, -1)[:, -1]
        dropped, value = self.blocks.reduce(ConstantValues(self.loss, deviance=True), constant)
        model = float(self.blocks.reduce(ValueAndGradient(self.loss), self.padded(parameters))[0] + dropped)
        null = float(value + dropped)
        if null == 0.0:
            return 1.0 if model == 0.0 else -np.inf
        return 1.0 - model / null

    @property
    def _target_sums(self) -> Array:
        """The sums of `TargetSums`, asked for once.

        `functools.cached_property` has one lock for all objectives in Python 3.11: loops that meet in each round would
        wait for each other.
        """
        known: Array | None = self.__dict__.get("target_sums")
        if known is None:
            known = self.blocks.reduce(TargetSums(self.loss), np.zeros(0))
            _require_weight(known[0])
            self.__dict__["target_sums"] = known
        return known

    @property
    def _curvatures(self) -> Array:
        """The typical curvature in z of each output."""
        means = [self._target_sums[1:]] if self.loss.outputs > 1 else self._target_sums[1:]
        each = [typical_curvature(self.loss, np.asarray(mean) / self._target_sums[0]) for mean in means]
        return np.broadcast_to(each, (self.n_outputs,)).astype(np.float64)

    @property
    def _reference_sums(self) -> list[Array]:
        """The gradient, and the other sums of `ReferenceSums`, asked for once: of x, of x^2, and of the targets."""
        known: list[Array] | None = self.__dict__.get("reference_sums")
        if known is None:
            null, p = self._best_constant(), self.n_features
            sums = self.blocks.reduce(ReferenceSums(self.loss), null)
            known = np.split(sums, null.size + np.array([0, p, 2 * p]))
            self.__dict__["reference_sums"] = known
        return known

    def _remember(self, gradient: Array, triangle: Array, parameters: Array) -> None:
        """Keep what the sums of an expansion at W = 0 say of the columns. One round, which reads y alone.

        The triangle begins with that of the first output.
        """
        b, p = self.split(parameters)[1], self.n_features
        at_best = self._best_constant().reshape(b.size, -1)[:, -1]
        curvature = np.ravel(self.loss.second(np.zeros(1 if self.loss.outputs > 1 else b.size), b))[0]
        i = np.arange(p + 1)
        raw, first = triangle[i * (i + 3) // 2][:p] / curvature, triangle[p * (p + 1) // 2 :][:p] / curvature
        of_targets = self.blocks.reduce(SlopeSizes(self.loss), at_best)
        self.__dict__["reference_sums"] = [self._moved(gradient, first, b, at_best), first, raw, of_targets]
        self.__dict__["by_expansion"] = True

    def _constants(self, parameters: Array) -> Array | None:
        """Return the z of all rows (n_outputs,), where they have one and the loss's slope is a line in y; else None."""
        W, b = self.split(parameters)
        return None if W.any() or self.blocks.cuts.offset or line(self.loss, b) is None else b

    def _moved(self, gradient: Array, first: Array, z: Array, to: Array) -> Array:
        """Return the padded unpenalised gradient at W = 0 and other constants (n_outputs,): slopes are lines in y."""
        by, more = self._shift(z, to)
        sums = np.append(first, self._target_sums[0])
        moved: Array = by[:, None] * gradient.reshape(z.size, -1) + more[:, None] * sums
        return moved.ravel()

    def _shift(self, z: Array, to: Array) -> tuple[Array, Array]:
        """Return f and g, where f r + g is the slope at other constants of a row whose slope is r (n_outputs,)."""
        (a, c), (other_a, other_c) = line(self.loss, z) or (z, z), line(self.loss, to) or (to, to)
        by = other_c / c
        return by, other_a - by * a

    def _best_constant(self) -> Array:
        """Return the padded flat vector of the best constant, with z = 0 where y is at an end of its domain.

        There z would be infinite, and the gradient nothing but what `link` puts in its place.
        """
        null, sums = self._null_model(self._target_sums), self._target_sums
        mean, (low, high) = sums[1:] / sums[0], (0.0, 1.0) if self.loss.outputs > 1 else self.loss.domain
        at_end = mean >= high * (1.0 - 1e-12)  # the sums of s and of s y have roundings of their own
        at_end = np.full(mean.size, at_end.any()) if self.loss.outputs > 1 else at_end | (mean <= low)
        null.reshape(self.n_outputs, -1)[at_end, -1] = 0.0
        return null

    def _null_model(self, sums: Array) -> Array:
        """Return the padded flat vector of the best constant."""
        mean = sums[1:] / sums[0]
        full = np.zeros((self.n_outputs, self.n_features + 1))
        full[:, -1] = self.loss.link(mean) if self.loss.outputs > 1 else [self.loss.link(float(m)) for m in mean]
        return full.ravel()

    def _penalised(self, sums: Array, parameters: Array) -> tuple[float, Array]:
        """Return F and its gradient from the sums of one pass."""
        pull = self.penalty * parameters
        return float(sums[0] + 0.5 * (pull @ parameters)), self._strip(sums[1:]) + pull

    def _hessian(self, sums: Array) -> Array:
        """Return the Hessian of F from the sums of `Curvature`."""
        p, k = self.n_features, self.n_outputs
        full = np.zeros((k, p + 1, k, p + 1))
        pairs = coupled(self.loss, k)
        for (c, d), part in zip(pairs, sums.reshape(len(pairs), -1), strict=True):
            full[c, :, d, :] = full[d, :, c, :] = unpacked(part)
        size = p + int(self.fit_intercept)
        ordered = full.transpose(1, 0, 3, 2)[:size, :, :size]  # as the flat vector has them: row by row of W
        hessian: Array = ordered.reshape(self.n_parameters, self.n_parameters) + np.diag(self.penalty)
        return hessian

    def _strip(self, padded: Array) -> Array:
        """Return what kernels give, [w, b] of each output, as a flat vector."""
        if self.n_outputs == 1:
            return padded[: self.n_parameters]
        rows = padded.reshape(self.n_outputs, -1)[:, : self.n_features + int(self.fit_intercept)]
        return rows.T.ravel()


@dataclass(frozen=True)
class Linear:
    """The linear problem: an `Objective` without its rows. The fields are those of `Objective`.

    With `standardize` the penalty is that of standardised columns: see `Objective.standardized`, whose rounds `bind`
    then makes.
    """

    loss: Loss
    alpha: float = 0.0
    fit_intercept: bool = True
    scale: Array | None = None
    standardize: bool = False

    @property
    def name(self) -> str:
        """Such as "logistic loss"."""
        return f"{self.loss.name} loss"

    @property
    def words(self) -> dict[str, Any]:
        """What a checkpoint must have been written for. Once bound, standardised columns are in the scale."""
        return {
            "loss": repr(self.loss),
            "alpha": self.alpha,
            "fit_intercept": self.fit_intercept,
            "scale": None if self.scale is None else hashlib.sha256(self.scale.tobytes()).hexdigest(),
        }

    def bind(self, blocks: Blocks) -> Objective:
        """Return F of these rows. No round, but with `standardize` those of `Objective.moments`."""
        objective = Objective(blocks, self.loss, self.alpha, self.fit_intercept, self.scale)
        return objective.standardized() if self.standardize else objective


def typical_curvature(loss: Loss, mean_y: Array) -> float:
    """Return the supremum of d2 loss / dz2; where there is none, that at the constant which predicts the mean of y."""
    if loss.curvature is not None:
        return loss.curvature
    mean = float(np.mean(mean_y))
    return float(loss.second(np.array(mean), np.array(loss.link(mean))))


def deviations(mean: Array, variance: Array) -> Array:
    """Return the standard deviations (p,) of columns, 0 for those that do not vary.

    A constant column has a variance too, that of its own rounding: relative to its mean it is below 1e-15.
    """
    varies = variance > (10 * np.finfo(np.float64).eps * np.abs(mean)) ** 2
    return np.where(varies, np.sqrt(variance), 0.0)


def _tuple(centre: Array | None) -> tuple[float, ...]:
    return () if centre is None or not centre.any() else tuple(map(float, centre))


def _require_weight(total: float) -> None:
    if not total > 0:
        raise InputError("the sample weights are all zero: no row counts")
