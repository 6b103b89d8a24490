"""Ctrl-C, and the signal that ends a container: the run stops cleanly, or goes on without us."""

import signal
from collections.abc import Callable
from types import FrameType
from typing import Any

SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interrupt:
    """While it is open, the first signal is remembered until `requested` is asked; the second one acts at once."""

    def __init__(self) -> None:
        self.received: int | None = None

    def __enter__(self) -> "Interrupt":
        self._before: dict[int, Callable[[int, FrameType | None], Any] | int | None] = {}
        for number in SIGNALS:
            self._before[number] = signal.signal(number, self._remember)
        return self

    def __exit__(self, *error: object) -> None:
        for number in SIGNALS:
            signal.signal(number, self._before[number])

    def _remember(self, number: int, frame: FrameType | None) -> None:
        if self.received is not None:
            raise KeyboardInterrupt
        self.received = number

    @property
    def requested(self) -> bool:
        """Whether a signal has come."""
        return self.received is not None

    @property
    def by_keyboard(self) -> bool:
        """Whether it was Ctrl-C."""
        return self.received == signal.SIGINT

    def withdraw(self) -> None:
        """Forget the signal: the run goes on."""
        self.received = None
