"""Runs that outlive their client: list them, follow one, make the model folder of its outcome."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dist_dot.blocks.remote import RemoteRun, RunSummary, runs
from dist_dot.errors import JobError
from dist_dot.jobs.job import Job
from dist_dot.jobs.run import Plan, Report, finish
from dist_dot.training.fit import Progress


def list_runs(client: Any) -> list[RunSummary]:
    """Return the runs of a scheduler, the oldest first."""
    return sorted(runs(client), key=lambda run: run.started)


def find_run(client: Any, name: str) -> RemoteRun:
    """Return the run whose name begins so. Raises JobError, with the names there are, unless there is one."""
    names = [run.run for run in list_runs(client)]
    found = [each for each in names if each.startswith(name)]
    if len(found) != 1:
        there = ", ".join(found or names) or "none"
        raise JobError(f"{len(found) or 'no'} runs begin with {name!r}; the scheduler has: {there}")
    return RemoteRun(client, found[0])


def find_same(client: Any, job: Job) -> RemoteRun | None:
    """Return the run of this very job that a scheduler has, or whose outcome it keeps; None where it has none."""
    for summary in list_runs(client):
        run = RemoteRun(client, summary.run)
        if summary.state != "error" and isinstance(plan := run.extra, Plan) and plan.job == job:
            return run
    return None


def attach_run(run: RemoteRun, folder: str | None, watch: Callable[[Progress], bool]) -> tuple[Report, str]:
    """Follow a job's run from its beginning to its end and write its folder; return the report and the folder.

    Raises JobError for a run that is no job's: only the process that started it knows what its outcome is for.
    """
    plan = run.extra
    if not isinstance(plan, Plan):
        raise JobError(f"run {run.name} was not started by `dist-dot train`: its outcome belongs to its own client")
    if folder is not None:
        plan = replace(plan, job=replace(plan.job, output=replace(plan.job.output, folder=folder)))
    outcome, _ = run.follow(watch)
    return finish(plan, outcome, run.client), plan.job.output.folder
