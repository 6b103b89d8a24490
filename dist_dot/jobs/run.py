"""One run: a job and a client in; a model folder and a report out."""

import os
import platform
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any, Literal

import numpy as np

from dist_dot.errors import DataError, JobError, RunCancelled
from dist_dot.jobs.features import BlockMaker, Encoding, learn_encoding
from dist_dot.jobs.interrupt import interrupt
from dist_dot.jobs.job import Job
from dist_dot.jobs.model import LOSSES, Model, load_model, loss_of, to_json
from dist_dot.jobs.sources import Part, Split, Table, of_source, open_table
from dist_dot.losses import Loss, Softmax, Squared
from dist_dot.objective import Linear, Objective
from dist_dot.rounds.blocks import Blocks, Recovery, log
from dist_dot.rounds.layout import lay_out_rows
from dist_dot.rows import settle
from dist_dot.rows.block import Cuts, cut
from dist_dot.solvers import LBFGS, Choice, GradientDescent, choose
from dist_dot.solvers.choice import MEMORY
from dist_dot.training.checkpoint import Checkpoints, write_atomically
from dist_dot.training.early_stopping import EarlyStopping
from dist_dot.training.fit import Fit, Progress, Status
from dist_dot.training.loop import Loop
from dist_dot.typing import Array


@dataclass(frozen=True)
class Report:
    """Every figure that a run shows."""

    status: Status
    target: str
    rows: int
    rows_held_out: int
    features: int
    blocks: int
    where: str
    iterations: int
    rounds: int
    loss: float
    """F at the end, penalty included."""
    solver: str
    """Which, with its options, and why."""
    score: str
    """R2; for other losses than the squared one D2, the share of the deviance of the mean that is explained."""
    score_train: float
    score_held_out: float | None
    seconds: float
    seconds_per_round: float | None
    bytes_per_second: float | None
    recovery: Recovery
    coefficients: dict[str, float]
    """By name, largest first; "feature (class)" where the target is a class."""
    intercept: float | dict[str, float]
    """By class where the target is one."""
    history: tuple[Progress, ...]
    versions: dict[str, str]


@dataclass(frozen=True)
class Plan:
    """A job and what its table has taught: all that is needed to make a model of an outcome, in any process."""

    job: Job
    table: Table
    encoding: Encoding

    @property
    def train(self) -> Part:
        """The rows to train on."""
        return Part(Split(self.job.data.holdout), False, self.table.n_rows)

    @property
    def held(self) -> Part:
        """The rows that are held out."""
        return Part(Split(self.job.data.holdout), True, self.table.n_rows)

    @property
    def loss(self) -> Loss:
        """What [model] says."""
        return loss_of(self.job.model.loss, self.encoding, self.job.model.delta)

    @property
    def checkpoints(self) -> str:
        """Where checkpoints go: an absolute path, or a URL."""
        return checkpoint_folder(self.job)

    @property
    def label(self) -> str:
        """The run in words."""
        return f"{self.job.data.target} from {len(self.encoding.names)} features of {self.job.data.source}"


@dataclass(frozen=True)
class Outcome:
    """What a run leaves beside the scheduler."""

    fit: Fit
    cuts: Cuts
    score_train: float | None
    """None for a run that was stopped."""

    @property
    def stopped(self) -> bool:
        """Whether somebody has stopped the run."""
        return self.score_train is None


@dataclass(frozen=True)
class Training:
    """The program of a job: the loop, and the score on the rows it was trained on."""

    model: Linear
    """What the loop fits."""
    loop: Loop
    solver: str
    """The choice of it, in words."""

    def __call__(self, blocks: Blocks, report: Callable[[Progress], bool]) -> Outcome:
        """Train, and score what has not been stopped."""
        fit = replace(self.loop(blocks, report), solver=self.solver)
        stopped = fit.status is Status.STOPPED
        score = None if stopped else self.model.bind(blocks).explained(fit.parameters)
        return Outcome(fit, blocks.cuts, score)


