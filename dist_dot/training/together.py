"""Many fits at once, which share each read of X: alphas, and folds of a cross-validation."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from queue import SimpleQueue
from threading import Condition, Thread
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from dist_dot.blocks.block import Blocks, Kernel, Recovery, Report
from dist_dot.blocks.kernels import ValueAndGradient
from dist_dot.blocks.together import FoldScores, ValuesAndGradients, WithoutFold
from dist_dot.training.fit import Fit
from dist_dot.training.loop import Loop
from dist_dot.typing import Array


@dataclass(frozen=True)
class Together:
    """A program (see `dist_dot.blocks.block`): loops of one loss, each on all rows but those of its fold.

    The last column of y is the number of each row's fold; a loop with fold -1 leaves none out. Every loop is the one
    of `minimise`, and takes the steps that it would take alone, to rounding; each runs in a thread, and a round is made
    when all that still run have asked for one. Their evaluations of F are then one read of X, with a product of
    matrices where a single fit has one of a matrix and a vector. Hessians are not shared. No progress is reported, and
    no checkpoint is written.
    """

    loops: tuple[Loop, ...]
    folds: tuple[int, ...]

    def __call__(self, blocks: Blocks, report: Report) -> tuple[list[Fit], Array]:
        """Return the Fit of each loop and its scores (loops, 3): see `FoldScores`."""
        with threadpool_limits(1):  # see `Loop`
            fits = _Meeting(blocks, self.folds).hold(self.loops)
            W = [np.vstack([fit.w.reshape(blocks.cuts.n_features, -1), fit.intercept]).T.ravel() for fit in fits]
            scores = blocks.reduce(FoldScores(self.loops[0].loss, self.folds), np.concatenate(W))
        return fits, scores.reshape(len(self.loops), 3)


class _Meeting:
    """Where the loops' threads wait for each other: this thread makes the rounds."""

    def __init__(self, blocks: Blocks, folds: Sequence[int]) -> None:
        self.blocks, self.folds = blocks, folds
        self.changed = Condition()
        self.present = len(folds)
        self.asked: dict[int, tuple[Kernel, Array]] = {}
        self.answers: list[SimpleQueue[Any]] = [SimpleQueue() for _ in folds]
        self.known: dict[tuple[Kernel, int, bytes], Array] = {}  # what several loops ask, such as moments

    def hold(self, loops: Sequence[Loop]) -> list[Fit]:
        """Run the loops to their ends; raise what the first of them has raised."""
        outcomes: list[Any] = [None] * len(loops)
        threads = [
            Thread(target=self._attend, args=(loop, number, outcomes), daemon=True) for number, loop in enumerate(loops)
        ]
        for thread in threads:
            thread.start()
        while self._round():
            pass
        for outcome in outcomes:
            if isinstance(outcome, Exception):
                raise outcome
        return outcomes

    def ask(self, number: int, kernel: Kernel, parameters: Array) -> Array:
        """Wait for the round in which all have asked, and return this one's sums. Called by the loops' threads."""
        with self.changed:
            self.asked[number] = kernel, parameters
            self._tell()
        answer = self.answers[number].get()
        if isinstance(answer, Exception):
            raise answer
        sums: Array = answer
        return sums

    def _attend(self, loop: Loop, number: int, outcomes: list[Any]) -> None:
        member: Any = _Member(self, number)
        try:
            outcomes[number] = loop(member, lambda progress: False)
        except Exception as error:  # raised again by the thread that holds the meeting
            outcomes[number] = error
        with self.changed:
            self.present -= 1
            self._tell()

    def _tell(self) -> None:
        """Wake the thread that makes the rounds, once it is its turn."""
        if len(self.asked) == self.present:
            self.changed.notify()

    def _round(self) -> bool:
        """Answer everybody who is present, once all of them have asked; return whether anybody is."""
        with self.changed:
            self.changed.wait_for(lambda: len(self.asked) == self.present)
            asked = dict(sorted(self.asked.items()))
            self.asked.clear()
        try:
            answers: dict[int, Any] = self._answered(asked)
        except Exception as error:  # it belongs to everybody who has asked
            answers = dict.fromkeys(asked, error)
        for number, answer in answers.items():
            self.answers[number].put(answer)
        return bool(asked)

    def _answered(self, asked: dict[int, tuple[Kernel, Array]]) -> dict[int, Any]:
        """Return the sums: one round for all evaluations of F, one for each other question that is not known yet."""
        answers: dict[int, Any] = {}
        together = {n: both for n, both in asked.items() if isinstance(both[0], ValueAndGradient)}
        if together:
            kernels = [kernel for kernel, _ in together.values() if isinstance(kernel, ValueAndGradient)]
            folds = [self.folds[n] for n, kernel in zip(together, kernels, strict=True) for _ in range(kernel.points)]
            parameters = np.concatenate([parameters for _, parameters in together.values()])
            sums = self.blocks.reduce(ValuesAndGradients(kernels[0].loss, tuple(folds)), parameters)
            ends = np.cumsum([len(sums) // len(folds) * kernel.points for kernel in kernels])
            answers |= zip(together, np.split(sums, ends[:-1]), strict=True)
        for n, (kernel, parameters) in asked.items():
            if n not in together:
                key = kernel, self.folds[n], parameters.tobytes()
                if key not in self.known:
                    self.known[key] = self.blocks.reduce(WithoutFold(kernel, self.folds[n]), parameters)
                answers[n] = self.known[key]
        return answers


class _Member:
    """The blocks as one loop sees them."""

    def __init__(self, meeting: _Meeting, number: int) -> None:
        self._meeting, self._number = meeting, number
        self.cuts = replace(meeting.blocks.cuts, n_targets=1)
        self.rounds, self.recovery = 0, Recovery()

    @property
    def where(self) -> str:
        """Where the rows live, in words."""
        return self._meeting.blocks.where

    def reduce(self, kernel: Kernel, parameters: Array) -> Array:
        """Return the sums over the rows that are not in this loop's fold."""
        self.rounds += 1
        return self._meeting.ask(self._number, kernel, parameters)
