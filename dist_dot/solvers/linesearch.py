"""How far to go along a direction: one round where the first step is good, several steps in each further round."""

from dataclasses import dataclass

import numpy as np

from dist_dot.objective import Objective
from dist_dot.typing import Array

# Of sufficient decrease, and of curvature, as for quasi-Newton methods in Nocedal and Wright, section 3.1.
DECREASE, CURVATURE = 1e-4, 0.9
# Of decrease by the slope alone (delta of Hager and Zhang).
SLOPE = 0.1
# Of F: what is rounded more than that says nothing.
HOPELESS = 1e-2
# Steps in one round, and rounds.
STEPS, ROUNDS = 4, 7


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
        with np.errstate(invalid="ignore", over="ignore"):  # where F is not finite, its slope is not
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
        return trial.slope <= (2.0 * SLOPE - 1.0) * self.slope and self.no_higher(trial)

    def no_higher(self, trial: Trial) -> bool:
        """Whether F has not grown by more than rounding, that of z included."""
        if self.surely_no_higher(trial):
            return True
        if not np.isfinite(trial.value):
            return False
        return trial.value <= self.value + min(self.objective.rounding(self.start), HOPELESS * abs(self.value))

    def surely_no_higher(self, trial: Trial) -> bool:
        """Whether F has not grown by more than the rounding of its own sum."""
        rounding = max(8.0 * float(np.finfo(self.objective.blocks.cuts.dtype).eps), 1e-12) * abs(self.value)
        return trial.value <= self.value + rounding


def search(line: Line, tried: Trial) -> Trial | None:
    """Return an accepted trial, going on from one that was not; None where seven more rounds find none.

    Should they find only trials that descend far enough, but not to where it is flatter, it is the lowest of these.
    F is convex along the line: its slope grows. So the trials with a negative slope lie before the minimum, the others
    after it, and with them those where F is not finite.
    """
    low, high = 0.0, np.inf
    trials, best = [tried], None
    for round_ in range(ROUNDS + 1):
        for trial in trials:
            if np.isfinite(trial.value) and trial.slope < 0 and line.no_higher(trial):
                low = max(low, trial.step)
                best = trial if best is None or trial.value < best.value else best
            else:
                high = min(high, trial.step)
        if round_ == ROUNDS:
            break
        trials = line.several(_between(low, high, 2.0**2**round_))
        good = [trial for trial in trials if line.accepts(trial)]
        if good:
            return min(good, key=lambda trial: abs(trial.slope))
    return best if best is not None and best.value < line.value else None


def _between(low: float, high: float, ratio: float) -> list[float]:
    """Return the steps to try next: between two ends, or further and further away while one is open.

    The ratio of these grows with the rounds, 2, 4, 16, 256: a Newton step of exp is too long by a factor of exp.
    """
    if high == np.inf:
        return [low * ratio**k for k in range(1, STEPS + 1)]
    if low == 0.0:
        return [high / ratio**k for k in range(1, STEPS + 1)]
    spaced = np.geomspace if high > 16.0 * low else np.linspace
    return [float(step) for step in spaced(low, high, STEPS + 2)[1:-1]]
