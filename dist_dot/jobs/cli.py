"""The command line: dist-dot train, predict, submit, attach."""

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from signal import SIGINT
from typing import Any, NoReturn

import click
import dist_dot_cluster
from dist_dot_cluster import ClusterWordError
from dist_dot_cluster.namespace import Namespace
from rich.console import Console
from rich.logging import RichHandler

from dist_dot import __version__
from dist_dot.errors import DistDotError, InputError, JobError, RunDetached, SolverError
from dist_dot.jobs.attach import attach_run, find_run, list_runs, resume_job
from dist_dot.jobs.console import ProgressLine, RowsDone, plain, show_predicted, show_report, show_runs
from dist_dot.jobs.interrupt import interrupt
from dist_dot.jobs.job import Cluster, Job, Output, check_place, checked, read_job
from dist_dot.jobs.model import load_model
from dist_dot.jobs.predict import predict_table
from dist_dot.jobs.run import check_folder, run_job, what_is_left
from dist_dot.jobs.submit import attach as attach_submitted
from dist_dot.jobs.submit import plan_submission, pods_of_job, print_plan, start
from dist_dot.jobs.submit import wait as wait_for
from dist_dot.jobs.words import shown
from dist_dot.training.fit import Status

TLS = (
    click.option("--tls-ca-file", type=click.Path(), help="For tls://: the certificate of who signed the cluster's."),
    click.option("--tls-cert", type=click.Path(), help="The client's own certificate."),
    click.option("--tls-key", type=click.Path(), help="Its key, unless --tls-cert holds it too."),
)
NAMESPACE = click.option("--namespace", help="On Kubernetes.  [default: that of the kubeconfig]")
EXIT = {
    Status.CONVERGED: 0,
    Status.AT_ROUNDING: 0,
    Status.EARLY_STOPPED: 0,
    Status.MAX_ITER: 3,
    Status.STALLED: 3,
    Status.DIVERGED: 1,
    Status.STOPPED: 1,
}
MISTAKE, FAILURE = 2, 1


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="dist-dot")
def main() -> None:
    """Train linear models, data-parallel, on a Dask cluster."""


@main.command()
@click.argument("job_file", metavar="JOB.toml", type=click.Path(path_type=Path))
@click.option(
    "--cluster",
    "word",
    help="none, local, local:4, cuda, tcp://host:8786, tls://host:8786, kubernetes or kubernetes:NAME.",
)
@TLS[0]
@TLS[1]
@TLS[2]
@click.option("--resume", type=click.Choice(["auto", "never"]), default="never", show_default=True,
              help="auto: go on from the newest checkpoint of this job, or follow its run if it goes on.")  # fmt: skip
@click.option("--out", "folder", type=click.Path(), help="The folder to write, instead of the job's own.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Change a key of the job.")
def train(
    job_file: Path,
    word: str | None,
    tls_ca_file: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    resume: str,
    folder: str | None,
    settings: tuple[str, ...],
) -> None:
    """Train the model that JOB.toml describes and write its folder.

    Ctrl-C stops the run at once, which leaves a checkpoint; on a cluster by address it asks first whether the run is to
    go on there. A second Ctrl-C ends this process without waiting for anything.

    Exit status: 0 converged; 3 stopped at max_iter or stalled, the model is written; 2 a mistake in the job or the
    data; 1 anything else.
    """
    console = Console()
    with _mistakes_named():
        job = _written_to(read_job(job_file, settings), folder)
        if word is None:
            check_place(job.cluster)
        job = replace(job, cluster=_place(job.cluster, word, tls_ca_file, tls_cert, tls_key))
        line = ProgressLine(console)
        interrupt.words = lambda: what_is_left(job, line.first is not None, resume == "auto")
        with _open(job.cluster) as client, line:
            address = job.cluster.kind if "//" in job.cluster.kind else None
            files = "".join(f" --{name.replace('_', '-')} {file}" for name, file in job.cluster.tls_files.items())

            def started(run: str) -> None:
                if address:
                    interrupt.ask = _detach_or_cancel(line)
                    line.say(f"run {run}: dist-dot attach {run} --cluster {address}{files}")

            if resume == "auto" and address:
                report = resume_job(job, client, line, started)
            else:
                report = run_job(job, client, line, started, resume == "auto")
        interrupt.words = lambda: f"interrupted: the model is written to {job.output.folder}"
        show_report(console, report, job.output.folder)
    sys.exit(EXIT[report.status])


