"""Ctrl-C in a terminal, at each moment of a run: it ends, says in one line what it leaves, and leaves no process.

The ends take less than two seconds on a machine that is not busy. Here no time is asserted that a busy one needs: what
waits for a round, a compiler or a deadline of Dask takes far longer than PROMPT, or for ever.
"""

import os
import signal
import time
from types import SimpleNamespace

import numpy as np
import pytest
from distributed import Status, Worker
from terminal import terminal
from test_jobs import JOB, make_table, train

import dist_dot.kernels.compiling as compiling
from dist_dot import lay_out
from dist_dot.jobs.model import load_model

PROMPT = 20.0  # seconds
CTRL_C = b"\x03"
NOTHING = "error: stopped before the first step: there is no checkpoint, and no model is written"
ENDLESS = ("--set", "solver.tol=0", "--set", "solver.max_iter=1000000", "--set", "output.checkpoint_every=100000")

# The round with this number never ends: the workers are stopped before they are asked.
FREEZE = """
import os, signal
from multiprocessing import active_children
from dist_dot.rounds.run import SchedulerBlocks
from dist_dot.__main__ import main

reduce = SchedulerBlocks.reduce

def freeze(self, *arguments):
    if self.rounds == {}:
        for worker in active_children():
            os.kill(worker.pid, signal.SIGSTOP)
        print("frozen", flush=True)
    return reduce(self, *arguments)

SchedulerBlocks.reduce = freeze
main()
"""


@pytest.fixture
def folder(tmp_path):
    make_table(tmp_path)
    (tmp_path / "job.toml").write_text(JOB)
    return tmp_path


def ended(program, last):
    """Whether it ends promptly, as it should: with this last line, and nothing of Python's."""
    status, seconds = program.end()
    assert (status, program.lines[-1].removeprefix("^C")) == (1, last), program.text
    assert "Traceback" not in program.text and "Error" not in program.text and "leaked" not in program.text
    assert seconds < PROMPT


def goes_on(folder):
    return f"no model is written; --resume auto goes on from the checkpoint in {folder / 'run' / 'checkpoint'}"


def test_while_it_imports(folder):
    with terminal("-m", "dist_dot", "train", folder / "job.toml") as program:
        program.wait_for(lambda: program.has_loaded("numpy"))
        program.press(CTRL_C)
        ended(program, "error: interrupted before anything was begun")


def test_while_the_cluster_starts(folder):
    with terminal("-m", "dist_dot", "train", folder / "job.toml", "--cluster", "local:2") as program:
        program.wait_for(program.workers)
        program.press(CTRL_C)
        ended(program, NOTHING)


@pytest.mark.parametrize("cluster", ["none", "local:2"])
def test_while_rows_are_read_and_the_compiler_is_at_work(folder, cluster):
    # A worker compiles when it has read its first block. There is nothing on disk yet, as after an installation.
    options = ("--cluster", cluster, *ENDLESS)
    cache = {"NUMBA_CACHE_DIR": str(folder / "cache")}
    with terminal("-m", "dist_dot", "train", folder / "job.toml", *options, **cache) as program:
        program.says("compiling dist_dot.kernels.compiled, once per installation")
        assert program.text.count("compiling") == 1
        program.press(CTRL_C)
        ended(program, NOTHING)
    assert not list((folder / "run").rglob("*.safetensors"))


def test_in_the_first_round(folder):
    with terminal("-c", FREEZE.format(0), "train", folder / "job.toml", "--cluster", "local:2", *ENDLESS) as program:
        program.says("frozen")
        program.press(CTRL_C)
        ended(program, NOTHING)
    assert not list((folder / "run").rglob("*.safetensors"))


def test_in_a_later_round_and_then_on_to_the_bits_of_no_interruption(folder):
    straight = train(folder, "--out", str(folder / "straight"))
    assert straight.returncode == 0
    with terminal("-c", FREEZE.format(20), "train", folder / "job.toml", "--cluster", "local:2") as program:
        program.says("frozen")
        program.press(CTRL_C)
        status, seconds = program.end()
    assert status == 1 and seconds < PROMPT and "Traceback" not in program.text
    assert program.lines[-1].startswith("error: stopped after ") and program.lines[-1].endswith(goes_on(folder))
    assert not (folder / "run" / "model.json").exists()
    assert train(folder, "--resume", "auto").returncode == 0
    straight, resumed = (load_model(folder / name) for name in ("straight", "run"))
    assert resumed.coef.tobytes() == straight.coef.tobytes()