def run_job(
    job: Job,
    client: Any,
    watch: Callable[[Progress], bool],
    started: Callable[[str], None],
    resume: bool = False,
) -> Report:
    """Train what the job says on the client's cluster, or in this process without one; write the folder.

    watch is called with each round's progress, and stops the run when it returns True; started is told the name of a
    run on a cluster. With resume the run goes on from its newest checkpoint. Raises DataError for data that cannot be
    used, ClusterError for a cluster that fails, RunCancelled after a stop.
    """
    with of_source(job.data.source):
        plan = plan_job(job, client)
        checkpoints = None
        if job.output.checkpoint_every:
            if client is not None:
                _check_shared(plan.checkpoints, client)
            checkpoints = Checkpoints(plan.checkpoints, job.output.checkpoint_every, resume)
        cuts = _cuts(plan, plan.train)
        _check_room(plan, cuts, client)
        blocks = _blocks(plan, plan.train, cuts, client)
        model = Linear(plan.loss, job.model.alpha, job.model.fit_intercept)
        chosen = _solver(job, model.bind(blocks))
        loop = Loop(
            model,
            chosen.solver,
            job.solver.tol,
            job.solver.max_iter,
            checkpoints,
            early_stopping=None if job.solver.early_stopping is None else EarlyStopping(job.solver.early_stopping),
        )
        if client is None:
            return finish(plan, blocks.run(Training(model, loop, str(chosen)), watch), None)
        blocks.patience = job.cluster.patience
        run = blocks.start(Training(model, loop, str(chosen)), plan.label, plan)
        started(run.name)
        outcome, _ = run.follow(watch)
        return finish(plan, outcome, client)


def _check_room(plan: Plan, cuts: Cuts, client: Any) -> None:
    """Compare the bytes of the rows with the memory that is to hold them, before they are read."""
    weights, on_gpu = plan.job.data.weight is not None, plan.job.device == settle.CUDA
    everything = replace(cuts, n_samples=plan.table.n_rows)  # what is held out is scored beside the rows trained on
    if client is None:
        if on_gpu:
            settle.check_room(everything.memory(weights), str(everything))
        elif plan.job.cluster.preflight:
            from dist_dot.jobs.preflight import check_memory_here

            check_memory_here(everything, weights, _widest(plan.encoding))
    elif plan.job.cluster.preflight:
        from dist_dot.jobs.preflight import check_gpu_memory, check_memory

        if on_gpu:
            check_gpu_memory(client, everything, weights)
        else:
            check_memory(client, cuts, weights)


def _widest(encoding: Encoding) -> str:
    """Return in words which column of categories makes the most features; nothing where there is none."""
    widest = max(encoding.categorical, key=lambda column: len(column.values), default=None)
    return "" if widest is None else f" (column {widest.name!r} has {len(widest.values):,} categories)"


def _check_shared(folder: str, client: Any) -> None:
    """Refuse checkpoints in a folder of this machine that the scheduler, whose loop writes them, does not see."""
    if "://" in folder:
        return
    from dist_dot.rounds.remote import sees

    made = [place for place in (Path(folder), *Path(folder).parents) if not place.exists()]
    Path(folder).mkdir(parents=True, exist_ok=True)
    try:
        with NamedTemporaryFile(dir=folder, prefix=".seen-") as file:
            seen = sees(client, file.name)
    finally:
        for place in made:
            with suppress(OSError):  # somebody may have put something there
                place.rmdir()
    if not seen:
        raise JobError(
            f"checkpoints go to {folder}, which the scheduler at {client.scheduler.address} does not see: set "
            "output.checkpoints to a folder that both see or to a URL, or output.checkpoint_every=0"
        )


