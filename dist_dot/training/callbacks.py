"""Callbacks that stop a run."""

from dataclasses import dataclass

from dist_dot.errors import InputError
from dist_dot.training.fit import Progress


@dataclass(frozen=True)
class TimeLimit:
    """Ask the run to stop after so many seconds: after the step that goes beyond them, and a resumed run counts on.

    Raises InputError for a limit that is not positive.
    """

    seconds: float

    def __post_init__(self) -> None:
        if not self.seconds > 0:
            raise InputError(f"seconds is {self.seconds!r}: give a positive number")

    def __call__(self, progress: Progress) -> bool:
        """Return whether it is time."""
        return progress.seconds >= self.seconds