@pytest.mark.parametrize("cluster", ["none", "local:2"])
def test_between_rounds(folder, cluster):
    with terminal("-m", "dist_dot", "train", folder / "job.toml", "--cluster", cluster, *ENDLESS) as program:
        program.says("round    ")
        program.press(CTRL_C)
        status, seconds = program.end()
    assert status == 1 and seconds < PROMPT and "Traceback" not in program.text
    assert program.lines[-1].startswith("error: stopped after ") and program.lines[-1].endswith(goes_on(folder))
    assert list((folder / "run" / "checkpoint").glob("[0-9]*.safetensors"))


def test_an_earlier_checkpoint_is_named_where_it_is_resumed(folder):
    assert train(folder, "--set", "solver.max_iter=10").returncode == 3
    options = ("--resume", "auto", "--cluster", "local:2")
    with terminal("-m", "dist_dot", "train", folder / "job.toml", *options) as program:
        program.wait_for(program.workers)
        program.press(CTRL_C)
        ended(program, f"error: stopped before the first step, {goes_on(folder)}")


@pytest.mark.parametrize("cluster", ["none", "local:2"])
def test_predict_leaves_nothing(folder, cluster):
    assert train(folder).returncode == 0
    many = folder / "many"
    many.mkdir()
    for number in range(400):
        os.link(folder / "table.parquet", many / f"{number}.parquet")
    out = folder / "out" / "predicted.parquet"
    out.parent.mkdir()
    arguments = ("predict", folder / "run", many / "*.parquet", "--out", out, "--cluster", cluster)
    with terminal("-m", "dist_dot", *arguments) as program:
        program.wait_for(lambda: list(out.parent.iterdir()))
        program.press(CTRL_C)
        ended(program, f"error: interrupted: {out} is not written")
    assert not list(out.parent.iterdir())


NOTEBOOK = """
import numpy as np, dask.array as da
import dist_dot_cluster
from dist_dot import Ridge
from dist_dot.rounds.cluster import ClusterBlocks

if __name__ == "__main__":
    with dist_dot_cluster.open("local:2") as client:
        X = da.from_array(np.random.default_rng(0).standard_normal((2000, 3)), chunks=(500, 3))
        y = X @ np.arange(3.0) + 1.0
        start = ClusterBlocks.start
        ClusterBlocks.start = lambda *arguments: (start(*arguments), print("fitting", flush=True))[0]
        pids = sorted(client.run(__import__("os").getpid).values())
        for _ in range(2):
            try:
                Ridge(1e-9, solver="gradient_descent", tol=0, max_iter=10**7).fit(X, y)
            except KeyboardInterrupt:
                print("stopped", flush=True)
        model = Ridge(1e-9, tol=1e-12).fit(X, y)
        same = pids == sorted(client.run(__import__("os").getpid).values())
        print(np.round([*model.coef_, model.intercept_], 6).tolist(), "same" if same else "other", flush=True)
"""


def test_the_stop_button_of_a_notebook_stops_a_fit_and_no_worker(tmp_path):
    (tmp_path / "notebook.py").write_text(NOTEBOOK)
    with terminal(tmp_path / "notebook.py") as program:
        for times in (1, 2):
            program.wait_for(lambda times=times: program.text.count("fitting") == times)
            time.sleep(0.2)
            program.press(CTRL_C)
            program.wait_for(lambda times=times: program.text.count("stopped") == times)
        pressed = time.monotonic()
        status, _ = program.end()
    assert status == 0 and program.lines[-1] == "[0.0, 1.0, 2.0, 1.0] same", program.text
    assert time.monotonic() - pressed < 3 * PROMPT and "Traceback" not in program.text


