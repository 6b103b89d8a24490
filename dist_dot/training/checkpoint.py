"""The state of a run <-> one file, written atomically."""

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from glob import has_magic
from pathlib import Path
from typing import Any, TypeVar

import fsspec
import numpy as np
from fsspec.implementations.local import LocalFileSystem
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dist_dot.errors import InputError, WriteError
from dist_dot.problem import Function
from dist_dot.reference import Reference
from dist_dot.rows.block import Cuts
from dist_dot.solvers.base import AnySolver, State
from dist_dot.training.early_stopping import EarlyStopping, Validation
from dist_dot.training.fit import Progress
from dist_dot.typing import Array

T = TypeVar("T", bound=Any)
KEPT = 2
LARGEST = 2**63
SUFFIX = ".safetensors"
# The names of what this file writes: nothing else in the folder is touched.
WHOLE = r"[0-9]{9,}\.safetensors"
BEFORE, TORN = rf"{WHOLE}\.before", rf"\.{WHOLE}\.\w+"


@dataclass(frozen=True)
class Checkpoint:
    """Where a run stands: the solver's state, and the loop's own numbers."""

    fingerprint: str
    state: State
    reference: Reference
    iteration: int
    rounds: int
    seconds: float
    history: tuple[Progress, ...]
    validation: Validation = field(default_factory=Validation)


def fingerprint(function: Function, solver: AnySolver, early_stopping: EarlyStopping | None) -> str:
    """Return a text that names the data, F and the solver: a checkpoint of another run is refused by it. No round.

    The data are named by their cuts and by the checksum of all blocks, F by the words of its problem.
    """
    return json.dumps(
        {
            **function.problem.words,
            "data": {**_told(function.blocks.cuts), "checksum": function.blocks.checksum},
            "solver": repr(solver),
            "early stopping": repr(early_stopping),
        },
        sort_keys=True,
    )


def _told(cuts: Cuts) -> dict[str, Any]:
    """Return the cuts without what is false of them, which they did not say once."""
    return {name: value for name, value in asdict(cuts).items() if value is not False}


@dataclass(frozen=True)
class Checkpoints:
    """The checkpoints of one run: a folder, written every `every` steps and at the end; the newest two are kept.

    folder is a path or an fsspec URL, as the process that hosts the loop sees it: on a cluster, the scheduler. resume
    says whether a run goes on from the newest good file there; otherwise it starts anew, and what an earlier run has
    left is put aside under the names *.before, for once.

    Raises InputError for every < 1, and for a URL with *, ? or [.
    """

    folder: str
    every: int = 25
    resume: bool = False

    def __post_init__(self) -> None:
        if self.every < 1:
            raise InputError(f"checkpoints every {self.every!r} steps: give a number >= 1")
        if "://" in self.folder and has_magic(self.folder):
            raise InputError(
                f"checkpoints go to {self.folder}: a store may take *, ? and [ in a URL for several places; name one "
                "without them"
            )

    def due(self, iteration: int) -> bool:
        """Whether a step with this number is saved."""
        return iteration > 0 and iteration % self.every == 0

    def save(self, checkpoint: Checkpoint) -> str:
        """Write the file whole or not at all, then drop all but the newest two; return its path. Raises WriteError."""
        store, folder = self._store()
        path = f"{folder}/{checkpoint.iteration:09d}{SUFFIX}"
        with WriteError.naming(folder):
            store.makedirs(folder, exist_ok=True)
        if isinstance(store, LocalFileSystem):
            write_atomically(Path(path), _encode(checkpoint))
        else:  # such a store shows a file when it is whole; where it does not, moving it there does
            beside = f"{folder}/.{checkpoint.iteration:09d}{SUFFIX}.part"
            with WriteError.naming(path), removed_on_error(lambda: store.rm_file(beside)):
                store.pipe_file(beside, _encode(checkpoint))
                store.mv(beside, path)
        for old in self._files()[KEPT:]:
            store.rm_file(old)
        return path

    def newest(self, mark: str, state: type[State], notice: Callable[[str], None]) -> Checkpoint | None:
        """Return the newest readable checkpoint with this fingerprint, None where there is none or none is wanted.

        A file that cannot be read is passed over for the one before, which `notice` is told; where none can, they are
        put aside. Raises InputError for the checkpoint of another run, and says in what it differs.
        """
        self._clean()
        store, _ = self._store()
        for path in self._files() if self.resume else ():
            try:
                found = _decode(store.cat_file(path), state)
            except (KeyError, TypeError, AttributeError) as error:
                notice(f"checkpoint {path} is of another version and passed over for the one before: {error}")
                continue
            except (SafetensorError, OSError, ValueError, OverflowError, RecursionError, MemoryError) as error:
                notice(f"checkpoint {path} is damaged and passed over for the one before: {error}")
                continue
            if found.fingerprint != mark:
                ours, theirs = json.loads(mark), json.loads(found.fingerprint)
                other = ", ".join(key for key in ours | theirs if ours.get(key) != theirs.get(key))
                raise InputError(f"{path} belongs to another run: its {other} differ; start anew, or elsewhere")
            return found
        self._put_aside()
        return None

    def newest_step(self) -> int | None:
        """Return the step at which the newest checkpoint in the folder was taken, None where there is none."""
        found = self._files()
        return int(found[0].rpartition("/")[2].removesuffix(SUFFIX)) if found else None

    def _clean(self) -> None:
        """Remove what a writer that died has left."""
        store, _ = self._store()
        for torn in self._files(TORN):
            store.rm_file(torn)

    def _put_aside(self) -> None:
        """Put aside what there is of an earlier run: `save` keeps the highest numbers."""
        store, _ = self._store()
        if not self._files():
            return
        for old in self._files(BEFORE):
            store.rm_file(old)
        for path in self._files():
            store.mv(path, f"{path}.before")

    def _store(self) -> tuple[fsspec.AbstractFileSystem, str]:
        store, folder = fsspec.url_to_fs(self.folder)
        return store, folder

    def _files(self, pattern: str = WHOLE) -> list[str]:
        """Return the paths of the files with such a name, of the checkpoints where none is given, the newest first.

        The folder's own name is no pattern: it may have a [ or a * in it.
        """
        store, folder = self._store()
        store.invalidate_cache(folder)
        try:
            there = store.ls(folder, detail=False)
        except FileNotFoundError:
            return []
        return sorted((path for path in there if re.fullmatch(pattern, path.rpartition("/")[2])), reverse=True)


