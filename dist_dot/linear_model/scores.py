"""Scores of a model on rows that stay where they are: each is a few rounds, and a few numbers travel."""

import numpy as np

from dist_dot.errors import InputError
from dist_dot.kernels.scores import Correct, RankCounts, SquaredErrors
from dist_dot.objective import Objective
from dist_dot.typing import Array

EDGES = 1 << 15
REFINEMENTS = 2


def accuracy(objective: Objective, parameters: Array) -> float:
    """Return the share of the rows, by weight, whose class is predicted. One round."""
    total, right = objective.blocks.reduce(Correct(), objective.padded(parameters))
    return float(right / _counted(total))


def mean_loss(objective: Objective, parameters: Array) -> float:
    """Return the mean loss over the rows, by weight: the log loss of a classifier. Three rounds, two of y alone."""
    objective.check()
    weight, _ = objective.null_model()
    return objective.value_and_gradient(parameters)[0] / weight


def r2(objective: Objective, parameters: Array) -> float:
    """Return 1 - the sum of squared errors / that of the mean of y, by weight, averaged over the targets. Two rounds.

    As in scikit-learn it is 1 for a constant y that is met exactly, and 0 for one that is not.
    """
    at = objective.padded(parameters)
    total, means, errors = np.split(objective.blocks.reduce(SquaredErrors(), at), [1, 1 + objective.n_targets])
    constant = np.zeros((objective.n_targets, objective.n_features + 1))
    constant[:, -1] = means / _counted(total[0])
    spread = objective.blocks.reduce(SquaredErrors(), constant.ravel())[-objective.n_targets :]
    met = np.where(errors > 0, 0.0, 1.0)
    return float(np.mean(np.where(spread > 0, 1.0 - errors / np.where(spread > 0, spread, 1.0), met)))


def area_under_curve(objective: Objective, parameters: Array) -> float:
    """Return the probability that a row of class 1 has a larger z than one of class 0; ties count half. Four rounds.

    z is counted between 32,768 edges, which are then set anew where the rows are, twice. What is left in one place
    counts as tied: an error of 2e-5 at the very most, and some 1e-8 in practice, since rows that close are in no order.

    Raises InputError unless both classes have rows.
    """
    objective.check()
    edges = np.sinh(np.linspace(-15.0, 15.0, EDGES))
    for refinement in range(REFINEMENTS + 1):
        both = objective.blocks.reduce(RankCounts(), np.append(objective.padded(parameters), edges))
        counts = both.reshape(2, -1)
        if refinement < REFINEMENTS:
            edges = _finer(edges, counts.sum(axis=0))
    negative, positive = counts
    if not (negative.any() and positive.any()):
        raise InputError("the area under the curve needs rows of both classes")
    below = np.cumsum(negative) - 0.5 * negative
    return float(positive @ below / (positive.sum() * negative.sum()))


def _counted(weight: float) -> float:
    """Return the sum of the weights. Raises InputError where no row counts."""
    if not weight > 0:
        raise InputError("the sample weights are all zero: no row counts")
    return weight


def _finer(edges: Array, counts: Array) -> Array:
    """Return about as many edges, spread within each place by its share of the rows."""
    inner = counts[1:-1]
    parts = np.ceil(EDGES * inner / max(inner.sum(), 1e-300)).astype(int)
    pieces = [
        np.linspace(low, high, part, endpoint=False)
        for low, high, part in zip(edges[:-1], edges[1:], parts, strict=True)
        if part
    ]
    return np.unique(np.concatenate([*pieces, edges[[0, -1]], edges[1:][parts > 0]]))