CLEANING = """
import multiprocessing, signal, threading, time
from dist_dot.jobs.interrupt import interrupt

def deaf(queue):
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    queue.put(None)
    time.sleep(3600)

if __name__ == "__main__":
    interrupt.listen()
    interrupt.idle, interrupt.limit, interrupt.words = False, {}, lambda: "words"
    context = multiprocessing.get_context("spawn")
    queue = context.Queue()
    context.Process(target=deaf, args=(queue,)).start()
    queue.get()  # its imports are done: a Ctrl-C there would write a traceback
    try:
        print("ready", flush=True)
        threading.Event().wait()
    except KeyboardInterrupt:
        print("cleaning", flush=True)
        threading.Event().wait()
"""


DROPPED = """
import time
from dist_dot.jobs.interrupt import interrupt

class Finalizer:
    def __del__(self):
        print("ready", flush=True)
        time.sleep(3600)

interrupt.listen()
interrupt.idle, interrupt.limit, interrupt.words = False, 3600, lambda: "words"
try:
    Finalizer()
    time.sleep(3600)
except KeyboardInterrupt:
    interrupt.leave()
"""


def test_an_interrupt_that_python_drops_is_raised_again():
    with terminal("-c", DROPPED) as program:
        program.says("ready")
        program.press(CTRL_C)
        ended(program, "error: words")


@pytest.mark.parametrize("limit", [0.2, None])
def test_cleaning_up_is_not_waited_for_without_end(tmp_path, limit):
    (tmp_path / "cleaning.py").write_text(CLEANING.format(limit))
    with terminal(tmp_path / "cleaning.py") as program:
        program.says("ready")
        program.press(CTRL_C)
        program.says("cleaning")
        if limit is None:
            program.press(CTRL_C)
        ended(program, "error: words" + ("" if limit else "; what was being cleaned up was not waited for"))


def test_a_signal_that_ends_a_container_does_the_same(folder):
    with terminal("-m", "dist_dot", "train", folder / "job.toml", "--cluster", "local:2", *ENDLESS) as program:
        program.says("round    ")
        os.kill(program.pid, signal.SIGTERM)
        status, _ = program.end()
    assert status == 1 and program.lines[-1].endswith(goes_on(folder))


class Compiling:
    """numba's event: it begins, or has ended, to compile a function of this module."""

    def __init__(self, module):
        function = type("Function", (), {"__module__": module})
        self.data = {"dispatcher": type("Dispatcher", (), {"py_func": function})}


def test_a_long_compilation_of_ours_is_told_once(monkeypatch, notices):
    monkeypatch.setattr(compiling, "SPEAK", 0.1)
    monkeypatch.setattr(compiling, "say", notices.append)
    speaker = compiling.Speaker()
    outer, inner, other = map(Compiling, ("dist_dot.kernels.gram", "dist_dot.kernels.vectors", "elsewhere"))
    speaker.on_start(outer)
    speaker.on_start(inner)
    speaker.on_end(inner)
    deadline = time.monotonic() + PROMPT
    while not notices and time.monotonic() < deadline:
        time.sleep(0.01)
    speaker.on_end(outer)
    speaker.on_start(other)
    time.sleep(0.3)
    speaker.on_end(other)
    assert notices == ["compiling dist_dot.kernels.gram, once per installation: this takes some 10 .. 30 s"]
    monkeypatch.setattr(compiling, "SPEAK", 3600.0)
    speaker.on_start(outer)
    waiting = speaker.timer
    speaker.on_end(outer)
    assert waiting.finished.is_set()  # it was quick, and nothing will be said


def test_the_logger_of_this_process_hears_it(notices, monkeypatch):
    compiling.say("words")
    assert notices == ["words"]
    closed = SimpleNamespace(status=Status.closed, log_event=lambda topic, words: pytest.fail("nobody hears it"))
    monkeypatch.setattr(Worker, "_instances", [closed])
    compiling.say("more")
    assert notices == ["words", "more"]


def test_what_workers_say_the_client_logs_once(clients, notices):
    import dask.array as da

    client = clients(2)
    X = np.random.default_rng(0).standard_normal((200, 3))
    with client.as_current():
        lay_out(da.from_array(X, chunks=(100, 3)), da.from_array(X.sum(axis=1), chunks=100))
    client.run(compiling.say, "words")
    deadline = time.monotonic() + PROMPT
    while "words" not in notices and time.monotonic() < deadline:
        time.sleep(0.01)
    time.sleep(0.2)
    assert notices.count("words") == 1