def write_atomically(path: Path, content: bytes) -> None:
    """Write a file that is there whole or not at all, also after a power cut. Raises WriteError, and leaves nothing."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with WriteError.naming(path), removed_on_error(temporary.unlink):
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


@contextmanager
def removed_on_error(remove: Callable[[], object]) -> Iterator[None]:
    """Remove what is half written where anything is raised."""
    try:
        yield
    except BaseException:
        with suppress(Exception):  # whatever a store raises: there may be nothing to remove
            remove()
        raise


REFERENCE = ("rounding", "centred", "norm")


def _encode(checkpoint: Checkpoint) -> bytes:
    state = {field.name: getattr(checkpoint.state, field.name) for field in fields(checkpoint.state)}
    arrays = {f"state.{name}": np.asarray(value) for name, value in state.items() if isinstance(value, np.ndarray)}
    history = [list(asdict(progress).values()) for progress in checkpoint.history]
    arrays["history"] = np.array(history, np.float64).reshape(len(history), len(fields(Progress)))  # None is NaN
    reference, course = checkpoint.reference, checkpoint.validation
    arrays |= {"reference": reference.gradient, "validation": course.parameters}
    header = {
        "fingerprint": checkpoint.fingerprint,
        "iteration": checkpoint.iteration,
        "reference": {name: getattr(reference, name) for name in REFERENCE},
        "rounds": checkpoint.rounds,
        "seconds": checkpoint.seconds,
        "validation": {"latest": course.latest, "lowest": course.lowest, "iteration": course.iteration},
        "state": {name: value for name, value in state.items() if not isinstance(value, np.ndarray)},
    }
    text = json.dumps(header)
    return save(arrays, metadata={"header": text, "digest": _digest(text, arrays)})


def _decode(content: bytes, state: type[State]) -> Checkpoint:
    size = int.from_bytes(content[:8], "little")
    metadata = json.loads(content[8 : 8 + size])["__metadata__"]  # safetensors reads it from files only
    arrays = {name: np.array(array) for name, array in load(content).items()}  # aligned, or the bits would differ
    if metadata["digest"] != _digest(metadata["header"], arrays):
        raise ValueError("its checksum differs")
    header = json.loads(metadata["header"])
    history = tuple(_progress(row) for row in arrays["history"])
    values = {name.removeprefix("state."): array for name, array in arrays.items() if name.startswith("state.")}
    found = Checkpoint(
        header["fingerprint"],
        _sound(state(**values, **header["state"])),
        _sound(Reference(arrays["reference"], **header["reference"])),
        header["iteration"],
        header["rounds"],
        header["seconds"],
        history,
        _sound(Validation(**header["validation"], parameters=arrays["validation"])),
    )
    if not isinstance(json.loads(found.fingerprint), dict):
        raise ValueError("its fingerprint names nothing")
    shapes = {found.state.parameters.shape, found.state.gradient.shape, found.reference.gradient.shape}
    if len(shapes) > 1:
        raise ValueError(f"its vectors have the shapes {shapes}")
    return _sound(found)


KINDS: dict[object, Any] = {
    int: int, float: (int, float), str: str, bool: bool, Array: np.ndarray, np.ndarray: np.ndarray
}  # fmt: skip


def _sound(found: T) -> T:
    """Return a dataclass whose values are what its fields say. Raises TypeError for another one."""
    for each in fields(found):
        value = getattr(found, each.name)
        if not isinstance(value, KINDS.get(each.type, object)):
            raise TypeError(f"its {each.name} is {value!r}")
        if isinstance(value, int) and abs(value) > LARGEST:
            raise ValueError(f"its {each.name} is a number of {value.bit_length()} bits")
        if isinstance(value, np.ndarray) and value.dtype.kind != "f":
            raise TypeError(f"its {each.name} holds {value.dtype}")
    return found


def _progress(row: Array) -> Progress:
    kinds: list[Any] = [int if field.type is int else float for field in fields(Progress)]
    numbers: list[Any] = [None if np.isnan(x) else kind(x) for kind, x in zip(kinds, row, strict=True)]
    return Progress(*numbers)


def _digest(header: str, arrays: dict[str, Array]) -> str:
    digest = hashlib.sha256(header.encode())
    for name in sorted(arrays):
        digest.update(f"{name} {arrays[name].dtype} {arrays[name].shape}".encode() + arrays[name].tobytes())
    return digest.hexdigest()
