"""minimise: the only loop."""

from dataclasses import dataclass, replace
from time import perf_counter

import numpy as np

from dist_dot import checks
from dist_dot.errors import ClusterError, InputError, SolverError
from dist_dot.problem import Function, Problem
from dist_dot.reference import Reference
from dist_dot.rounds.blocks import Blocks, Report, host_of
from dist_dot.rounds.held_out import HeldOut
from dist_dot.solvers.base import AnySolver, State
from dist_dot.solvers.choice import choose
from dist_dot.solvers.exact import Exact
from dist_dot.training.checkpoint import Checkpoint, Checkpoints, fingerprint
from dist_dot.training.early_stopping import EarlyStopping, scored
from dist_dot.training.fit import Callback, Fit, Progress, Status
from dist_dot.typing import Array

# A run has diverged where F and its gradient are both this many times what they were at the start.
GROWTH = 1e3
# A run is at its rounding where so many steps have brought neither a smaller gradient nor a smaller F.
# Fifty were too few for momentum, whose gradient swings that long.
STEPS = 200
# After so many steps without a smaller gradient two more rounds tell whether it is rounding.
FEW = 20


def minimise(
    objective: Function,
    solver: str | AnySolver = "auto",
    *,
    tol: float = 1e-6,
    max_iter: int = 1000,
    callbacks: tuple[Callback, ...] = (),
    checkpoint: Checkpoints | None = None,
    start: Array | None = None,
    early_stopping: EarlyStopping | None = None,
) -> Fit:
    """Minimise F and return the Fit. A solver is one of `dist_dot.solvers`, its name, or "auto", see `solvers.choose`.

    F is an `Objective`, or another `dist_dot.problem.Function`, such as a network's; what is said below of w = 0 and z
    is then what its methods say.

    Stops when max |gradient of F(w)| <= tol * max |gradient at w = 0 and the best constant z|, which is the link of the
    weighted mean of y, also without an intercept; and when the same holds for the Euclidean norms in the coordinates
    that the solver moves in, where columns that are rare or small count as much as others. So neither the unit of y nor
    the start decides. What the sums of a gradient may be by rounding alone counts as small enough; where the gradient
    at the best constant is 0, the one at the start takes its place. Stops too after max_iter steps (all of them with
    tol = 0), or when a callback returns True, or when the solver can come no closer: it finds no lower F, or 200 steps
    have brought neither a smaller gradient nor a lower F. The fit is then AT_ROUNDING, or STALLED where its gradient is
    larger than rounding explains. Two rounds tell; they are asked for too after 20 steps that brought no smaller
    gradient, and at max_iter.

    `start` is the flat vector to begin at, `objective.start()` where none is given. The gradient at the best constant
    costs two rounds: one reads y alone, and takes the place of the check of y where the loss has one; the other reads
    X. Solvers that have summed up the rows need none. With `checkpoint` the state is saved every so many steps and at
    the end, by the process that hosts the loop, and a run may go on from there with the same bits. With
    `early_stopping` F is that of the rows which are not held out, with the whole alpha.

    The loop runs in this process for blocks of this process, and beside the scheduler for those of a cluster.

    Raises InputError for a tol or max_iter that is negative and for blocks that only answer rounds, SolverError where
    the solver cannot minimise this F or end early, ClusterError where the cluster fails for longer than it may.
    """
    host = host_of(objective.blocks)
    begin = None if start is None else np.asarray(start, np.float64)
    chosen = choose(solver, objective)
    loop = Loop(objective.problem, chosen.solver, tol, max_iter, checkpoint, begin, early_stopping)

    asked = checks.functions("callbacks", callbacks)

    def report(progress: Progress) -> bool:
        # Each one is called, also after another one has asked to stop.
        return any([bool(callback(progress)) for callback in asked])

    return replace(host.run(loop, report), solver=str(chosen))


