"""How far to go along a direction: one round where the first step is good, several steps in each further round."""

from dataclasses import dataclass

import numpy as np

from dist_dot.objective import Objective
from dist_dot.typing import Array

# Of sufficient decrease, and of curvature, as for quasi-Newton methods in Nocedal and Wright, section 3.1.
DECREASE, CURVATURE = 1e-4, 0.9
# Of decrease by the slope alone (delta of Hager and Zhang).
SLOPE = 0.1
# Steps in one round, and rounds: together they reach from 1 to 2^-32, or to 2^32.
STEPS, ROUNDS = 4, 8


@dataclass(frozen=True)
class Trial:
    """F and its gradient at start + step * direction; `slope` is the derivative along the direction."""

    step: float
    value: float
    gradient: Array
    slope: float


@dataclass(frozen=True)
class Line:
    """F along a direction from a point where its value and its slope (< 0) are known."""

    objective: Objective
    start: Array
    direction: Array
    value: float
    slope: float

    def point(self, step: float) -> Array:
        """Return start + step * direction."""
        return self.start + step * self.direction

    def trial(self, step: float, value: float, gradient: Array) -> Trial:
        """Return the trial of a step at which F is known."""
        return Trial(step, value, gradient, float(gradient @ self.direction))

    def one(self, step: float) -> Trial:
        """Evaluate F at one step. One round; reads X once."""
        return self.trial(step, *self.objective.value_and_gradient(self.point(step)))

    def several(self, steps: list[float]) -> list[Trial]:
        """Evaluate F at several steps. One round; reads X once."""
        values, gradients = self.objective.values_and_gradients(np.array([self.point(step) for step in steps]))
        return [self.trial(*each) for each in zip(steps, map(float, values), gradients, strict=True)]

    def accepts(self, trial: Trial) -> bool:
        """Whether the trial meets the strong Wolfe conditions, or the approximate ones.

        Near the minimum the difference of two values is below their rounding. There the decrease is judged by the
        slope, as in Hager and Zhang, A new conjugate gradient method with guaranteed descent and an efficient line
        search (2005), equations 4.1 and 4.2; it counts only where F has not grown by more than rounding.
        """
        if not abs(trial.slope) <= CURVATURE * abs(self.slope):
            return False
        if trial.value <= self.value + DECREASE * trial.step * self.slope:
            return True
        rounding = max(8.0 * float(np.finfo(self.objective.blocks.cuts.dtype).eps), 1e-12) * abs(self.value)
        return trial.slope <= (2.0 * SLOPE - 1.0) * self.slope and trial.value <= self.value + rounding


def search(line: Line, tried: Trial) -> Trial | None:
    """Return an accepted trial, going on from one that was not; None where eight more rounds find none.

    F is convex along the line: its slope grows. So the trials with a negative slope lie before the minimum, the others
    after it, and with them those where F is not finite.
    """
    low, high = 0.0, np.inf
    trials = [tried]
    for _ in range(ROUNDS):
        for trial in trials:
            if np.isfinite(trial.value) and trial.slope < 0 and trial.value <= line.value:
                low = max(low, trial.step)
            else:
                high = min(high, trial.step)
        trials = line.several(_between(low, high))
        good = [trial for trial in trials if line.accepts(trial)]
        if good:
            return min(good, key=lambda trial: abs(trial.slope))
    return None


def _between(low: float, high: float) -> list[float]:
    """Return the steps to try next: halved or doubled while one end is open, evenly between the two ends after that."""
    if high == np.inf:
        return [low * 2.0**k for k in range(1, STEPS + 1)]
    if low == 0.0:
        return [high * 0.5**k for k in range(1, STEPS + 1)]
    return [low + (high - low) * k / (STEPS + 1) for k in range(1, STEPS + 1)]
