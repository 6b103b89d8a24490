"""A run as a client sees it: start it, follow it, stop it, fetch its outcome, from whichever process."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Generic
from uuid import uuid4

from distributed import Client
from distributed.client import ClosedClientError
from distributed.protocol.pickle import dumps, loads

from dist_dot.errors import ClusterError, DeadlineError, RunDetached
from dist_dot.rounds.asking import RunSpec
from dist_dot.rounds.blocks import Report, T, log
from dist_dot.rounds.service import Service

# Seconds.
WAIT = 5.0  # for news of a run, on the scheduler's side
DEADLINE = 60.0  # for the scheduler's answer to anything
PARTING = 15.0  # for its answer to the word that a run is to be forgotten, which may have to end first
TRIES = 5  # to install the service: the one before may be about to leave


class SchedulerGone(ClusterError):
    """The connection to the scheduler is lost; runs go on there, if it goes on itself."""


@dataclass(frozen=True)
class RunSummary:
    """A run in a list: progress is its last, of its program's own class, None before the first.

    state is "running", "ending" once somebody has stopped or cancelled it, "done" (also of a run that was stopped, with
    what it had) or "error".
    """

    run: str
    label: str
    state: str
    started: str
    progress: Any


class RemoteRun(Generic[T]):
    """A run on the scheduler of `client`, of a program that returns a T."""

    def __init__(self, client: Client, name: str) -> None:
        self.client = client
        self.name = name

    def follow(self, report: Report) -> tuple[T, int]:
        """Report the run's progress from its beginning to its end; return what its program returned, and its rounds.

        A report that returns True asks the run to stop. What happens to workers is logged as warnings of "dist_dot".
        Raises what the program raises, DeadlineError where the scheduler does not answer for a minute, and
        SchedulerGone. Whatever else is raised here, by `report` or by Ctrl-C, cancels the run, and so does a
        DeadlineError; only RunDetached lets it go on.
        """
        try:
            result = self._follow(report)
        except (RunDetached, SchedulerGone):  # of the latter there is nobody to be told
            raise
        except BaseException:
            self._let_go()
            raise
        self._let_go()
        kind, outcome = loads(result)
        if kind == "error":
            try:
                raise outcome
            finally:
                del outcome  # its traceback holds this frame and its callers', and theirs hold the blocks
        value, rounds = outcome
        return value, rounds

    def _let_go(self) -> None:
        """Forget the run. A scheduler that is busy does it when it comes to it, and one that is gone has no runs."""
        with suppress(ClusterError, ClosedClientError):
            try:
                _ask(self.client, "dist_dot_forget", PARTING, run=self.name)
            except DeadlineError:  # the question may have had no connection yet; the client's own one is open
                self.client._send_to_scheduler({"op": "dist_dot_forget", "run": self.name})

    def _follow(self, report: Report) -> bytes:
        seen, stopping = 0, False
        while True:
            news = _ask(self.client, "dist_dot_follow", run=self.name, after=seen, wait=WAIT)
            for kind, content in loads(news["reports"]):
                seen += 1
                if kind == "notice":
                    log.warning("%s", content)
                else:
                    stopping = report(content) or stopping
            if news["result"] is not None:
                result: bytes = news["result"]
                return result
            if stopping:
                _ask(self.client, "dist_dot_stop", run=self.name, cancel=False)

    @property
    def extra(self) -> object:
        """What the client that started it left for whoever fetches the result."""
        extra: object = loads(_ask(self.client, "dist_dot_extra", run=self.name))
        return extra

    def cancel(self) -> None:
        """End the run without a result. It still writes the checkpoint of where it stands."""
        _ask(self.client, "dist_dot_stop", run=self.name, cancel=True)

    def forget(self) -> None:
        """Drop its outcome; cancel it if it has not ended."""
        _ask(self.client, "dist_dot_forget", run=self.name)


def start(client: Client, spec: RunSpec) -> RemoteRun[T]:
    """Start a run beside the scheduler. Its blocks must have arrived there."""
    run: RemoteRun[T] = RemoteRun(client, uuid4().hex[:12])
    for _ in range(TRIES):
        install(client)
        if _ask(client, "dist_dot_start", run=run.name, spec=dumps(spec)):
            return run
    raise ClusterError("the scheduler does not start a run: its service leaves whenever it is installed")


def runs(client: Client) -> list[RunSummary]:
    """Return the runs that the scheduler knows: those that go on, and those whose outcome nobody has fetched."""
    found = _ask(client, "dist_dot_runs") or []  # None: the service is not installed
    return [RunSummary(**run | {"progress": loads(run["progress"])}) for run in found]


def sees(client: Client, path: str) -> bool:
    """Return whether the process that hosts the loops sees this file of ours."""
    install(client)
    return bool(_ask(client, "dist_dot_sees", path=path))


def workers_of(client: Client) -> dict[str, Any]:
    """Return what the scheduler knows of each worker, by address. Raises SchedulerGone where it does not answer."""
    workers: dict[str, Any] | None = client.scheduler_info(n_workers=-1).get("workers")
    if workers is None or client.status != "running":
        raise SchedulerGone(f"the scheduler of {client} does not answer: open a client of one that runs")
    return workers


def install(client: Client) -> None:
    """Give the scheduler our service, unless it is there.

    Raises SchedulerGone for a client that is closed, ClusterError where the scheduler's operator has blocked plugins
    and not started the service with it.
    """
    if client.scheduler is None or client.status in ("closing", "closed"):
        raise SchedulerGone("the client of these rows is closed, and what it made is gone: lay them out by another one")
    try:
        client.register_plugin(Service())
    except (OSError, ClosedClientError) as error:
        raise SchedulerGone(f"the scheduler is gone: {error}") from error
    except ValueError as error:
        if _ask(client, "dist_dot_runs") is None:
            raise ClusterError(
                f"the scheduler at {client.scheduler.address} takes no plugins ({error}): whoever starts it "
                "can have it host the runs, by dask scheduler --preload dist_dot.rounds.service"
            ) from error


def _ask(client: Client, handler: str, deadline: float | None = None, **message: Any) -> Any:
    """Call a handler of the service. Raises DeadlineError after so many seconds, DEADLINE where no number is given."""
    call: Callable[..., Any] = getattr(client.scheduler, handler)
    deadline = DEADLINE if deadline is None else deadline
    try:
        return client.sync(call, callback_timeout=deadline, **message)
    except TimeoutError as error:
        raise DeadlineError(f"the scheduler did not answer {handler} within {deadline:.0f} s") from error
    except OSError as error:
        raise SchedulerGone(f"the scheduler is gone: {error}") from error