@dataclass(frozen=True)
class Loop:
    """A run as data: all of it but the blocks, so that it can be sent to where they are."""

    problem: Problem
    solver: AnySolver
    tol: float
    max_iter: int
    checkpoints: Checkpoints | None = None
    start: Array | None = None
    early_stopping: EarlyStopping | None = None

    def __post_init__(self) -> None:
        checks.number("tol", self.tol, "give a number >= 0")
        checks.whole("max_iter", self.max_iter)
        if self.early_stopping is not None and self.solver.name == Exact.name:
            raise SolverError("early stopping is for solvers that take many steps, and exact takes one: name another")

    def __str__(self) -> str:
        return f"{self.problem.name} by {self.solver.name}"

    def __call__(self, blocks: Blocks, report: Report) -> Fit:
        """Iterate to the end."""
        if self.early_stopping is not None:
            blocks = HeldOut(blocks, self.early_stopping.one_in)
        function = self.problem.bind(blocks)
        self.solver.require(function)
        if self.early_stopping is not None:
            scored(function)
        return self._iterate(function, report)

    def _iterate(self, function: Function, report: Report) -> Fit:
        function.check()
        blocks = function.blocks
        begin, before = perf_counter(), blocks.rounds
        now = self._begin(function)
        before -= now.rounds
        history: list[Progress] = list(now.history)
        reached: Checkpoint | None = None
        try:
            while True:
                state = now.state
                violation = function.violation(state.parameters, state.gradient)
                ratios, floors = self._ratios(state, violation, now.reference), now.reference.floors
                progress = Progress(
                    iteration=now.iteration,
                    rounds=blocks.rounds - before,
                    value=state.value,
                    gradient=_largest(violation),
                    relative=max(r if not r <= floor else 0.0 for r, floor in zip(ratios, floors, strict=True)),
                    seconds=now.seconds + perf_counter() - begin,
                    nbytes=blocks.cuts.nbytes,
                    validation=now.validation.latest if self.early_stopping else None,
                )
                history.append(progress)
                reached = now
                stop = report(progress)
                status = self._status(history, stop)
                if status is Status.AT_ROUNDING:
                    status = self._at_rounding(function, state)
                elif self._hesitates(status, history) and function.is_rounding(state.parameters, state.gradient):
                    status = Status.AT_ROUNDING
                if self.early_stopping and status is None and self.early_stopping.ends(now.validation, now.iteration):
                    status = Status.EARLY_STOPPED
                if status or self._due(now.iteration):
                    self._save(now, history)
                if status:
                    break
                moved = self.solver.step(function, state)
                if moved is state:
                    status = self._at_rounding(function, state)
                    self._save(now, history)
                    break
                now = self._scored(function, replace(now, state=moved, iteration=now.iteration + 1), state)
        except (ClusterError, KeyboardInterrupt):
            if reached is not None:  # what the run has reached outlives the cluster, or the patience of a person
                self._save(reached, history[: reached.iteration + 1])
            raise
        early = status is Status.EARLY_STOPPED
        parameters = now.validation.parameters if early else state.parameters
        return Fit(
            function.result(parameters),
            parameters,
            status,
            tuple(history),
            blocks.rounds - before,
            blocks.where,
            blocks.recovery,
            state,
            kept=now.validation.iteration if early else -1,
        )

    def _scored(self, function: Function, now: Checkpoint, before: State | None = None) -> Checkpoint:
        """Return where the run stands, with the loss of the rows held out, which came with the last evaluation.

        A step that was refused stays where `before` was, and so does the loss: asking again would be a round more
        in a run that was resumed in between, which does not remember it.
        """
        if self.early_stopping is None:
            return now
        if before is not None and np.array_equal(now.state.parameters, before.parameters):
            loss = now.validation.latest
        else:
            loss = scored(function).held_out_loss(now.state.parameters)
        return replace(now, validation=now.validation.after(loss, now.iteration, now.state.parameters))

    def _due(self, iteration: int) -> bool:
        return self.checkpoints is not None and self.checkpoints.due(iteration)

    def _save(self, now: Checkpoint, history: list[Progress]) -> None:
        if self.checkpoints is not None:
            last = history[-1]
            self.checkpoints.save(replace(now, history=tuple(history[:-1]), rounds=last.rounds, seconds=last.seconds))

    def _begin(self, function: Function) -> Checkpoint:
        """Return the newest checkpoint of this run, or its very beginning."""
        mark = ""
        if self.checkpoints is not None:
            mark = fingerprint(function, self.solver, self.early_stopping)
            found = self.checkpoints.newest(mark, self.solver.state, function.blocks.notice)
            if found is not None:
                return found
        start = function.start() if self.start is None else self.start
        if start.shape != (function.n_parameters,):
            raise InputError(f"parameters have shape {start.shape}, expected ({function.n_parameters},)")
        state = self.solver.init(function, start)
        reference = self.solver.reference(function, state)
        if not reference.gradient.any():
            reference = Reference(state.gradient, 0.0, 0.0)
        reference = replace(reference, norm=self.solver.norm(state, reference.gradient))
        return self._scored(function, Checkpoint(mark, state, reference, 0, 0, 0.0, ()))

    def _ratios(self, state: State, violation: Array, reference: Reference) -> tuple[float, float]:
        """Return the violation beside the reference: its largest entry, and its norm in the solver's coordinates.

        Coordinates that change, as those of Newton's method do, count as they are now for both norms, unless those of
        the start are stricter: where probabilities come close to 0 and 1, they are.
        """
        sizes = _largest(violation), self.solver.norm(state, violation)
        units = _largest(reference.gradient), min(self.solver.norm(state, reference.gradient), reference.norm)
        entries, norms = (size / beside if beside else 0.0 for size, beside in zip(sizes, units, strict=True))
        return entries, norms

    def _status(self, history: list[Progress], stop: bool) -> Status | None:
        first, progress = history[0], history[-1]
        if not (np.isfinite(progress.value) and np.isfinite(progress.gradient)):
            return Status.DIVERGED
        # Momentum may climb for a while, but not so far: do not wait for infinity.
        if progress.value > GROWTH * abs(first.value) and progress.gradient > GROWTH * first.gradient:
            return Status.DIVERGED
        # "The coefficients hardly changed" stops too early on ill-conditioned columns; the gradient does not.
        if self.tol > 0 and progress.relative <= self.tol:
            return Status.CONVERGED
        if self.tol > 0 and progress.iteration % STEPS == 0 and _stands(history):
            return Status.AT_ROUNDING
        if progress.iteration >= self.max_iter:
            return Status.MAX_ITER
        return Status.STOPPED if stop else None

    def _hesitates(self, status: Status | None, history: list[Progress]) -> bool:
        """Whether it is time to ask if the gradient is rounding: it does not shrink, or there are no more steps."""
        iteration = history[-1].iteration
        if self.tol == 0 or iteration < FEW:
            return False
        return status is Status.MAX_ITER or (status is None and iteration % FEW == 0 and not _shrinks(history, FEW))

    def _at_rounding(self, function: Function, state: State) -> Status:
        """Return AT_ROUNDING, or STALLED where rounding does not explain the gradient. Two rounds.

        What one round has answered is not asked again: `Exact` says itself where digits are lost.
        """
        if self.solver.name == Exact.name or function.is_rounding(state.parameters, state.gradient):
            return Status.AT_ROUNDING
        return Status.STALLED


def _largest(gradient: Array) -> float:
    """Return max |gradient|."""
    return float(np.max(np.abs(gradient), initial=0.0))


def _shrinks(history: list[Progress], steps: int) -> bool:
    """Whether the last steps have brought a smaller gradient, or are not that many."""
    before, late = history[:-steps], history[-steps:]
    return not before or min(each.relative for each in late) < min(each.relative for each in before)


def _stands(history: list[Progress]) -> bool:
    """Whether the last steps have brought nothing: no smaller gradient, and no lower F."""
    before, late = history[:-STEPS], history[-STEPS:]
    return not _shrinks(history, STEPS) and min(each.value for each in late) >= min(each.value for each in before)
