"""How far to go along a direction: one round where the first step is good, several steps in each further round."""

from dataclasses import dataclass

import numpy as np

from dist_dot.problem import Function
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

    function: Function
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
        return self.trial(step, *self.function.value_and_gradient(self.point(step)))

    def several(self, steps: list[float]) -> list[Trial]:
        """Evaluate F at several steps. One round; reads X once."""
        values, gradients = self.function.values_and_gradients(np.array([self.point(step) for step in steps]))
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
        return trial.value <= self.value + min(self.function.rounding(self.start), HOPELESS * abs(self.value))

    def goes_on(self, trial: Trial) -> bool:
        """Whether a trial that is not accepted lies before a point that would be: the search goes further.

        The slope there is negative. Where F is convex, that is enough if F has not grown by more than rounding. Where
        it is not, F may have come down from a hill: it must have decreased sufficiently, or by less than rounding
        shows where no more is asked for.
        """
        if not (np.isfinite(trial.value) and trial.slope < 0):
            return False
        if self.function.convex:
            return self.no_higher(trial)
        asked = DECREASE * trial.step * self.slope
        return trial.value <= self.value + asked or (-asked <= self.rounding and self.surely_no_higher(trial))

    @property
    def rounding(self) -> float:
        """The rounding of F's own sum."""
        return max(8.0 * float(np.finfo(self.function.blocks.cuts.dtype).eps), 1e-12) * abs(self.value)

    def surely_no_higher(self, trial: Trial) -> bool:
        """Whether F has not grown by more than the rounding of its own sum."""
        return trial.value <= self.value + self.rounding


def search(line: Line, tried: Trial) -> Trial | None:
    """Return an accepted trial, going on from one that was not; None where seven more rounds find none.

    Should they find only trials that descend far enough, but not to where it is flatter, it is the lowest of these.

    Where F is convex along the line its slope grows. So the trials with a negative slope lie before the minimum, the
    others after it, and with them those where F is not finite. Where F is not convex there may be several minima, and
    the search stays before one of them: the high end is the smallest step that does not go on (see `Line.goes_on`), the
    low end the largest step below it. Some step between them would be accepted (Nocedal and Wright, Numerical
    optimization (2006), algorithms 3.5 and 3.6), and of several that are the lowest is taken.
    """
    convex = line.function.convex
    trials, before, high = [tried], list[Trial](), np.inf
    for round_ in range(ROUNDS + 1):
        for trial in trials:
            if line.goes_on(trial):
                before.append(trial)
            else:
                high = min(high, trial.step)
        if round_ == ROUNDS:
            break
        low = max((trial.step for trial in before if convex or trial.step < high), default=0.0)
        trials = line.several(_between(low, high, 2.0**2**round_))
        good = [trial for trial in trials if line.accepts(trial)]
        if good:
            return min(good, key=lambda trial: abs(trial.slope) if convex else trial.value)
    best = min(before, key=lambda trial: trial.value, default=None)
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
