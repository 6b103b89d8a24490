"""A program in a terminal of its own, as a person runs it: Ctrl-C reaches all its processes, not the first alone."""

import fcntl
import os
import pty
import re
import signal
import struct
import sys
import termios
import threading
import time
import warnings
from contextlib import contextmanager
from pathlib import Path

PATIENCE = 120.0  # seconds for what is waited for: long, since the machine may be busy


class Terminal:
    """A process that leads a session, with a pseudo-terminal as its stdin, stdout and stderr."""

    def __init__(self, command, environment=()):
        command = [str(part) for part in command]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of forks beside threads: this one only calls exec
            self.pid, self.file = pty.fork()
        if not self.pid:
            for number in (signal.SIGINT, signal.SIGQUIT, signal.SIGHUP):
                signal.signal(number, signal.SIG_DFL)  # whoever runs the tests in the background ignores them
            try:
                os.execve(command[0], command, os.environ | dict(environment))
            finally:
                os._exit(127)
        fcntl.ioctl(self.file, termios.TIOCSWINSZ, struct.pack("4H", 50, 300, 0, 0))
        self.text = ""
        self.status = None
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()
        self.wait_for(lambda: self._command() == command)  # until then it is a copy of this process

    def _command(self):
        return Path(f"/proc/{self.pid}/cmdline").read_text().split("\0")[:-1]

    def _read(self):
        try:
            while data := os.read(self.file, 4096):
                self.text += data.decode(errors="replace")
        except OSError:  # the other side is closed
            pass

    def says(self, words):
        """Wait until it has said these words."""
        self.wait_for(lambda: words in self.text)

    def wait_for(self, condition):
        """Wait until a condition holds, while the program is alive."""
        deadline = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < deadline and self.status_now() is None, self.text
            time.sleep(0.01)

    def has_loaded(self, library):
        """Whether a file of this name is mapped into the process."""
        return library in Path(f"/proc/{self.pid}/maps").read_text()

    def press(self, keys):
        """Type keys."""
        os.write(self.file, keys)

    def processes(self):
        """Return the pids of the processes of this terminal that are alive: pid -> command line."""
        found = {}
        for place in Path("/proc").glob("[0-9]*"):
            try:
                state, _, _, session = place.joinpath("stat").read_text().rpartition(")")[2].split()[:4]
                if int(session) == self.pid and state not in "ZX":
                    found[int(place.name)] = place.joinpath("cmdline").read_text().replace("\0", " ")
            except (OSError, ValueError):
                pass
        return found

    def workers(self):
        """Return the pids of its Dask workers."""
        return [pid for pid, command in self.processes().items() if "spawn_main" in command]

    def status_now(self):
        if self.status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            self.status = os.waitstatus_to_exitcode(status) if pid else None
        return self.status

    def end(self):
        """Wait until it has ended and nothing of it is left; return its exit status, and the seconds that it took."""
        begin = time.monotonic()
        while self.status_now() is None:
            assert time.monotonic() - begin < PATIENCE, self.text
            time.sleep(0.01)
        seconds = time.monotonic() - begin
        while self.processes():
            assert time.monotonic() - begin < seconds + 5.0, self.processes()
            time.sleep(0.01)
        self.reader.join(5.0)
        return self.status, seconds

    @property
    def lines(self):
        """What it has said, without colours and cursor movements, and without lines that were written over."""
        plain = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.text)
        return [line for part in plain.split("\n") if (line := part.strip("\r").rpartition("\r")[2].strip())]

    def close(self):
        for pid in (*self.processes(), self.pid if self.status_now() is None else 0):
            if pid:
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        if self.status is None:
            os.waitpid(self.pid, 0)
        os.close(self.file)


@contextmanager
def terminal(*command, **environment):
    """Yield a Terminal in which this Python runs with these arguments."""
    started = Terminal([sys.executable, *command], environment)
    try:
        yield started
    finally:
        started.close()
