"""The state of a run <-> one file, written atomically."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save

from dist_dot.errors import InputError
from dist_dot.objective import Objective
from dist_dot.training.fit import Progress
from dist_dot.typing import Array

KEPT = 2
SUFFIX = ".safetensors"


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands: the solver's state, and the loop's own numbers."""

    fingerprint: str
    state: Any
    iteration: int
    reference: tuple[float, float]
    rounds: int
    seconds: float
    history: tuple[Progress, ...]


def fingerprint(objective: Objective, solver: Any) -> str:
    """Return a text that names the data, F and the solver: a checkpoint of another run is refused by it. Two rounds.

    The data are named by their cuts and by the moments of their columns, whose bits are fixed by the rows.
    """
    moments = objective.moments()
    digest = hashlib.sha256()
    for part in (moments.weight, moments.mean, moments.spread, moments.mean_y, moments.spread_y):
        digest.update(np.asarray(part, np.float64).tobytes())
    return json.dumps(
        {
            "data": {**asdict(objective.blocks.cuts), "moments": digest.hexdigest()},
            "loss": repr(objective.loss),
            "alpha": objective.alpha,
            "fit_intercept": objective.fit_intercept,
            "scale": None if objective.scale is None else hashlib.sha256(objective.scale.tobytes()).hexdigest(),
            "solver": repr(solver),
        },
        sort_keys=True,
    )


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run: a folder, written every `every` steps and at the end; the newest two are kept.

    resume: whether a run goes on from the newest good file in the folder; otherwise it starts anew.
    """

    folder: str
    every: int = 25
    resume: bool = False

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"checkpoints every {self.every!r} steps: give a number >= 1")

    def due(self, iteration: int) -> bool:
        """Whether a step with this number is saved."""
        return iteration > 0 and iteration % self.every == 0

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write the file under a temporary name, flush it to disk, rename it; then drop all but the newest two."""
        folder = Path(self.folder)
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{checkpoint.iteration:09d}{SUFFIX}"
        write_atomically(path, _encode(checkpoint))
        for old in list(self._files())[KEPT:]:
            old.unlink()
        return path

    def newest(self, mark: str, state: type[Any]) -> Checkpoint | None:
        """Return the newest readable checkpoint with this fingerprint, None where there is none or none is wanted.

        A file that is damaged is passed over for the one before. Raises InputError for the checkpoint of another
        run, and says in what it differs.
        """
        if not self.resume:
            for old in self._files():
                old.unlink()
            return None
        for path in self._files():
            try:
                found = _decode(path, state)
            except (SafetensorError, OSError, ValueError, KeyError, TypeError):
                continue
            if found.fingerprint != mark:
                ours, theirs = json.loads(mark), json.loads(found.fingerprint)
                other = ", ".join(key for key in ours if ours[key] != theirs.get(key))
                raise InputError(f"{path} belongs to another run: its {other} differ; start anew, or elsewhere")
            return found
        return None

    def _files(self) -> Iterator[Path]:
        return iter(sorted(Path(self.folder).glob(f"[0-9]*{SUFFIX}"), reverse=True))


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, also after a power cut."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def _encode(checkpoint: Checkpoint) -> bytes:
    state = {field.name: getattr(checkpoint.state, field.name) for field in fields(checkpoint.state)}
    arrays = {f"state.{name}": np.asarray(value) for name, value in state.items() if isinstance(value, np.ndarray)}
    history = [list(asdict(progress).values()) for progress in checkpoint.history]
    arrays["history"] = np.asarray(history, np.float64).reshape(len(history), len(fields(Progress)))
    header = {
        "fingerprint": checkpoint.fingerprint,
        "iteration": checkpoint.iteration,
        "reference": checkpoint.reference,
        "rounds": checkpoint.rounds,
        "seconds": checkpoint.seconds,
        "state": {name: value for name, value in state.items() if not isinstance(value, np.ndarray)},
    }
    text = json.dumps(header)
    return save(arrays, metadata={"header": text, "digest": _digest(text, arrays)})


def _decode(path: Path, state: type[Any]) -> Checkpoint:
    with safe_open(path, framework="numpy") as file:
        metadata = file.metadata() or {}
        arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    if metadata["digest"] != _digest(metadata["header"], arrays):
        raise ValueError(f"{path} is damaged")
    header = json.loads(metadata["header"])
    kinds: list[Any] = [field.type for field in fields(Progress)]
    rows: list[list[Any]] = [[kind(x) for kind, x in zip(kinds, row, strict=True)] for row in arrays["history"]]
    history = tuple(Progress(*row) for row in rows)
    values = {name.removeprefix("state."): array for name, array in arrays.items() if name.startswith("state.")}
    return Checkpoint(
        header["fingerprint"],
        state(**values, **header["state"]),
        header["iteration"],
        tuple(header["reference"]),
        header["rounds"],
        header["seconds"],
        history,
    )


def _digest(header: str, arrays: dict[str, Array]) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(arrays):
        digest.update(name.encode() + arrays[name].tobytes())
    return digest.hexdigest()
