"""One run: a job and a client in; a model folder and a report out."""

import json
import platform
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save

from dist_dot.blocks.block import Blocks, cut
from dist_dot.blocks.layout import lay_out_rows
from dist_dot.errors import DataError
from dist_dot.jobs.features import BlockMaker, Encoding, learn_encoding
from dist_dot.jobs.job import Job
from dist_dot.jobs.sources import Part, Split, Table, open_table
from dist_dot.losses import Squared
from dist_dot.objective import Objective
from dist_dot.solvers import GradientDescent
from dist_dot.training.checkpoint import Checkpoints, write_atomically
from dist_dot.training.fit import Fit, Progress, Status
from dist_dot.training.loop import minimise

LOSSES = {Squared.name: Squared()}


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
    r2_train: float
    r2_held_out: float | None
    seconds: float
    seconds_per_round: float
    bytes_per_second: float
    coefficients: dict[str, float]
    """By name, largest first."""
    intercept: float
    history: tuple[Progress, ...]
    versions: dict[str, str]


def run_job(job: Job, client: Any, watch: Callable[[Progress], None], resume: bool = False) -> Report:
    """Train what the job says on the client's cluster, or in this process without one; write the folder.

    watch is called with each round's progress. With resume the run goes on from its newest checkpoint. Raises
    DataError for data that cannot be used, ClusterError for a cluster that fails.
    """
    folder = Path(job.output.folder)
    folder.mkdir(parents=True, exist_ok=True)
    table = open_table(job.data.source)
    split = Split(job.data.holdout)
    train, held = (Part(split, is_held, table.n_rows) for is_held in (False, True))

    def each(function: Callable[[Any], Any], items: Sequence[Any]) -> Iterable[Any]:
        if client is None:
            return map(function, items)
        from dist_dot.blocks.cluster import gather

        return gather(client, client.map(function, items, pure=False))

    used = 1 + len(job.data.numeric) + len(job.data.categorical)
    encoding = learn_encoding(table, job.data, train, each, cut(table.n_rows, used, "float64"))
    blocks = _blocks(job, table, encoding, train, client)
    objective = Objective(blocks, LOSSES[job.model.loss], job.model.alpha, job.model.fit_intercept)
    checkpoints = None
    if job.output.checkpoint_every:
        checkpoints = Checkpoints(str((folder / "checkpoint").absolute()), job.output.checkpoint_every, resume)
    fit = minimise(
        objective,
        _solver(job),
        tol=job.solver.tol,
        max_iter=job.solver.max_iter,
        callbacks=(watch,),
        checkpoint=checkpoints,
    )
    parameters = fit.parameters[: objective.n_parameters]
    n_held = held.count()
    held_out = None
    if n_held:
        held_blocks = _blocks(job, table, encoding, held, client)
        held_out = Objective(held_blocks, objective.loss, 0.0, job.model.fit_intercept).explained(parameters)
    order = np.argsort(-np.abs(fit.w), kind="stable")
    report = Report(
        status=fit.status,
        target=job.data.target,
        rows=blocks.cuts.n_samples,
        rows_held_out=n_held,
        features=blocks.cuts.n_features,
        blocks=blocks.cuts.n_blocks,
        where=fit.where,
        iterations=fit.n_iter,
        rounds=fit.rounds,
        loss=fit.value,
        r2_train=objective.explained(parameters),
        r2_held_out=held_out,
        seconds=fit.history[-1].seconds,
        seconds_per_round=fit.seconds_per_round,
        bytes_per_second=fit.bytes_per_second,
        coefficients={encoding.names[j]: float(fit.w[j]) for j in order},
        intercept=float(fit.intercept),
        history=fit.history,
        versions=versions(),
    )
    _write(folder, job, encoding, fit, report)
    return report


def versions() -> dict[str, str]:
    """Return the versions that the bits of a fit depend on."""
    names = ("dist-dot", "numpy", "numba", "scipy", "dask", "distributed")
    return {"python": platform.python_version(), "machine": platform.machine()} | {n: version(n) for n in names}


def _blocks(job: Job, table: Table, encoding: Encoding, part: Part, client: Any) -> Blocks:
    cuts = cut(part.count(), len(encoding.names), "float64", job.data.block_rows)
    if not cuts.n_samples:
        raise DataError(f"source {table.url} leaves no rows to train on")
    starts = part.positions([number * cuts.block_rows for number in range(cuts.n_blocks)])
    starts[0] = 0
    make = BlockMaker(table, job.data, encoding, part, cuts, (*starts, table.n_rows))
    return lay_out_rows(make, cuts, client)


def _solver(job: Job) -> GradientDescent:
    """Return what [solver] says; "auto" is gradient descent."""
    options = job.solver
    return GradientDescent(
        options.learning_rate,
        None if options.momentum == "none" else "nesterov",
        None if options.preconditioner == "none" else "diagonal",
    )


def _write(folder: Path, job: Job, encoding: Encoding, fit: Fit, report: Report) -> None:
    """Write model.safetensors, model.json and report.json: the last one says that the others are whole."""
    model = {
        "format": 1,
        "target": job.data.target,
        "loss": job.model.loss,
        "alpha": job.model.alpha,
        "fit_intercept": job.model.fit_intercept,
        "features": encoding.names,
        "encoding": asdict(encoding),
        "status": fit.status.name,
        "versions": report.versions,
    }
    arrays = {"coef": np.ascontiguousarray(fit.w), "intercept": np.array([fit.intercept])}
    history = {name: [getattr(progress, name) for progress in report.history] for name in Progress.__annotations__}
    figures = asdict(report) | {
        "status": report.status.name,
        "advice": report.status.value,
        "history": history,
    }
    write_atomically(folder / "model.safetensors", save(arrays))
    write_atomically(folder / "model.json", _json(model))
    write_atomically(folder / "report.json", _json(figures))


def _json(value: Any) -> bytes:
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
