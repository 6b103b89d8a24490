"""A job file as frozen dataclasses: each field is a key, each class a section, and an unknown key is an error."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, Field, dataclass, field, fields, replace
from math import inf
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from dist_dot.errors import JobError, suggestion

LARGEST = 2**63 - 1  # of the whole numbers that TOML promises
SHOWN = 200  # characters of a wrong value
MOST_STEPS = 10_000  # that L-BFGS remembers: it makes room for all of them
MOST_THREADS = 1_000  # of a worker


@dataclass(frozen=True)
class Data:
    """[data]: the table, and what of it is used."""

    source: str
    """A Parquet file, a glob of some, or an fsspec URL; a relative path starts at the job file's folder."""
    target: str
    """The column to predict."""
    numeric: tuple[str, ...] = ()
    """Columns of numbers, used as they are or standardised."""
    categorical: tuple[str, ...] = ()
    """Columns of words or whole numbers, one feature per value that occurs (one-hot)."""
    weight: str | None = None
    """The column of sample weights; none: each row counts once."""
    standardize: bool = True
    """Whether numeric columns are shifted and scaled to mean 0 and variance 1 on the training rows."""
    holdout: float = 0.0
    """The share of rows, drawn by row number, that is kept out of training and only scored."""
    block_rows: int | Literal["auto"] = "auto"
    """Rows per block; "auto" follows from the number of rows and columns."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the rows are kept: cpu, the memory of the machine; cuda, that of a GPU of each worker, or of this process;
    auto: cuda where [cluster] reserves GPUs (kind cuda, or gpus_per_worker on kubernetes), else cpu."""


@dataclass(frozen=True)
class Model:
    """[model]: what is minimised."""

    loss: Literal["squared", "logistic", "softmax", "poisson", "gamma", "huber"] = "squared"
    """logistic: the target is 0 or 1, or a probability; softmax: one of some words or whole numbers, each a class;
    poisson: >= 0; gamma: > 0."""
    delta: float | None = None
    """Of huber: where it turns from square to absolute, on the scale of the target; 1.35 where none is given."""
    alpha: float = 1.0
    """The L2 strength of alpha / 2 * ||w||^2, on the scale of the (standardised) columns."""
    fit_intercept: bool = True


@dataclass(frozen=True)
class Solver:
    """[solver]: how."""

    name: Literal["auto", "gradient_descent", "lbfgs", "newton", "exact"] = "auto"
    """auto chooses by loss, rows and columns: see dist_dot.solvers.choose."""
    learning_rate: float | Literal["auto"] | None = None
    """Of gradient_descent; "auto" where none is given."""
    momentum: Literal["nesterov", "none"] | None = None
    """Of gradient_descent; "nesterov" where none is given."""
    preconditioner: Literal["diagonal", "none"] | None = None
    """Of gradient_descent and lbfgs; "diagonal" where none is given."""
    memory: int | None = None
    """Of lbfgs: the steps that it remembers; 30 where none are given."""
    max_iter: int = 500
    tol: float = 1e-6
    """Stop when the gradient is this small a part of that of the best constant (see dist_dot.minimise)."""
    early_stopping: int | None = None
    """Steps after which the run ends, if the loss of one training row in ten, held out, has reached no new low."""


