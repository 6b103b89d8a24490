"""Early stopping: when the loss of rows that are held out no longer falls."""

from dataclasses import dataclass, field
from math import inf
from typing import Protocol, runtime_checkable

import numpy as np

from dist_dot import checks
from dist_dot.errors import SolverError
from dist_dot.problem import Function
from dist_dot.typing import Array


@runtime_checkable
class Scored(Protocol):
    """F that can score the rows held out."""

    def held_out_loss(self, parameters: Array) -> float:
        """Return the mean loss of the rows held out at a flat vector."""


def scored(function: Function) -> Scored:
    """Return F, which can score the rows held out. Raises SolverError for another one. No round."""
    if not isinstance(function, Scored):
        raise SolverError(
            f"early stopping needs the loss of the rows held out, which {function.problem.name} does not have: leave "
            "early_stopping out, and end the run by a callback that returns True"
        )
    return function


@dataclass(frozen=True)
class EarlyStopping:
    """Hold out one row in `one_in`; end the run once their mean loss has not reached a new low for `patience` steps.

    The Fit then has the coefficients of the lowest one. A run that converges before that, or reaches max_iter, has
    those of its end, as without. The rows are drawn by their number: see `dist_dot.rounds.held_out`. They are scored in
    the rounds that train, so a step costs no round more, but for a solver that does without such rounds
    (`GradientDescent(reuse="gram")`), where it costs one; a round costs what reading one row in `one_in` twice does.
    Raises InputError for numbers that make no sense.
    """

    patience: int = 10
    one_in: int = 10

    def __post_init__(self) -> None:
        checks.whole("patience", self.patience, 1)
        checks.whole("one_in", self.one_in, 2)

    def ends(self, course: "Validation", iteration: int) -> bool:
        """Whether a run has gone on for long enough."""
        return iteration - course.iteration >= self.patience


@dataclass(frozen=True)
class Validation:
    """The course of the mean loss of the rows held out: the latest, the lowest, and where that was."""

    latest: float = inf
    lowest: float = inf
    iteration: int = 0
    parameters: Array = field(default_factory=lambda: np.empty(0))

    def after(self, loss: float, iteration: int, parameters: Array) -> "Validation":
        """Return the course one step further."""
        if loss < self.lowest:
            return Validation(loss, loss, iteration, parameters)
        return Validation(loss, self.lowest, self.iteration, self.parameters)
