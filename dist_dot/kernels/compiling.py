"""A word where numba compiles one of our functions: tens of seconds, in which nothing else seems to happen.

It is once per installation, for the machine code is kept on disk. A worker tells the clients of its cluster.
"""

import logging
import sys
from collections.abc import Callable
from functools import cache
from hashlib import sha256
from pathlib import Path
from threading import Timer
from typing import Any

from numba import njit
from numba.core.event import Event, Listener

log = logging.getLogger("dist_dot")
TOPIC = "dist_dot"  # of the events by which workers tell clients
SPEAK = 1.0  # seconds: a compilation that is longer is worth a word


def kept(**options: Any) -> Callable[[Any], Any]:
    """Return numba's `njit` without the interpreter's lock, whose machine code is kept on disk until a kernel changes.

    numba looks at the file of a function alone, and not at those of what is compiled into it: after an edit of those
    an editable install would go on with the machine code of before.
    """

    def decorated(function: Any) -> Any:
        dispatcher = njit(cache=True, nogil=True, **options)(function)
        dispatcher._cache._cache_file._source_stamp = source()
        return dispatcher

    return decorated


@cache
def source() -> str:
    """Return a checksum of the source of all kernels."""
    files = sorted(Path(__file__).parent.rglob("*.py"))
    return sha256(b"".join(file.read_bytes() for file in files)).hexdigest()


class Speaker(Listener):  # type: ignore[misc, unused-ignore]
    """Hears when numba begins and ends to compile a function: one at a time, and within it what that calls."""

    def __init__(self) -> None:
        self.depth = 0
        self.timer: Timer | None = None

    def on_start(self, event: Event) -> None:
        """Say it soon, unless it is not ours, or a part of what is being compiled already."""
        self.depth += 1
        module = event.data["dispatcher"].py_func.__module__
        if self.depth == 1 and module.startswith("dist_dot."):
            words = f"compiling {module}, once per installation: this takes some 10 .. 30 s"
            self.timer = Timer(SPEAK, say, (words,))
            self.timer.daemon = True
            self.timer.start()

    def on_end(self, event: Event) -> None:
        """Say nothing of what was quick."""
        self.depth -= 1
        if self.depth == 0 and self.timer is not None:
            self.timer.cancel()
            self.timer = None


def say(words: str) -> None:
    """Log a warning here; in a process of Dask workers have the clients of their cluster do so."""
    dask = sys.modules.get("distributed.worker")
    # One that is closed stays among them until Python collects garbage.
    workers = [worker for worker in dask.Worker._instances if worker.status.name == "running"] if dask else []
    for worker in workers:
        worker.log_event(TOPIC, words)
    if not workers:
        log.warning("%s", words)