@dataclass(frozen=True)
class Cluster:
    """[cluster]: where."""

    kind: str = "local"
    """none (this process), local, local:4, cuda, tcp://host:8786 or tls://host:8786."""
    workers: int | None = None
    """Worker processes of a local cluster; none: as many as processors and memory are good for. At an address: how many
    to wait for before the run; none: 1."""
    threads: int = 1
    """Threads of each worker of a local cluster."""
    patience: float = 300.0
    """Seconds that the run waits for workers, before it starts and once there are none that could go on."""
    preflight: bool = True
    """Whether scheduler and workers are compared with this process before the run, and their memory with the rows."""
    tls_ca_file: str | None = None
    """For tls:// the certificate, in PEM format, of who signed those of the cluster; a relative path starts at the job
    file's folder. Where none is given, Dask's configuration has all three: distributed.comm.tls."""
    tls_cert: str | None = None
    """The client's own certificate."""
    tls_key: str | None = None
    """Its key; none: tls_cert holds it."""
    image: str | None = None
    """On Kubernetes, of all pods. The next ones are theirs too: see dist_dot_cluster.Pods."""
    cpus: float = 1.0
    memory: str = "4Gi"
    gpus_per_worker: int = 0
    volumes: tuple[str, ...] = ()
    """CLAIM:/PATH, the name of a PersistentVolumeClaim and where all pods see it."""
    env_from: tuple[str, ...] = ()
    pull_secrets: tuple[str, ...] = ()
    namespace: str | None = None
    """Where they are; none: where the kubeconfig says."""
    operator_namespace: str = "dask-operator"

    @property
    def reserves_gpus(self) -> bool:
        """Whether its workers are given GPUs of their own."""
        return self.kind == "cuda" or (self.kind == "kubernetes" and self.gpus_per_worker > 0)

    @property
    def tls_files(self) -> dict[str, str]:
        """The certificates that are given, by the name of their key here."""
        names = ("tls_ca_file", "tls_cert", "tls_key")
        return {name: file for name in names if (file := getattr(self, name)) is not None}


@dataclass(frozen=True)
class Output:
    """[output]: what is left behind."""

    folder: str = "runs/model"
    """A path of this machine; a relative one starts at the job file's folder."""
    checkpoint_every: int = 25
    """Steps between checkpoints; 0 for none."""
    checkpoints: str | None = None
    """Their folder, or an fsspec URL, as the scheduler sees it; none: checkpoint/ in the folder of the run."""

    def __post_init__(self) -> None:
        if "://" in self.folder:
            raise JobError(
                f"the folder of the run is {self.folder!r}: give a path of this machine; checkpoints may go to a URL, "
                "output.checkpoints"
            )


@dataclass(frozen=True)
class Job:
    """A run as data."""

    data: Data
    model: Model = field(default_factory=Model)
    solver: Solver = field(default_factory=Solver)
    cluster: Cluster = field(default_factory=Cluster)
    output: Output = field(default_factory=Output)

    @property
    def device(self) -> str:
        """Where the rows are kept, "cpu" or "cuda": what [data] device says, or what it follows from."""
        if self.data.device != "auto":
            return self.data.device
        return "cuda" if self.cluster.reserves_gpus else "cpu"


COMMON = ("patience", "preflight")
PODS = ("image", "cpus", "memory", "gpus_per_worker", "volumes", "env_from", "pull_secrets", "operator_namespace")
KEYS = {
    "none": ("preflight",),
    "local": (*COMMON, "workers", "threads"),
    "local:N": (*COMMON, "threads"),
    "cuda": COMMON,
    "tcp": (*COMMON, "workers"),
    "tls": (*COMMON, "workers", "tls_ca_file", "tls_cert", "tls_key"),
    "kubernetes": (*COMMON, *PODS, "workers", "namespace"),
    "kubernetes:NAME": (*COMMON, "namespace"),
}
"""Which keys of [cluster] each kind makes use of."""


def check_place(place: Cluster, named: str = "[cluster] {}") -> None:
    """Raise JobError for a key that is set, and that the kind makes nothing of.

    named is how to speak of a key. A kind that does not exist is left to whoever opens the cluster.
    """
    kind, colon, _ = place.kind.partition(":")
    kind = {"local:": "local:N", "kubernetes:": "kubernetes:NAME"}.get(kind + colon, kind)
    for each in fields(place):
        if each.name != "kind" and kind in KEYS and each.name not in KEYS[kind]:
            if getattr(place, each.name) != each.default:
                takes = ", ".join(name for name, keys in KEYS.items() if each.name in keys)
                raise JobError(
                    f"{named.format(each.name)} does nothing where the cluster is {place.kind!r}: leave it out, or "
                    f"name a cluster that takes it ({takes})"
                )


