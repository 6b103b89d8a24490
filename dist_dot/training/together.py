"""Many fits at once, which share each read of X: alphas, and folds of a cross-validation."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from queue import SimpleQueue
from threading import Condition, Thread
from time import perf_counter

import numpy as np

from dist_dot.errors import DataError, InputError, RunCancelled
from dist_dot.kernels.folds import ALL, FoldScores, ValuesAndGradients, WithoutFold
from dist_dot.kernels.kernel import Kernel
from dist_dot.kernels.passes import ValueAndGradient
from dist_dot.losses import Loss
from dist_dot.objective import Objective
from dist_dot.rounds.blocks import Blocks, Recovery, Report, host_of
from dist_dot.solvers.base import AnySolver
from dist_dot.solvers.choice import choose
from dist_dot.training.fit import Callback, Fit, Progress
from dist_dot.training.loop import Loop
from dist_dot.typing import Array


@dataclass(frozen=True)
class Together:
    """A program (see `dist_dot.rounds.blocks`): loops, each on all rows, or on all but those of its fold.

    Those of linear problems have one loss. Each other problem has rounds of its own.

    With folds the blocks have the column `fold`; a loop with fold -1 leaves none out. Every loop is
    the one of `minimise`, and takes the steps that it would take alone, to rounding; each runs in a thread, and a round
    is made when all that still run have asked for one. Their evaluations of F are then one read of X, with a product of
    matrices where a single fit has one of a matrix and a vector. Hessians are not shared. Progress is that of all: the
    sum of F, the largest gradient, the most steps. No checkpoint is written.
    """

    loops: tuple[Loop, ...]
    folds: tuple[int, ...] | None = None

    def __str__(self) -> str:
        return f"{len(self.loops)} fits, {self.loops[0]}"

    def __call__(self, blocks: Blocks, report: Report) -> list[Fit]:
        """Return the Fit of each loop. Raises InputError for folds, and blocks without that column."""
        if self.folds is not None and not blocks.cuts.fold:
            raise InputError("fits are to leave out folds, and the rows have none: give lay_out a fold for each row")
        return _Meeting(blocks, self.folds or (None,) * len(self.loops), report).hold(self.loops)


@dataclass(frozen=True)
class CrossValidated:
    """A program: loops together, and their scores on the rows that they have left out.

    The loops are of linear problems with this loss. class_weight (k,) is what the weights of rows were multiplied by
    for each class, which the scores take back.
    """

    together: Together
    loss: Loss
    class_weight: tuple[float, ...] | None = None

    def __str__(self) -> str:
        return str(self.together)

    def __call__(self, blocks: Blocks, report: Report) -> tuple[list[Fit], Array]:
        """Return the Fit of each loop and its scores (loops, 3): see `FoldScores`, which is one round more."""
        fits = self.together(blocks, report)
        W = [np.vstack([fit.w.reshape(blocks.cuts.n_features, -1), fit.intercept]).T.ravel() for fit in fits]
        kernel = FoldScores(self.loss, self.together.folds or (), self.class_weight)
        return fits, blocks.reduce(kernel, np.concatenate(W)).reshape(len(fits), 3)


def minimise_path(
    objective: Objective,
    alphas: Sequence[float],
    solver: str | AnySolver = "auto",
    *,
    tol: float = 1e-6,
    max_iter: int = 1000,
    callbacks: tuple[Callback, ...] = (),
    start: Array | None = None,
) -> tuple[Fit, ...]:
    """Minimise F for each of the alphas, instead of the objective's own, and return their Fits.

    All are fitted together: a round evaluates F for all that have not converged, in one read of X. The other parameters
    are those of `dist_dot.minimise`; callbacks get the progress of all: see `Together`. "auto" is L-BFGS, since fits
    share no Hessians, and for the squared loss exact.

    Cost: the rounds of the longest fit, and some where line searches fall apart. Raises InputError for no alphas, and
    what `dist_dot.minimise` raises.
    """
    if not len(alphas):
        raise InputError("alphas is empty: give the L2 strengths to try")
    host = host_of(objective.blocks)
    begin = None if start is None else np.asarray(start, np.float64)
    chosen = choose(solver, objective, shared=True)
    loops = tuple(
        Loop(replace(objective, alpha=float(alpha)).problem, chosen.solver, tol, max_iter, start=begin)
        for alpha in alphas
    )
    fits = host.run(Together(loops), lambda progress: any([bool(each(progress)) for each in callbacks]))
    return tuple(replace(fit, solver=str(chosen)) for fit in fits)


class _Meeting:
    """Where the loops' threads wait for each other: this thread makes the rounds."""

    def __init__(self, blocks: Blocks, folds: Sequence[int | None], report: Report) -> None:
        self.blocks, self.folds, self.report = blocks, folds, report
        self.begin, self.before = perf_counter(), blocks.rounds
        self.latest: dict[int, Progress] = {}
        self.reported: list[Progress] = []
        self.stopped = False
        self.changed = Condition()
        self.present = len(folds)
        self.asked: dict[int, tuple[Kernel, Array]] = {}
        self.fits: dict[int, Fit] = {}
        self.errors: dict[int, BaseException] = {}
        self.answers: list[SimpleQueue[Array | Exception]] = [SimpleQueue() for _ in folds]

    def hold(self, loops: Sequence[Loop]) -> list[Fit]:
        """Run the loops to their ends; raise what the first of them has raised. No thread is left behind."""
        threads = [Thread(target=self._attend, args=each, daemon=True) for each in enumerate(loops)]
        try:
            for thread in threads:
                thread.start()
            while self._round():
                pass
        except BaseException as error:  # a callback's, or Ctrl-C: nobody makes rounds any more, so all go home
            for answer in self.answers:
                answer.put(RunCancelled(f"the fits have ended with {error!r}"))
            raise
        finally:
            for thread in threads:
                if thread.ident is not None:
                    thread.join()
        if self.errors:
            try:
                raise self.errors[min(self.errors)]
            finally:
                self.errors.clear()  # a traceback holds this frame, which would hold it, and the blocks
        return [self.fits[number] for number in range(len(loops))]

    def ask(self, number: int, kernel: Kernel, parameters: Array) -> Array:
        """Wait for the round in which all have asked, and return this one's sums. Called by the loops' threads."""
        with self.changed:
            self.asked[number] = kernel, parameters
            self._tell()
        answer = self.answers[number].get()
        if isinstance(answer, Exception):
            try:
                raise answer
            finally:
                del answer
        return answer

    def _attend(self, number: int, loop: Loop) -> None:
        member, fold = _Member(self, number), self.folds[number]
        try:
            self.fits[number] = replace(loop(member, lambda progress: self._heard(number, progress)), state=None)
        except InputError as error:  # what is wrong with some of the rows alone
            alone = fold in (None, ALL) or isinstance(error, DataError)
            self.errors[number] = error if alone else InputError(f"without the rows of fold {fold}: {error}")
        except BaseException as error:  # raised again by the thread that holds the meeting
            self.errors[number] = error
        with self.changed:
            self.present -= 1
            self._tell()

    def _heard(self, number: int, progress: Progress) -> bool:
        """Remember how far a loop is; return whether it is to stop."""
        self.latest[number] = progress
        return self.stopped

    def _report(self) -> None:
        """Report the progress of all as one, once each has some, and where it is news."""
        each = [self.latest[number] for number in sorted(self.latest)]
        if len(each) < len(self.folds) or each == self.reported:
            return
        self.reported = each
        self.stopped |= self.report(
            Progress(
                iteration=max(progress.iteration for progress in each),
                rounds=self.blocks.rounds - self.before,
                value=sum(progress.value for progress in each),
                gradient=max(progress.gradient for progress in each),
                relative=max(progress.relative for progress in each),
                seconds=perf_counter() - self.begin,
                nbytes=self.blocks.cuts.nbytes,
            )
        )

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
            self._report()
        try:
            answers: Mapping[int, Array | Exception] = self._answered(asked)
        except Exception as error:  # it belongs to everybody who has asked
            answers = dict.fromkeys(asked, error)
        for number, answer in answers.items():
            self.answers[number].put(answer)
        return bool(asked)

    def _answered(self, asked: dict[int, tuple[Kernel, Array]]) -> dict[int, Array]:
        """Return the sums: one round for all evaluations of F, one for each other question, whoever has asked it.

        Loops begin with the same questions, such as moments, and so at the same meeting: nothing is kept for the next
        one, where the Hessians of many fits would be much to keep.
        """
        answers: dict[int, Array] = {}
        known: dict[tuple[Kernel, bytes], Array] = {}
        evaluations: list[tuple[Loss, dict[int, tuple[int, Array]]]] = []
        for n, (kernel, parameters) in asked.items():
            if isinstance(kernel, ValueAndGradient):
                same = next((each for loss, each in evaluations if loss == kernel.loss), None)
                if same is None:
                    evaluations.append((kernel.loss, same := {}))
                same[n] = kernel.points, parameters
                continue
            fold = self.folds[n]
            kernel = kernel if fold is None else WithoutFold(kernel, fold)
            key = kernel, parameters.tobytes()
            if key not in known:
                known[key] = self.blocks.reduce(kernel, parameters)
            answers[n] = known[key]
        for loss, each in evaluations:
            answers |= self._evaluated(loss, each)
        return answers

    def _evaluated(self, loss: Loss, asked: dict[int, tuple[int, Array]]) -> dict[int, Array]:
        """Return the sums of evaluations of one loss, each of so many points. One round."""
        folds = [self.folds[n] for n, (points, _) in asked.items() for _ in range(points)]
        left_out = tuple(fold for fold in folds if fold is not None)
        kernel: Kernel = ValuesAndGradients(loss, left_out) if left_out else ValueAndGradient(loss, len(folds))
        sums = self.blocks.reduce(kernel, np.concatenate([parameters for _, parameters in asked.values()]))
        ends = np.cumsum([len(sums) // len(folds) * points for points, _ in asked.values()])
        return dict(zip(asked, np.split(sums, ends[:-1]), strict=True))


class _Member:
    """The blocks as one loop sees them."""

    def __init__(self, meeting: _Meeting, number: int) -> None:
        self._meeting, self._number = meeting, number
        self.cuts = meeting.blocks.cuts
        self.rounds, self.recovery = 0, Recovery()

    @property
    def on_device(self) -> bool:
        """Whether the rows are on GPUs."""
        return self._meeting.blocks.on_device

    @property
    def where(self) -> str:
        """Where the rows live, in words."""
        return self._meeting.blocks.where

    @property
    def checksum(self) -> str:
        """A checksum of all rows, those of the fold too. No round."""
        return self._meeting.blocks.checksum

    def notice(self, words: str) -> None:
        """Tell the owner of the run."""
        self._meeting.blocks.notice(words)

    def reduce(self, kernel: Kernel, parameters: Array) -> Array:
        """Return the sums over the rows that are not in this loop's fold."""
        self.rounds += 1
        return self._meeting.ask(self._number, kernel, parameters)
