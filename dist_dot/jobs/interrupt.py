"""Ctrl-C, and the signal that ends a container, from the first import to the last line of dist-dot.

The first signal raises KeyboardInterrupt where the main thread is. Whoever has begun something there cleans it up: the
run is cancelled and leaves its checkpoint, a file that is half written is removed. Then `leave` ends the process. It
does so at once at a second signal, and where cleaning up takes longer than `limit`: a thread that computes cannot be
interrupted, only left.
"""

import os
import signal
import sys
from collections.abc import Callable
from contextlib import suppress
from threading import Lock, Timer, main_thread
from types import FrameType
from typing import NoReturn

from dist_dot.jobs.words import shown

SIGNALS = (signal.SIGINT, signal.SIGTERM)
LIMIT = 1.5  # seconds for cleaning up: together with `leave` the end takes less than two
AGAIN = 0.01  # seconds until a KeyboardInterrupt that was dropped is raised again
STATUS = 1  # of the process


class Interrupt:
    """What a signal does at present. There is one for the process: `interrupt`.

    idle is whether there is nothing to clean up: before the imports are done, and after the work is. words says what is
    left behind, and how to go on. ask, where it is not None, is called with the number of the signal in the main
    thread: it returns whether to stop, and may raise something else than KeyboardInterrupt. limit is in seconds; None
    waits for as long as cleaning up takes.
    """

    def __init__(self) -> None:
        self.idle = True
        self.words: Callable[[], str] = lambda: "interrupted before anything was begun"
        self.ask: Callable[[int], bool] | None = None
        self.limit: float | None = LIMIT
        self._stopping = False
        self._raise_again = False
        self._asking = False
        self._leaving = Lock()

    def listen(self) -> None:
        """Hear the signals from now on."""
        for number in SIGNALS:
            signal.signal(number, self._hear)
        self._report = sys.unraisablehook
        sys.unraisablehook = self._hear_again

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self._leaving.locked():
            return  # it ends as it is
        if self.idle:
            self.leave()
        if self._raise_again:
            self._raise_again = False
            raise KeyboardInterrupt
        if self._stopping:
            self.leave("; what was being cleaned up was not waited for")
        if self.ask is not None and not self._asking:  # Ctrl-C is an answer, too
            self._asking = True
            try:
                if not self.ask(number):
                    return
            finally:
                self._asking = False
        self._stopping = True
        if self.limit is None:
            print("stopping: a second Ctrl-C does not wait for what is cleaned up", file=sys.stderr)
        else:
            _later(self.limit, self.leave)
        raise KeyboardInterrupt

    def _hear_again(self, lost: "sys.UnraisableHookArgs") -> None:
        """Raise KeyboardInterrupt once more where it came in a finalizer: Python drops it there, with a traceback."""
        if not (self._stopping and isinstance(lost.exc_value, KeyboardInterrupt)):
            self._report(lost)
            return
        self._raise_again = True
        _later(AGAIN, lambda: signal.pthread_kill(main_thread().ident or 0, signal.SIGINT))

    def leave(self, more: str = "") -> NoReturn:
        """Say what is left, and more, and end the process and its worker processes, whatever they are at."""
        self._leaving.acquire()  # for good: the words are said once
        words = "interrupted"
        with suppress(Exception):
            words = self.words()
        _end(f"error: {words}{more}")


def _later(seconds: float, function: Callable[[], object]) -> None:
    timer = Timer(seconds, function)
    timer.daemon = True
    timer.start()


def _end(line: str) -> NoReturn:
    from multiprocessing import active_children, util

    for child in active_children():
        child.kill()
    # Gives back the names of semaphores; else a helper process of Python complains of each of them in the terminal.
    with suppress(Exception):
        util._exit_function()  # type: ignore[attr-defined, unused-ignore]
    with suppress(Exception):
        if sys.stdout.isatty():
            sys.stdout.write("\x1b[?25h\r\x1b[2K")  # what was live there has hidden the cursor
        sys.stdout.flush()
        print(shown(line), file=sys.stderr, flush=True)
    os._exit(STATUS)


interrupt = Interrupt()