def read_job(path: Path, settings: Sequence[str] = ()) -> Job:
    """Return the job of a TOML file, with settings of the form section.key=value in place of its own.

    A value is read as TOML, and as a plain string where it is none. Raises JobError, naming what is wrong: a missing
    or unreadable file, an unknown section or key (with the nearest known one), a value of the wrong type, a number
    out of range.
    """
    try:
        tables = _tables(path.read_text(encoding="utf-8-sig"))
    except OSError as error:
        raise JobError(f"job file {path}: {error.strerror}") from None
    except ValueError as error:
        raise JobError(f"job file {path} is no TOML in UTF-8: {error}") from None
    for setting in settings:
        _set(tables, setting)
    job = parse_job(tables)
    output = replace(job.output, folder=str(path.parent / job.output.folder))
    if output.checkpoints is not None:
        output = replace(output, checkpoints=_beside(path, output.checkpoints))
    ca_file, cert, key = (
        name and _beside(path, name) for name in (job.cluster.tls_ca_file, job.cluster.tls_cert, job.cluster.tls_key)
    )
    cluster = replace(job.cluster, tls_ca_file=ca_file, tls_cert=cert, tls_key=key)
    return replace(job, data=replace(job.data, source=_beside(path, job.data.source)), cluster=cluster, output=output)


def _tables(text: str) -> dict[str, Any]:
    """Return what a text in TOML says. Raises TOMLDecodeError, and ValueError for what goes too deep or is too long."""
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise ValueError("its lists or tables are nested too deeply") from None


def _beside(path: Path, name: str) -> str:
    """Return a name as seen from the job file's folder; a URL is what it is."""
    return name if "://" in name else str(path.parent / name)


def parse_job(tables: Mapping[str, Any]) -> Job:
    """Return the job of a mapping of sections. Raises JobError."""
    hints = get_type_hints(Job)
    sections: dict[str, Any] = {}
    for name, table in tables.items():
        if name not in hints:
            raise JobError(f"unknown section [{name}]: {suggestion(name, hints)}")
        if not isinstance(table, Mapping):
            raise JobError(f"{name} is a section: write [{name}] on a line of its own")
        sections[name] = _section(name, hints[name], table)
    if "data" not in sections:
        raise JobError("the section [data] is missing: it needs source, target, and numeric or categorical columns")
    return checked(Job(**sections))


def _section(name: str, kind: type[Any], table: Mapping[str, Any]) -> Any:
    hints = get_type_hints(kind)
    for key in table:
        if key not in hints:
            raise JobError(f"unknown key {key!r} in [{name}]: {suggestion(key, hints)}")
    for each in fields(kind):
        if _required(each) and each.name not in table:
            raise JobError(f"[{name}] needs {each.name}")
    return kind(**{key: _value(f"[{name}] {key}", hints[key], value) for key, value in table.items()})


def _required(each: "Field[Any]") -> bool:
    return each.default is MISSING and each.default_factory is MISSING


def _value(where: str, hint: Any, value: Any) -> Any:
    """Return the value as what the hint says. Raises JobError for one that is not."""
    if get_origin(hint) is tuple:
        if isinstance(value, list) and all(isinstance(item, str) for item in value):
            return tuple(value)
        raise JobError(f"{where} is {_told(value)}: expected a list of names")
    if isinstance(value, int) and abs(value) > LARGEST:
        raise JobError(f"{where} is {_told(value)}: expected a number below 2^63")
    if isinstance(value, str) and "\0" in value:
        raise JobError(f"{where} is {_told(value)}: expected a text without NUL characters")
    choices = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
    words: list[str] = []
    for choice in choices:
        if get_origin(choice) is Literal:
            words += get_args(choice)
            if value in get_args(choice):
                return value
        elif choice is float and isinstance(value, int | float) and not isinstance(value, bool):
            return float(value)
        elif choice is not NoneType and type(value) is choice:
            return value
    names = {bool: "true or false", int: "a whole number", float: "a number", str: "a text in quotes"}
    expected = [repr(word) for word in words] + [names[choice] for choice in choices if choice in names]
    near = f" ({suggestion(value, words)})" if words and isinstance(value, str) else ""
    raise JobError(f"{where} is {_told(value)}: expected {' or '.join(expected)}{near}")


def _told(value: Any) -> str:
    """Return a wrong value as it is shown: not all of a long one."""
    try:
        text = repr(value)
    except ValueError:  # Python refuses to write out whole numbers of more than 4,300 digits
        return "a whole number of thousands of digits"
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."


