"""The command line: dist-dot train."""

import sys
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import click
from rich.console import Console

from cluster import ClusterWordError, connect
from dist_dot import __version__
from dist_dot.errors import DistDotError, InputError, JobError, SolverError
from dist_dot.jobs.console import ProgressLine, show_report
from dist_dot.jobs.job import Job, read_job
from dist_dot.jobs.run import run_job
from dist_dot.training.fit import Status

EXIT = {Status.CONVERGED: 0, Status.AT_ROUNDING: 0, Status.MAX_ITER: 3, Status.DIVERGED: 1, Status.STOPPED: 1}
MISTAKE, FAILURE = 2, 1


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dist-dot")
def main() -> None:
    """Train linear models, data-parallel, on a Dask cluster."""


@main.command()
@click.argument("job_file", metavar="JOB.toml", type=click.Path(path_type=Path))
@click.option("--cluster", "word", help="none, local, local:4, tcp://host:8786 or tls://host:8786.")
@click.option("--resume", type=click.Choice(["auto", "never"]), default="never", show_default=True,
              help="auto: go on from the newest checkpoint of this job.")  # fmt: skip
@click.option("--out", "folder", type=click.Path(), help="The folder to write, instead of the job's own.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Change a key of the job.")
def train(job_file: Path, word: str | None, resume: str, folder: str | None, settings: tuple[str, ...]) -> None:
    """Train the model that JOB.toml describes and write its folder.

    Exit status: 0 converged; 3 stopped at max_iter, the model is written; 2 a mistake in the job or the data;
    1 anything else.
    """
    console = Console()
    try:
        job = read_job(job_file, settings)
        if word is not None:
            job = replace(job, cluster=replace(job.cluster, kind=word))
        if folder is not None:
            job = replace(job, output=replace(job.output, folder=folder))
        _check_checkpoints(job)
        with _client(job) as client, ProgressLine(console) as line:
            report = run_job(job, client, line, resume == "auto")
    except (InputError, SolverError, ClusterWordError) as error:
        _end(MISTAKE, error)
    except (DistDotError, OSError) as error:
        _end(FAILURE, error)
    show_report(console, report, job.output.folder)
    sys.exit(EXIT[report.status])


def _client(job: Job) -> Any:
    if job.cluster.kind == "none":
        return nullcontext()
    return connect(job.cluster.kind, job.cluster.workers, job.cluster.threads)


def _check_checkpoints(job: Job) -> None:
    """Refuse checkpoints where the loop, which writes them, has another file system than this process."""
    if "//" in job.cluster.kind and job.output.checkpoint_every:
        raise JobError(
            f"[output] checkpoint_every is {job.output.checkpoint_every}, but the loop runs beside the scheduler at "
            f"{job.cluster.kind}, which cannot write to {job.output.folder} here: set output.checkpoint_every=0"
        )


def _end(status: int, error: Exception) -> None:
    click.echo(f"error: {error}", err=True)
    sys.exit(status)