@main.command()
@click.argument("folder", metavar="FOLDER", type=click.Path(path_type=Path))
@click.argument("source")
@click.option("--out", required=True, help="The Parquet file to write: a path or a URL.")
@click.option("--keep", multiple=True, metavar="COLUMN", help="A column of the source to write beside the predictions.")
@click.option(
    "--cluster", "word", default="none", show_default=True, help="Where the rows are read: a word as for train."
)
@TLS[0]
@TLS[1]
@TLS[2]
@NAMESPACE
def predict(
    folder: Path,
    source: str,
    out: str,
    keep: tuple[str, ...],
    word: str,
    tls_ca_file: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    namespace: str | None,
) -> None:
    """Predict the target of each row of SOURCE with the model in FOLDER, which a run has left.

    SOURCE is a Parquet file, a glob of some or a URL, with the columns that the model has learned from. What is written
    has a row for each of its rows, in order: the mean of the target, for logistic the probability of 1; for softmax the
    likeliest class, and the probability of each. A category that the model has not seen counts as none. Ctrl-C leaves
    nothing of it. Exit status: 0; 2 a mistake; 1 anything else.
    """
    console = Console()
    place = _place(Cluster(namespace=namespace), word, tls_ca_file, tls_cert, tls_key)
    with _mistakes_named():
        interrupt.words = lambda: f"interrupted: {out} is not written"
        check_place(place, "--{}")
        model = load_model(folder)
        if word == "kubernetes":
            raise JobError("predict makes no pods: give kubernetes:NAME, the name of a DaskCluster that exists")
        with _open(place) as client, RowsDone(console) as watch:
            done = predict_table(model, source, out, keep, client, watch)
        interrupt.words = lambda: f"interrupted: {out} is written"
        show_predicted(console, model, done, out)


@main.command()
@click.argument("job_file", metavar="JOB.toml", type=click.Path(path_type=Path))
@click.option("--image", help="It has dask and dist-dot: see cluster/Dockerfile.")
@click.option("--workers", type=int, help="Worker pods.  [default: 2]")
@click.option("--cpus", type=float, help="Of each worker.  [default: 1]")
@click.option("--memory", help="Of each worker, such as 8Gi.  [default: 4Gi]")
@click.option("--gpus-per-worker", type=int, help="0 or 1.  [default: 0]")
@click.option("--volume", "volumes", multiple=True, metavar="CLAIM:/PATH",
              help="A PersistentVolumeClaim, and where all pods see it.")  # fmt: skip
@click.option("--env-from", multiple=True, metavar="SECRET", help="Its keys are environment variables of all pods.")
@click.option("--pull-secret", "pull_secrets", multiple=True, metavar="SECRET", help="To pull the image with.")
@NAMESPACE
@click.option("--store", help="Where the run is kept: a path on a volume, or a URL.  [default: the first volume]")
@click.option("--retries", type=click.IntRange(0), default=5, show_default=True, help="Runners that may be lost.")
@click.option("--set", "settings", multiple=True, metavar="SECTION.KEY=VALUE", help="Change a key of the job.")
@click.option("--dry-run", is_flag=True, help="Print the objects, and make none.")
@click.option("--wait", is_flag=True, help="Follow the run, fetch its folder, delete what was made.")
@click.option("--out", "folder", type=click.Path(), help="With --wait: the folder to write, instead of the job's own.")
def submit(
    job_file: Path,
    image: str | None,
    workers: int | None,
    cpus: float | None,
    memory: str | None,
    gpus_per_worker: int | None,
    volumes: tuple[str, ...],
    env_from: tuple[str, ...],
    pull_secrets: tuple[str, ...],
    namespace: str | None,
    store: str | None,
    retries: int,
    settings: tuple[str, ...],
    dry_run: bool,
    wait: bool,
    folder: str | None,
) -> None:
    """Run the job on Kubernetes, by the Dask operator, without this machine.

    The options of pods stand for those of the job's [cluster]. Exit status: 0 when the run is made; with --wait as for
    train.
    """
    options = {
        "image": image,
        "workers": workers,
        "cpus": cpus,
        "memory": memory,
        "gpus_per_worker": gpus_per_worker,
        "volumes": volumes,
        "env_from": env_from,
        "pull_secrets": pull_secrets,
        "namespace": namespace,
    }
    given: dict[str, Any] = {name: value for name, value in options.items() if value not in (None, ())}
    with _mistakes_named():
        interrupt.words = lambda: "interrupted: `dist-dot attach --cluster kubernetes` lists what was submitted"
        interrupt.limit = None
        job = _written_to(read_job(job_file, settings), folder)
        job = checked(replace(job, cluster=replace(job.cluster, **given)))
        if wait:
            check_folder(job)
        where = None if dry_run else Namespace(job.cluster.namespace)
        name = where.name if where else job.cluster.namespace or "default"
        submission = plan_submission(job_file, job, settings, name, store, retries)
        if where is None:
            print_plan(submission)
            return
        start(where, submission)
        if not wait:
            return
        status, error = wait_for(where, submission.name, Path(job.output.folder))
    _exit(status, error)