def checked(job: Job) -> Job:
    """Return the job. Raises JobError for numbers out of range, and for columns that make no sense."""
    limits = (
        ("[data] holdout", job.data.holdout, 0 <= job.data.holdout < 1, "0 <= holdout < 1"),
        (
            "[data] block_rows",
            job.data.block_rows,
            job.data.block_rows == "auto" or job.data.block_rows > 0,
            ">= 1",
        ),
        ("[model] alpha", job.model.alpha, 0 <= job.model.alpha < inf, "a finite number >= 0"),
        ("[solver] max_iter", job.solver.max_iter, job.solver.max_iter >= 0, ">= 0"),
        ("[solver] tol", job.solver.tol, 0 <= job.solver.tol < inf, "a finite number >= 0"),
        (
            "[solver] learning_rate",
            job.solver.learning_rate,
            job.solver.learning_rate is None
            or job.solver.learning_rate == "auto"
            or 0 < job.solver.learning_rate < inf,
            "'auto' or a positive number",
        ),
        (
            "[solver] memory",
            job.solver.memory,
            job.solver.memory is None or 0 < job.solver.memory <= MOST_STEPS,
            f"1 .. {MOST_STEPS:,}",
        ),
        (
            "[solver] early_stopping",
            job.solver.early_stopping,
            job.solver.early_stopping is None or job.solver.early_stopping > 0,
            ">= 1",
        ),
        (
            "[model] delta",
            job.model.delta,
            job.model.delta is None or 0 < job.model.delta < inf,
            "a positive number",
        ),
        (
            "[cluster] workers",
            job.cluster.workers,
            job.cluster.workers is None or job.cluster.workers > 0,
            ">= 1",
        ),
        ("[cluster] threads", job.cluster.threads, 0 < job.cluster.threads <= MOST_THREADS, f"1 .. {MOST_THREADS:,}"),
        (
            "[cluster] patience",
            job.cluster.patience,
            0 <= job.cluster.patience < inf,
            "a number of seconds >= 0",
        ),
        ("[output] checkpoint_every", job.output.checkpoint_every, job.output.checkpoint_every >= 0, ">= 0"),
    )
    for where, value, good, expected in limits:
        if not good:
            raise JobError(f"{where} is {value!r}: expected {expected}")
    _check_choices(job)
    columns = [*job.data.numeric, *job.data.categorical]
    if not columns:
        raise JobError("[data] names no columns to learn from: give numeric or categorical")
    for column in columns:
        if columns.count(column) > 1:
            raise JobError(f"[data] names the column {column!r} twice")
        if column in (job.data.target, job.data.weight):
            raise JobError(f"[data] learns from {column!r}, which is the target or the weight")
    return job


def _check_choices(job: Job) -> None:
    """Raise JobError for a key that the loss or the solver makes nothing of."""
    descent, both = ("gradient_descent",), ("gradient_descent", "lbfgs")
    owners = (("learning_rate", descent), ("momentum", descent), ("preconditioner", both), ("memory", ("lbfgs",)))
    for key, names in owners:
        if getattr(job.solver, key) is not None and job.solver.name not in names:
            raise JobError(f"[solver] {key} is an option of {' and '.join(names)}: name is {job.solver.name!r}")
    if job.model.delta is not None and job.model.loss != "huber":
        raise JobError(f"[model] delta is an option of huber: loss is {job.model.loss!r}")
    if job.solver.name == "exact" and job.model.loss != "squared":
        raise JobError(f"[solver] name 'exact' is for the squared loss: loss is {job.model.loss!r}")


def _set(tables: dict[str, Any], setting: str) -> None:
    name, equals, text = setting.partition("=")
    section, dot, key = name.strip().partition(".")
    if not (equals and dot and key):
        raise JobError(f"--set {setting}: write section.key=value, such as solver.tol=1e-8")
    try:
        value = _tables(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    except ValueError as error:
        raise JobError(f"--set {name}: {error}") from None
    table = tables.setdefault(section, {})
    if not isinstance(table, dict):
        raise JobError(f"{section} is a section: write [{section}] on a line of its own")
    table[key] = value