def check_folder(job: Job) -> None:
    """Raise JobError for a folder that cannot be written, and for one that holds the model of another target.

    Nothing is made: a run that ends before it has anything to keep leaves no folder.
    """
    folder = Path(job.output.folder).absolute()
    wrong = f"the folder of the run, {folder}, cannot be written"
    try:
        there = next(place for place in (folder, *folder.parents) if place.exists())
    except OSError as error:
        raise JobError(f"{wrong}: {error.strerror}") from None
    if not there.is_dir():
        raise JobError(f"{wrong}: {there} is a file")
    if not os.access(there, os.W_OK | os.X_OK):
        raise JobError(f"{wrong}: no permission to write in {there}")
    try:
        known = load_model(folder).target
    except JobError:  # there is none that could be lost
        return
    if known != job.data.target:
        raise JobError(
            f"the folder of the run, {folder}, holds a model of {known!r}, and the target of this job is "
            f"{job.data.target!r}: give another folder (--out, or [output] folder), or delete that one"
        )


def plan_job(job: Job, client: Any) -> Plan:
    """Open the table and learn its encoding: one pass over the columns used. Before it, the cluster is looked at.

    Raises DataError, DeviceError where GPUs are to keep the rows and are not there, and what `check_folder` and
    `dist_dot.jobs.preflight.check_cluster` do.
    """
    check_folder(job)
    table = open_table(job.data.source)
    if client is None:
        settle.require(job.device)
    elif job.cluster.preflight:
        from dist_dot.jobs.preflight import check_cluster, check_gpus

        check_cluster(client, sorted({table.files[0], table.files[-1]}))
        if job.device == settle.CUDA:
            check_gpus(client)
            if job.data.device == settle.AUTO:
                log.warning("GPUs keep the rows, since the cluster reserves some; data.device=cpu keeps them off")

    def each(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterable[Any]:
        if client is None:
            return map(function, items)
        from dist_dot.rounds.cluster import gather

        return gather(client, client.map(function, items, pure=False))

    used = 1 + len(job.data.numeric) + len(job.data.categorical)
    train = Part(Split(job.data.holdout), False, table.n_rows)
    loss = None if job.model.loss == Softmax.name else LOSSES[job.model.loss]
    cuts = cut(table.n_rows, used, "float64")
    return Plan(job, table, learn_encoding(table, job.data, loss, train, each, cuts))


def finish(plan: Plan, outcome: Outcome, client: Any) -> Report:
    """Score the outcome on the rows that were held out, and write the folder. Raises RunCancelled for a stopped run."""
    interrupt.ask = None  # the run is over: there is nothing to detach from
    fit = outcome.fit
    if outcome.score_train is None:
        raise RunCancelled(what_is_left(plan.job, True, True))
    n_held = plan.held.count()
    held_out = None
    if n_held:
        blocks = _blocks(plan, plan.held, _cuts(plan, plan.held), client)
        held = Objective(blocks, plan.loss, 0.0, plan.job.model.fit_intercept)
        held_out = held.explained(fit.parameters)
    report = Report(
        status=fit.status,
        target=plan.job.data.target,
        rows=outcome.cuts.n_samples,
        rows_held_out=n_held,
        features=outcome.cuts.n_features,
        blocks=outcome.cuts.n_blocks,
        where=fit.where,
        iterations=fit.n_iter,
        rounds=fit.rounds,
        loss=fit.value,
        solver=fit.solver,
        score="R2" if plan.job.model.loss == Squared.name else "D2",
        score_train=outcome.score_train,
        score_held_out=held_out,
        seconds=fit.history[-1].seconds,
        seconds_per_round=fit.seconds_per_round,
        bytes_per_second=fit.bytes_per_second,
        recovery=fit.recovery,
        coefficients=_coefficients(plan.encoding, fit.w),
        intercept=_by_class(plan.encoding, fit.intercept),
        history=fit.history,
        versions=versions(),
    )
    _write(Path(plan.job.output.folder), plan.job, plan.encoding, fit, report)
    return report


def checkpoint_folder(job: Job) -> str:
    """Return where checkpoints go: an absolute path, or a URL."""
    place = job.output.checkpoints or str(Path(job.output.folder) / "checkpoint")
    return place if "://" in place else str(Path(place).absolute())


def what_is_left(job: Job, begun: bool, resume: bool) -> str:
    """Say what a run that was interrupted has left, and how to go on.

    begun is whether it had made a step, or could have: what an earlier run has left counts only where it is resumed.
    """
    folder = checkpoint_folder(job)
    steps = None
    if job.output.checkpoint_every and (begun or resume):
        steps = Checkpoints(folder, job.output.checkpoint_every).newest_step()
    if steps is not None:
        when = f"stopped after {steps} steps" if begun else "stopped before the first step"
        return f"{when}, no model is written; --resume auto goes on from the checkpoint in {folder}"
    if not begun:
        return "stopped before the first step: there is no checkpoint, and no model is written"
    return "stopped, no model is written, and there is no checkpoint: output.checkpoint_every is 0"


def versions() -> dict[str, str]:
    """Return the versions that the bits of a fit depend on."""
    names = ("dist-dot", "numpy", "numba", "scipy", "dask", "distributed")
    return {"python": platform.python_version(), "machine": platform.machine()} | {n: version(n) for n in names}


def _cuts(plan: Plan, part: Part) -> Cuts:
    cuts = cut(part.count(), len(plan.encoding.names), "float64", plan.job.data.block_rows)
    if not cuts.n_samples:
        raise DataError(f"source {plan.table.url} leaves no rows to train on")
    return cuts


def _blocks(plan: Plan, part: Part, cuts: Cuts, client: Any) -> Any:
    starts = part.positions([number * cuts.block_rows for number in range(cuts.n_blocks)])
    starts[0] = 0
    ends = (*starts, plan.table.n_rows)
    make = BlockMaker(plan.table, plan.job.data, plan.encoding, part, cuts, ends, plan.job.device)
    return lay_out_rows(make, cuts, client, plan.table.url)


def _coefficients(encoding: Encoding, w: Array) -> dict[str, float]:
    """Return the coefficients (features,) or (features, classes) by name, the largest first."""
    names = encoding.names
    if encoding.target is not None:
        names = tuple(f"{name} ({value})" for name in names for value in encoding.target.values)
    order = np.argsort(-np.abs(w), axis=None, kind="stable")
    return {names[j]: float(w.flat[j]) for j in order}


def _by_class(encoding: Encoding, intercept: float | Array) -> float | dict[str, float]:
    if encoding.target is None:
        return float(intercept)
    values = np.broadcast_to(intercept, len(encoding.target.values))
    return {str(name): float(value) for name, value in zip(encoding.target.values, values, strict=True)}


def _solver(job: Job, objective: Objective) -> Choice:
    """Return what [solver] says."""
    options = job.solver
    preconditioner: Literal["diagonal"] | None = None if options.preconditioner == "none" else "diagonal"
    momentum: Literal["nesterov"] | None = None if options.momentum == "none" else "nesterov"
    if options.name == GradientDescent.name:
        return Choice(GradientDescent(options.learning_rate or "auto", momentum, preconditioner), "as given")
    if options.name == LBFGS.name:
        return Choice(LBFGS(options.memory or MEMORY, preconditioner), "as given")
    return choose(options.name, objective)


def _write(folder: Path, job: Job, encoding: Encoding, fit: Fit, report: Report) -> None:
    """Write the model and report.json: the last one says that the others are whole."""
    folder.mkdir(parents=True, exist_ok=True)
    model = Model(
        target=job.data.target,
        loss=job.model.loss,
        alpha=job.model.alpha,
        fit_intercept=job.model.fit_intercept,
        encoding=encoding,
        status=fit.status.name,
        versions=report.versions,
        coef=fit.w,
        intercept=fit.intercept,
    )
    model.save(folder)
    history = {name: [getattr(progress, name) for progress in report.history] for name in Progress.__annotations__}
    figures = asdict(report) | {
        "status": report.status.name,
        "advice": report.status.value,
        "history": history,
    }
    write_atomically(folder / "report.json", to_json(figures))
