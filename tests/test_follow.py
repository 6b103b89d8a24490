"""What becomes of a run when its client fails, and of a client when its scheduler does: with no cluster, at once."""

import pytest
from distributed.client import ClosedClientError
from distributed.protocol.pickle import dumps

from dist_dot.errors import ClusterError, DeadlineError, RunDetached
from dist_dot.rounds import remote

FORGET = {"op": "dist_dot_forget", "run": "run"}


class Stream:
    """A client: what it says without waiting for an answer."""

    def __init__(self, closed=False):
        self.closed, self.sent = closed, []

    def _send_to_scheduler(self, message):
        if self.closed:
            raise ClosedClientError("the client is closed")
        self.sent.append(message)


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, ClusterError, DeadlineError, RunDetached])
@pytest.mark.parametrize("answers", [True, False])
def test_what_goes_wrong_in_the_client_cancels_the_run(monkeypatch, error, answers):
    """A callback may raise anything, also what a fit of its own has met; only RunDetached lets the run go on."""
    asked = []

    def ask(client, handler, *deadline, **message):
        asked.append(handler)
        if handler == "dist_dot_forget" and not answers:
            raise DeadlineError("the scheduler did not answer")
        return {"reports": dumps([("progress", 1)]), "result": None}

    def interrupted(progress):
        raise error("of the callback")

    monkeypatch.setattr(remote, "_ask", ask)
    stream = Stream()
    with pytest.raises(error, match="of the callback"):
        remote.RemoteRun(stream, "run").follow(interrupted)
    assert asked == ["dist_dot_follow", "dist_dot_forget"][: 1 if error is RunDetached else 2]
    assert stream.sent == ([] if answers or error is RunDetached else [FORGET])


@pytest.mark.parametrize("error", [DeadlineError, remote.SchedulerGone])
def test_a_scheduler_that_does_not_answer_is_told_and_one_that_is_gone_is_not(monkeypatch, error):
    asked = []

    def ask(client, handler, *deadline, **message):
        asked.append(handler)
        raise error(handler)

    monkeypatch.setattr(remote, "_ask", ask)
    stream = Stream()
    with pytest.raises(error, match="dist_dot_follow"):
        remote.RemoteRun(stream, "run").follow(print)
    assert stream.sent == ([FORGET] if error is DeadlineError else [])
    assert asked == ["dist_dot_follow", "dist_dot_forget"][: 2 if error is DeadlineError else 1]


def test_a_client_that_is_closed_meanwhile_hides_no_error(monkeypatch):
    def ask(client, handler, *deadline, **message):
        raise DeadlineError(handler)

    monkeypatch.setattr(remote, "_ask", ask)
    with pytest.raises(DeadlineError, match="dist_dot_follow"):
        remote.RemoteRun(Stream(closed=True), "run").follow(print)


def test_an_outcome_that_has_arrived_is_not_lost_with_its_scheduler(monkeypatch):
    def ask(client, handler, *deadline, **message):
        if handler == "dist_dot_forget":
            raise remote.SchedulerGone("the scheduler is gone")
        return {"reports": dumps([]), "result": dumps(("done", ("a fit", 7)))}

    monkeypatch.setattr(remote, "_ask", ask)
    assert remote.RemoteRun(None, "run").follow(print) == ("a fit", 7)
