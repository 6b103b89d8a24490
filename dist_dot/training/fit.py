"""What a training run reports while it goes on, and what it returns."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from enum import Enum
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from dist_dot.rounds.blocks import Recovery
from dist_dot.solvers.base import State
from dist_dot.training.inference import Ended, Inference, inference
from dist_dot.typing import Array

if TYPE_CHECKING:
    from pandas import DataFrame


class Status(Enum):
    """How a run ended; the value is the advice to its owner."""

    CONVERGED = "the gradient is small enough"
    MAX_ITER = "stopped at max_iter before the gradient was small enough: raise max_iter or tol, or scale the columns"
    DIVERGED = "the objective grows without end: lower the learning rate, or use learning_rate='auto'"
    AT_ROUNDING = "the gradient is as small as rounding lets the solver make it"
    STALLED = (
        "no step lowers F any more, though the gradient is larger than rounding explains: centre or scale the columns, "
        "drop those that nearly repeat others, or try another solver"
    )
    STOPPED = "a callback asked to stop"
    EARLY_STOPPED = "the loss of the rows held out no longer falls; the coefficients are those of its lowest"


@dataclass(frozen=True)
class Progress:
    """One evaluation of F.

    `gradient` is the largest absolute entry of its gradient, or of its violation (see `dist_dot.problem.Function`),
    `relative` the larger of the two ratios to its size at the best constant that tol is compared with (see
    `dist_dot.minimise`), `seconds` since the run began, `nbytes` what a round reads of X, `validation` with early
    stopping the mean loss of the rows held out.
    """

    iteration: int
    rounds: int
    value: float
    gradient: float
    relative: float
    seconds: float
    nbytes: int
    validation: float | None = None


Callback = Callable[[Progress], bool | None]
"""Called with the progress after every evaluation, in order; True asks the run to stop.

In this process the loop waits for it. On a cluster the loop runs beside the scheduler and callbacks in the client,
which follows some milliseconds behind: the run stops at the first round after the answer has arrived.
"""


@dataclass(frozen=True)
class Path:
    """Ridge for each of some alphas (a,): scores (a, folds), W (a, p, k) and b (a, k)."""

    alphas: Array
    scores: Array
    coef: Array
    intercept: Array

    @property
    def mean_scores(self) -> Array:
        """The mean score (a,) of each alpha over the folds."""
        return np.asarray(self.scores.mean(axis=1))

    @property
    def best(self) -> float:
        """The alpha with the largest mean score, the first of several."""
        return float(self.alphas[np.argmax(self.mean_scores)])


@dataclass(frozen=True)
class Fit:
    """The outcome of a run: the coefficients, and how they were reached.

    parameters is the flat vector, and result what the problem makes of it. That of a linear model has `w` and
    `intercept`, which the fit then has too: see `dist_dot.objective.Coefficients`. rounds counts all passes over X,
    those before the first step and before a resumed checkpoint included. state is all that the solver knew at the end;
    `solver` says which solver it was, and why that one; path is what was found for each alpha where several were tried.
    recovery says what deaths of workers have cost, since the start or the checkpoint. kept is the place in the history
    of the coefficients: the last one, but for a run that was stopped early.
    """

    result: Any  # of the problem's own class
    parameters: Array
    status: Status
    history: tuple[Progress, ...]
    rounds: int
    where: str
    recovery: Recovery = field(default_factory=Recovery)
    state: State | Ended | None = None
    solver: str = ""
    path: Path | None = None
    kept: int = -1

    @property
    def note(self) -> str:
        """What the solver says about the run beside the numbers; often nothing."""
        return getattr(self.state, "note", "")

    @property
    def w(self) -> Array:
        """The coefficients (p,) of a linear fit; (p, k) for k > 1 outputs."""
        w: Array = self.result.w
        return w

    @property
    def intercept(self) -> float | Array:
        """The intercept of a linear fit, 0 where it has none; (k,) for k > 1 outputs."""
        b: float | Array = self.result.intercept
        return b

    def inference(self) -> Inference:
        """Return standard errors, t and p values of an exact, unpenalised fit. No round.

        Raises SolverError for another fit: see `dist_dot.training.inference`.
        """
        return inference(self.state)

    def frame(self) -> "DataFrame":
        """Return the history as a pandas DataFrame, one row for each evaluation of F. It needs pandas."""
        import pandas

        return pandas.DataFrame([asdict(progress) for progress in self.history])

    @property
    def n_iter(self) -> int:
        """Steps taken."""
        return self.history[-1].iteration

    @property
    def value(self) -> float:
        """F at the coefficients."""
        return self.history[self.kept].value

    @property
    def seconds_per_round(self) -> float | None:
        """The median time of a round after the first evaluation; None where there was none."""
        pairs = pairwise(self.history)
        times = [(b.seconds - a.seconds) / (b.rounds - a.rounds) for a, b in pairs if b.rounds > a.rounds]
        return float(np.median(times)) if times else None

    @property
    def bytes_per_second(self) -> float | None:
        """Bytes of X read per second, at the median round; None where nothing was read after the first evaluation."""
        return self.history[-1].nbytes / self.seconds_per_round if self.seconds_per_round else None
