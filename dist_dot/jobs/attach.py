"""Runs that outlive their client: list them, follow one, make the model folder of its outcome."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

from dist_dot.errors import JobError, RunCancelled
from dist_dot.jobs.job import Job
from dist_dot.jobs.run import Outcome, Plan, Report, check_folder, finish, run_job
from dist_dot.jobs.sources import of_source
from dist_dot.rounds.blocks import log
from dist_dot.rounds.remote import RemoteRun, RunSummary, runs
from dist_dot.training.fit import Progress


def list_runs(client: Any) -> list[RunSummary]:
    """Return the runs of a scheduler, the oldest first."""
    return sorted(runs(client), key=lambda run: run.started)


def find_run(client: Any, name: str) -> RemoteRun[Outcome]:
    """Return the run whose name begins so. Raises JobError, with the names there are, unless there is one."""
    names = [run.run for run in list_runs(client)]
    found = [each for each in names if each.startswith(name)]
    if len(found) != 1:
        there = ", ".join(found or names) or "none"
        raise JobError(f"{len(found) or 'no'} runs begin with {name!r}; the scheduler has: {there}")
    return RemoteRun(client, found[0])


def resume_job(job: Job, client: Any, watch: Callable[[Progress], bool], started: Callable[[str], None]) -> Report:
    """Follow the run of this very job that a scheduler has; else run it, from its newest checkpoint. See `run_job`.

    A run that was stopped goes on from its checkpoint, unless we have stopped it ourselves: whoever followed it before
    us has stopped it because it was told to end itself. So does one that was cancelled before we came.
    """
    found = _same(client, job)
    if found is not None:
        run, plan, ending = found
        started(run.name)
        stops: list[bool] = []

        def watch_and_note(progress: Progress) -> bool:
            stops.append(watch(progress))
            return stops[-1]

        try:
            with of_source(job.data.source):
                outcome, _ = run.follow(watch_and_note)
                if not outcome.stopped or any(stops):
                    return finish(plan, outcome, client)
        except RunCancelled:
            if not ending or any(stops):
                raise
        log.warning("run %s was stopped: it goes on from its checkpoint", run.name)
    return run_job(job, client, watch, started, resume=True)


def _same(client: Any, job: Job) -> tuple[RemoteRun[Outcome], Plan, bool] | None:
    """Return the newest run of this very job that a scheduler has, or whose outcome it keeps, and whether it is ending.

    None where there is none, or all have ended in errors.
    """
    for summary in reversed(list_runs(client)):
        run: RemoteRun[Outcome] = RemoteRun(client, summary.run)
        if summary.state != "error" and isinstance(plan := run.extra, Plan) and plan.job == job:
            return run, plan, summary.state == "ending"
    return None


def attach_run(run: RemoteRun[Outcome], folder: str | None, watch: Callable[[Progress], bool]) -> tuple[Report, str]:
    """Follow a job's run from its beginning to its end and write its folder; return the report and the folder.

    Raises JobError for a run that is no job's: only the process that started it knows what its outcome is for.
    """
    plan = run.extra
    if not isinstance(plan, Plan):
        raise JobError(f"run {run.name} was not started by `dist-dot train`: its outcome belongs to its own client")
    if folder is not None:
        plan = replace(plan, job=replace(plan.job, output=replace(plan.job.output, folder=folder)))
    check_folder(plan.job)
    with of_source(plan.job.data.source):
        outcome, _ = run.follow(watch)
        return finish(plan, outcome, run.client), plan.job.output.folder
