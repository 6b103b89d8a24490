"""What can go wrong, by whose fault.

::

    DistDotError
    ├── InputError (ValueError)          what was given cannot be used: change it and try again
    │   ├── DataError                    rows and columns: NaN, infinity, shapes, unknown names
    │   ├── DeviceError                  a GPU: there is none that can be used, or its memory is too small
    │   └── JobError                     a job file or a command line: unknown key, wrong value
    ├── SolverError (ValueError)         the solver chosen cannot minimise the objective chosen
    ├── WriteError (OSError)             a file that cannot be written: a full disk, no permission
    └── ClusterError (RuntimeError)      the cluster did not do its part
        ├── DeadlineError (TimeoutError) a wait ran out; the message says what was waited for
        ├── RunCancelled                 somebody asked for it
        └── RunDetached                  the run goes on without this process

A fit that stops before it has converged is not an error: see `dist_dot.Status`.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from difflib import get_close_matches


class DistDotError(Exception):
    """Everything that dist_dot raises on purpose."""


class InputError(DistDotError, ValueError):
    """What was given cannot be used."""


class DataError(InputError):
    """The data hold something that no model can be trained on."""


class DeviceError(InputError):
    """A GPU was asked for that is not there, cannot be used, or cannot hold the rows."""


class JobError(InputError):
    """A job file or a command line says something that has no meaning."""


class SolverError(DistDotError, ValueError):
    """The solver cannot minimise this objective."""


class WriteError(DistDotError, OSError):
    """A file cannot be written."""

    @classmethod
    @contextmanager
    def naming(cls, place: object) -> Iterator[None]:
        """Raise what the system says as an error that names the place."""
        try:
            yield
        except OSError as error:
            why = error.strerror or error
            raise cls(f"{place} cannot be written ({why}): make room there, or name another place") from error


class ClusterError(DistDotError, RuntimeError):
    """The cluster did not do its part."""


class DeadlineError(ClusterError, TimeoutError):
    """A wait ran out."""

    # RuntimeError and TimeoutError each bring one, and Python takes the first, which refuses to make a TimeoutError.
    # Dask calls it when it unpickles the exception in the client.
    __new__ = TimeoutError.__new__  # type: ignore[assignment]


class RunCancelled(ClusterError):  # noqa: N818 - the end of a run on request is no one's error
    """The run was cancelled."""


class RunDetached(ClusterError):  # noqa: N818 - nor is leaving it to itself
    """The run goes on beside the scheduler; this process no longer follows it."""


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return what to type instead of `word`: the nearest of the known names, or all of them.

    >>> suggestion("alhpa", ["alpha", "loss"])
    "did you mean 'alpha'?"
    """
    names = sorted(known)
    near = get_close_matches(str(word), names, n=1)
    return f"did you mean {near[0]!r}?" if near else f"known: {', '.join(names)}"