@main.command()
@click.argument("run", required=False)
@click.option("--cluster", "word", required=True, help="tcp://host:8786, tls://host:8786, or kubernetes.")
@TLS[0]
@TLS[1]
@TLS[2]
@NAMESPACE
@click.option("--cancel", is_flag=True, help="End the run; it leaves a checkpoint.")
@click.option("--out", "folder", type=click.Path(), help="The folder to write, instead of the job's own.")
def attach(
    run: str | None,
    word: str,
    tls_ca_file: str | None,
    tls_cert: str | None,
    tls_key: str | None,
    namespace: str | None,
    cancel: bool,
    folder: str | None,
) -> None:
    """Follow a run that goes on without its client, or fetch its result; without RUN, list the runs there are.

    RUN is its name or the beginning of it. On Kubernetes the runs are those that `submit` has made, and --cancel
    deletes all that was made for one. Exit status as for train.
    """
    console = Console()
    place = _place(Cluster(namespace=namespace), word, tls_ca_file, tls_cert, tls_key)
    with _mistakes_named():
        check_place(place, "--{}")
        if folder is not None:
            Output(folder)
        if word.partition(":")[0] in ("none", "local", "cuda"):
            raise JobError(
                f"--cluster {word} keeps no runs once its process has ended: give the address of a scheduler"
            )
    if word == "kubernetes":
        with _mistakes_named():
            interrupt.words = lambda: "interrupted: what was submitted goes on"
            interrupt.limit = None
            status, error = attach_submitted(Namespace(namespace), run, folder, cancel)
        _exit(status, error)
    with _mistakes_named(), _open(replace(place, workers=0)) as client:
        if run is None:
            show_runs(console, list_runs(client))
            return
        found = find_run(client, run)
        if cancel:
            found.cancel()
            console.print(plain(f"run {found.name} is told to end"))
            return
        interrupt.words = lambda: f"run {found.name} was told to end; it leaves a checkpoint"
        with ProgressLine(console) as line:
            interrupt.ask = _detach_or_cancel(line)
            report, folder = attach_run(found, folder, line)
        show_report(console, report, folder)
    sys.exit(EXIT[report.status])


def _exit(status: int, error: str) -> NoReturn:
    """End as a run elsewhere has ended."""
    if error:
        _end(status, error)
    sys.exit(status)


def _written_to(job: Job, folder: str | None) -> Job:
    """Return the job with the folder of the command line, if there is one, in place of its own."""
    return job if folder is None else replace(job, output=replace(job.output, folder=folder))


def _place(place: Cluster, word: str | None, ca_file: str | None, cert: str | None, key: str | None) -> Cluster:
    """Return where the command line says the job runs, and the job itself where it says nothing."""
    if word is not None:
        place = replace(place, kind=word)
        if not word.startswith("tls://"):  # the job's certificates are for the place that it names
            place = replace(place, tls_ca_file=None, tls_cert=None, tls_key=None)
    if ca_file or cert or key:
        place = replace(place, tls_ca_file=ca_file, tls_cert=cert, tls_key=key)
    return place


@contextmanager
def _open(place: Cluster) -> Iterator[Any]:
    files = place.tls_ca_file, place.tls_cert, place.tls_key
    security = dist_dot_cluster.certificates(*files) if place.tls_files else None
    on_kubernetes = place.kind.partition(":")[0] == "kubernetes"
    if on_kubernetes:
        interrupt.limit = None  # pods that were made are deleted, however long that takes
    with dist_dot_cluster.open(
        place.kind,
        place.workers,
        place.threads,
        security=security,
        patience=place.patience,
        pods=pods_of_job(place) if place.kind == "kubernetes" else None,
        namespace=place.namespace if on_kubernetes else None,
    ) as client:
        yield client


def _detach_or_cancel(line: ProgressLine) -> Callable[[int], bool]:
    """Return what a signal does to a run that can go on without this process: Ctrl-C in a terminal asks."""

    def ask(number: int) -> bool:
        if number != SIGINT or not sys.stdin.isatty():
            return True
        answer = line.ask("detach (the run goes on), cancel (it leaves a checkpoint), or back?", "dcb")
        if answer == "d":
            raise RunDetached("the run goes on without this process: `dist-dot attach` finds it")
        return answer == "c"

    return ask


class Shown(logging.Formatter):
    """The words of a record, as a terminal may show them."""

    def format(self, record: logging.LogRecord) -> str:
        """Return them."""
        return shown(record.getMessage())


@contextmanager
def _mistakes_named() -> Iterator[None]:
    """Log the warnings of runs, and end with one line and the right status where something is raised."""
    logs = [logging.getLogger(name) for name in ("dist_dot", "dist_dot_cluster")]
    for dask in logging.getLogger("distributed").handlers:  # what goes wrong is raised; Dask logs stack traces too
        dask.setLevel(logging.CRITICAL)  # for good: connections that close log it when the cluster is gone
    handler = RichHandler(show_path=False, show_level=False, markup=False)
    handler.setFormatter(Shown())
    for log in logs:
        log.addHandler(handler)
    interrupt.idle = False
    try:
        yield
    except (InputError, SolverError, ClusterWordError) as error:
        _end(MISTAKE, error)
    except (DistDotError, OSError) as error:
        _end(FAILURE, error)
    except KeyboardInterrupt:
        interrupt.leave()
    finally:
        interrupt.idle = True
        for log in logs:
            log.removeHandler(handler)


def _end(status: int, error: object) -> NoReturn:
    click.echo(f"error: {shown(error)}", err=True)
    sys.exit(status)
