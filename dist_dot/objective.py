"""The objective F, and what is known about it: each method call is one round, unless it says otherwise."""

import hashlib
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from dist_dot import checks
from dist_dot.baseline import Baseline, ColumnMoments
from dist_dot.errors import InputError, SolverError
from dist_dot.kernels.gram import unpacked
from dist_dot.kernels.passes import (
    Curvature,
    Expansion,
    GramProduct,
    HessianProduct,
    Roundings,
    ValueAndGradient,
    coupled,
)
from dist_dot.kernels.targets import ConstantValues
from dist_dot.losses import Huber, Loss, Squared
from dist_dot.reference import Reference
from dist_dot.rounds.blocks import Blocks
from dist_dot.rounds.held_out import HeldOut
from dist_dot.typing import Array


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
    With several targets alpha may be a number for each of them: that of the penalty of its column of W.

    Solvers see one flat vector of `n_parameters` numbers: W row by row, then b, which is not there without
    `fit_intercept`.

    Raises InputError for an alpha that is negative, not finite or of another length, and for a scale of another length.
    """

    blocks: Blocks
    loss: Loss
    alpha: float | tuple[float, ...] = 0.0
    fit_intercept: bool = True
    scale: Array | None = None

    def __post_init__(self) -> None:
        each = self.alpha if isinstance(self.alpha, tuple) else (self.alpha,)
        for alpha in each:
            checks.finite("alpha", alpha, "the L2 strength is a finite number >= 0")
        if isinstance(self.alpha, tuple) and (len(each) != self.n_targets or self.loss.outputs > 1):
            raise InputError(f"alpha is {self.alpha}: give one number, or one for each of the {self.n_targets} targets")
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
            square = np.ones(self.n_features) if self.scale is None else self.scale * self.scale
            pulls = np.outer(square, np.broadcast_to(np.asarray(self.alpha, np.float64), self.n_outputs))
            known = np.append(pulls, np.zeros(self.n_outputs * int(self.fit_intercept)))
            known.flags.writeable = False
            self.__dict__["known_penalty"] = known
        return known

    @property
    def baseline(self) -> Baseline:
        """What is known of the rows so far. No round."""
        known: Baseline | None = self.__dict__.get("known_baseline")
        if known is None:
            known = self.__dict__["known_baseline"] = Baseline(self.blocks, self.loss, self.fit_intercept)
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
        scaled.__dict__["known_baseline"] = self.baseline
        return scaled

    def check(self) -> None:
        """Raise DataError if a y is outside of the loss's domain, InputError if the weights are all 0.

        One round that reads y alone; none for a loss that takes every y.
        """
        if any(map(np.isfinite, self.loss.domain)):
            self.baseline.target_sums  # noqa: B018 (they are looked at when they are made)

    def value_and_gradient(self, parameters: Array) -> tuple[float, Array]:
        """Return F and its gradient at a flat vector. One round; reads X once."""
        sums = self.blocks.reduce(ValueAndGradient(self.loss), self.padded(parameters))
        return self._penalised(sums, parameters)

    def first_value_and_gradient(self, parameters: Array) -> tuple[float, Array]:
        """Return the same at the start of a run. One round, which reads y alone where `reference` is known.

        That is at W = 0, for a loss whose slope is a line in y. Elsewhere it is `value_and_gradient`, and so it is
        where rows are held out, whose loss comes with an evaluation.
        """
        z = self.baseline.constants(*self.split(parameters))
        if z is None or not self.baseline.knows_columns or isinstance(self.blocks, HeldOut):
            return self.value_and_gradient(parameters)
        return self._penalised(self.baseline.sums_at(z), parameters)

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
        if not np.isfinite(sums[split:]).all():
            self.baseline.reference_sums  # noqa: B018 (which says whose squares overflow)
        if not np.any(centre) and self.shows_columns(parameters):
            self.baseline.remember(sums[1:split], sums[split:], self.split(parameters)[1])
        return (*self._penalised(sums[:split], parameters), self._hessian(sums[split:]))

    def shows_columns(self, parameters: Array) -> bool:
        """Whether an expansion at a flat vector knows the columns of X, and they are not known yet.

        At most the round of `check`.
        """
        z = self.baseline.constants(*self.split(parameters))
        return z is not None and self.baseline.shown_at(z)

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
        return self.baseline.moments()

    def start(self) -> Array:
        """Return the flat vector where a run begins that is given no other: 0.

        For the Huber loss, and where rows have offsets and F is no quadratic, it is the `null_model` if F is lower
        there: far from y the one has no curvature, and an offset may be far from 0. That costs two rounds of y alone,
        or three, all but one of which `reference` does not make again.
        """
        zero, offset = np.zeros(self.n_parameters), self.blocks.cuts.offset and not isinstance(self.loss, Squared)
        if not self.fit_intercept or not (isinstance(self.loss, Huber) or offset):
            return zero
        null = self.null_model()[1]
        intercepts = np.append(np.zeros(self.n_outputs), self.split(null)[1])
        values = self.blocks.reduce(ConstantValues(self.loss), intercepts)
        return null if values[1] < values[0] else zero

    def null_model(self) -> tuple[float, Array]:
        """Return the sum of the weights, and the flat vector of W = 0 and the b that predicts the mean of y. One round.

        It reads y alone. Without an intercept the vector is 0. Raises InputError if the weights sum to zero.
        """
        return self.baseline.weight, self._strip(self.baseline.null_model())

    def reference(self) -> Reference:
        """Return the gradient at W = 0 and z = link(weighted mean of y), for all rows, and the rounding of its sums.

        That z is the same without an intercept, and 0 where y is at an end of its domain throughout. A row adds its
        offset. The gradient is in the units of those near the minimum, whatever the unit of y and wherever a run
        starts. Two rounds: one reads y alone, and is not made again after `check`; the other reads X once. With offsets
        one round of y more. Raises InputError if the weights sum to zero.
        """
        gradient = self._strip(self.baseline.reference_sums[0])
        return Reference.of(gradient, self.baseline.sizes(), self.blocks.cuts)

    def far_columns(self) -> tuple[Array, Array]:
        """Return the means (p,) of columns far from 0, as numbers of the rows' dtype, and sum_i s_i (x_ij - mean_j)^2.

        The means are 0 for other columns, and for all of them without an intercept; the sums (p,) are 0 where a column
        is constant but for rounding. Rounds as for `moments`.
        """
        if not self.fit_intercept:
            return np.zeros(self.n_features), self.baseline.reference_sums[2]
        moments = self.moments()
        mean = np.where(moments.far, moments.mean, 0.0).astype(self.blocks.cuts.dtype).astype(np.float64)
        varies = deviations(moments.mean, moments.spread / moments.weight) > 0
        return mean, np.where(varies & np.isfinite(moments.spread), moments.spread, 0.0)

    def curvature(self) -> float:
        """Return the typical curvature of the loss in z: its supremum, or that of the best constant.

        A round of y, once.
        """
        return self.baseline.curvature()

    def least_curvature(self) -> Array:
        """Return the curvature in z (n_outputs,) that is rounding beside the typical. No round beside `reference`."""
        return float(np.finfo(np.float64).eps) * self.baseline.curvatures()

    def rounding(self, parameters: Array) -> float:
        """Return what F may be off by the rounding of z alone, where z is the difference of large numbers.

        No round but those of `reference`.
        """
        return self.baseline.rounding(*self.split(parameters))

    def is_rounding(self, parameters: Array, gradient: Array) -> bool:
        """Return whether the gradient at a flat vector is rounding. Two rounds beside those of `moments`.

        In exact arithmetic it would be that of rows, w and b that differ by (sqrt(n) + p + 5) roundings, times 4, in
        each number. It is rounding where such changes, there and at the best constant, may make as much of its largest
        entry, and of its norm in columns that are centred and have curvature 1. Where they may make more than all that
        the gradient at the best constant is the sum of, z is lost, and they explain nothing.
        """
        cuts, k, eps = self.blocks.cuts, self.n_outputs, float(np.finfo(self.blocks.cuts.dtype).eps)
        moments, raw = self.moments(), self.baseline.reference_sums[2]
        mean = moments.mean if self.fit_intercept else np.zeros(self.n_features)
        unit = 4.0 * eps * (np.sqrt(cuts.n_samples) + self.n_features + 5.0)
        kernel = Roundings(self.loss, tuple(map(float, mean)), float(unit))
        points = self.padded(parameters), self.baseline.best_constant()
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
        is that of rows without offsets. D2 is 1.0 for a constant y that is met exactly and -inf for one that is not.
        Reads X once.
        """
        constant = self.baseline.mean_model()
        dropped, value = self.blocks.reduce(ConstantValues(self.loss, deviance=True), constant)
        model = float(self.blocks.reduce(ValueAndGradient(self.loss), self.padded(parameters))[0] + dropped)
        null = float(value + dropped)
        if null == 0.0:
            return 1.0 if model == 0.0 else -np.inf
        return 1.0 - model / null

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
    alpha: float | tuple[float, ...] = 0.0
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
            "alpha": list(self.alpha) if isinstance(self.alpha, tuple) else self.alpha,
            "fit_intercept": self.fit_intercept,
            "scale": None if self.scale is None else hashlib.sha256(self.scale.tobytes()).hexdigest(),
        }

    def bind(self, blocks: Blocks) -> Objective:
        """Return F of these rows. No round, but with `standardize` those of `Objective.moments`."""
        objective = Objective(blocks, self.loss, self.alpha, self.fit_intercept, self.scale)
        return objective.standardized() if self.standardize else objective


def deviations(mean: Array, variance: Array) -> Array:
    """Return the standard deviations (p,) of columns, 0 for those that do not vary.

    A constant column has a variance too, that of its own rounding: relative to its mean it is below 1e-15.
    """
    varies = variance > (10 * np.finfo(np.float64).eps * np.abs(mean)) ** 2
    return np.where(varies, np.sqrt(variance), 0.0)


def _tuple(centre: Array | None) -> tuple[float, ...]:
    return () if centre is None or not centre.any() else tuple(map(float, centre))
