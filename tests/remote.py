"""A scheduler and workers as processes of their own, started as an operator would."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from pathlib import Path

from psutil import Process

PROGRAM = Path(sys.executable).with_name("dist-dot")


class Remote:
    """Processes that a test may kill."""

    def __init__(self, folder, stack, tls):
        self.folder, self.stack, self.tls = folder, stack, tls
        self.file = folder / "scheduler.json"
        self.workers = []
        self.log = stack.enter_context(open(folder / "cluster.log", "wb"))

    def start_scheduler(self, *options):
        self.file.unlink(missing_ok=True)
        arguments = ["--port", "0", "--host", "127.0.0.1", "--no-dashboard", "--scheduler-file", self.file]
        self.scheduler = self._start("dask_scheduler", *arguments, *self.tls, *options)
        deadline = time.monotonic() + 60
        while not (self.file.exists() and self.file.stat().st_size):
            assert time.monotonic() < deadline and self.scheduler.poll() is None
            time.sleep(0.05)
        self.address = json.loads(self.file.read_text())["address"]

    def start_worker(self):
        arguments = ["--nthreads", "1", "--no-dashboard", "--local-directory", self.folder]
        self.workers.append(self._start("dask_worker", self.address, *arguments, *self.tls))
        return self.workers[-1]

    @contextmanager
    def frozen(self):
        """Stop the worker processes for a while."""
        nannies = [process for process in self.workers if process.poll() is None]
        children = [child for nanny in nannies for child in Process(nanny.pid).children()]
        pids = [child.pid for child in children if "spawn_main" in str(child.cmdline())]
        assert pids
        try:
            for pid in pids:
                os.kill(pid, signal.SIGSTOP)
            yield
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)

    def start_other_worker(self, prelude):
        """Start a worker in a Python that runs this code first, as if it were installed otherwise."""
        code = f"{prelude}\nfrom distributed.cli.dask_worker import main\nmain()"
        arguments = ["--nthreads", "1", "--no-dashboard", "--no-nanny", "--local-directory", self.folder]
        command = [sys.executable, "-c", code, self.address, *map(str, arguments)]
        return self._own(subprocess.Popen(command, stdout=self.log, stderr=self.log, cwd=self.folder))

    def train(self, job, *options, **popen):
        return self.command("train", job, "--cluster", self.address, *options, **popen)

    def attach(self, *arguments, **popen):
        return self.command("attach", *arguments, "--cluster", self.address, **popen)

    def command(self, *arguments, **popen):
        """Start dist-dot."""
        streams = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return self._own(subprocess.Popen([PROGRAM, *map(str, arguments)], **streams | popen))

    def _start(self, module, *arguments):
        command = [sys.executable, "-m", f"distributed.cli.{module}", *map(str, arguments)]
        return self._own(subprocess.Popen(command, stdout=self.log, stderr=self.log, cwd=self.folder))

    def _own(self, process):
        self.stack.enter_context(process)
        self.stack.callback(process.terminate)
        return process


@contextmanager
def remote(folder, workers, *options, tls=()):
    """Yield a scheduler with so many workers; tls are options for all of them."""
    with ExitStack() as stack:
        cluster = Remote(folder, stack, tls)
        cluster.start_scheduler(*options)
        for _ in range(workers):
            cluster.start_worker()
        yield cluster


def said(process, words):
    """Read what a process prints until it has said these words; return the line."""
    for line in process.stdout:
        if words in line:
            return line
    raise AssertionError(f"never said {words!r}: {process.stderr.read()}")
