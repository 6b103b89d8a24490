"""A trained model: two files in the folder of its run, and what it predicts for the rows of a table."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from math import isfinite
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dist_dot.checks import finite, flag, number
from dist_dot.errors import JobError
from dist_dot.jobs.features import MOST_WHOLE, Categorical, Encoding, Numeric
from dist_dot.losses import Gamma, Huber, Logistic, Loss, Poisson, Softmax, Squared
from dist_dot.training.checkpoint import write_atomically
from dist_dot.training.fit import Status
from dist_dot.typing import Array

FORMAT = 1
LARGEST = float(np.finfo(np.float64).max)
LOSSES: dict[str, Loss] = {loss.name: loss for loss in (Squared(), Logistic(), Poisson(), Gamma(), Huber())}


@dataclass(frozen=True)
class Model:
    """What `dist-dot train` has found: coefficients (features,) and the intercept, and how rows become features.

    Where the target is a class they are (features, classes) and (classes,). `loss` is its name in [model], `status` how
    the run has ended, `versions` what its bits depend on.
    """

    target: str
    loss: str
    alpha: float
    fit_intercept: bool
    encoding: Encoding
    status: str
    versions: Mapping[str, str]
    coef: Array
    intercept: float | Array

    @property
    def finished(self) -> bool:
        """Whether its run has reached what it was after."""
        return self.status in (Status.CONVERGED.name, Status.AT_ROUNDING.name, Status.EARLY_STOPPED.name)

    def predict(self, rows: pa.Table) -> Array:
        """Return the expected target (rows,) of rows with the columns of the encoding: of logistic, P(target = 1).

        Where the target is a class, the probability of each (rows, classes).
        """
        z = self.encoding.design(rows) @ self.coef + self.intercept
        return loss_of(self.loss, self.encoding).predict(z)

    def save(self, folder: Path) -> None:
        """Write model.safetensors, and then model.json."""
        known = {
            "format": FORMAT,
            "target": self.target,
            "loss": self.loss,
            "alpha": self.alpha,
            "fit_intercept": self.fit_intercept,
            "features": self.encoding.names,
            "encoding": asdict(self.encoding),
            "status": self.status,
            "versions": self.versions,
        }
        arrays = {"coef": np.ascontiguousarray(self.coef), "intercept": np.atleast_1d(self.intercept)}
        content = save(arrays)
        write_atomically(folder / "model.safetensors", content)
        write_atomically(folder / "model.json", to_json(known | {"digest": _digest(content)}))


def load_model(folder: Path) -> Model:
    """Read the model of a run's folder. Raises JobError for a folder without one, and for one that is not whole."""
    try:
        known = json.loads((folder / "model.json").read_text(encoding="utf-8"))
        content = (folder / "model.safetensors").read_bytes()
        if known["format"] != FORMAT:
            raise JobError(f"the model in {folder} has format {known['format']!r}: this version reads format {FORMAT}")
        return _parse(known, content)
    except OSError as error:
        raise JobError(f"there is no model in {folder}: {error.filename}: {error.strerror}") from None
    except JobError:
        raise
    except KeyError as error:
        raise JobError(f"the model in {folder} cannot be read: it has no {error}") from None
    except (AttributeError, TypeError, ValueError, OverflowError, SafetensorError) as error:
        raise JobError(f"the model in {folder} cannot be read: {error}") from None
    except RecursionError:
        raise JobError(f"the model in {folder} cannot be read: model.json is nested too deeply") from None


def _parse(known: Any, content: bytes) -> Model:
    """Return the model of the contents of its two files. Raises whatever comes where they are not one."""
    if known.get("digest") not in (None, _digest(content)):  # older ones have none
        raise ValueError("its two files are of different runs")
    target = known["encoding"].get("target")  # older ones have none
    encoding = Encoding(
        tuple(_numeric(column) for column in known["encoding"]["numeric"]),
        tuple(_categorical(column) for column in known["encoding"]["categorical"]),
        None if target is None else _categorical(target),
    )
    if len(set(encoding.columns)) < len(encoding.columns):
        raise ValueError("it has a column twice")
    if known["loss"] not in (*LOSSES, Softmax.name):
        raise ValueError(f"it is of an unknown loss, {known['loss']!r}")
    if (known["loss"] == Softmax.name) != (encoding.target is not None):
        raise ValueError(f"its loss is {known['loss']}, and it has {'no' if target is None else 'the'} classes of y")
    loss_of(known["loss"], encoding)  # of one class there is none
    status = _word("its status", known["status"])
    if status not in Status.__members__:
        raise ValueError(f"its status is {status!r}: expected one of {', '.join(Status.__members__)}")
    arrays = load(content)
    outputs = () if encoding.target is None else (len(encoding.target.values),)
    features = len(encoding.names)
    coef = _numbers("coefficients", f"{features} features", arrays["coef"], (features, *outputs))
    intercept = _numbers("intercepts", f"{(*outputs, 1)[0]} outputs", arrays["intercept"], (1,), outputs or (1,))
    return Model(
        target=_word("its target", known["target"]),
        loss=known["loss"],
        alpha=finite("its alpha", known["alpha"]),
        fit_intercept=flag("its fit_intercept", known["fit_intercept"]),
        encoding=encoding,
        status=status,
        versions={name: _word(f"its version of {name}", value) for name, value in known["versions"].items()},
        coef=coef,
        intercept=intercept if outputs else float(intercept[0]),
    )


def _numbers(what: str, wanted: str, values: Array, *shapes: tuple[int, ...]) -> Array:
    """Return finite numbers in one of the shapes. Raises ValueError for others."""
    if values.shape not in shapes:
        raise ValueError(f"it has {what} {values.shape} for {wanted}")
    if values.dtype.kind != "f" or not np.isfinite(values).all():
        raise ValueError(f"its {what} are not all finite numbers")
    return values


def _word(name: str, value: Any) -> str:
    """Return a text. Raises TypeError for what is none, UnicodeEncodeError for one that no table can hold."""
    if not isinstance(value, str):
        raise TypeError(f"{name} is {value!r}: expected a text")
    value.encode()
    return value


def _numeric(column: Mapping[str, Any]) -> Numeric:
    name = _word("the name of a column", column["name"])
    mean = number(f"the mean of {name!r}", column["mean"], "expected a finite number", -LARGEST, LARGEST)
    return Numeric(name, mean, finite(f"the scale of {name!r}", column["scale"], "expected a finite number >= 0"))


def _categorical(column: Mapping[str, Any]) -> Categorical:
    name, values = _word("the name of a column", column["name"]), column["values"]
    if not isinstance(values, list):
        raise TypeError(f"the values of {name!r} are {values!r}: expected a list")
    if not all(type(value) is int and -MOST_WHOLE <= value <= MOST_WHOLE for value in values):
        values = [_word(f"a value of {name!r}", value) for value in values]
    if len(set(values)) < len(values):
        raise ValueError(f"it has a value of {name!r} twice")
    return Categorical(name, tuple(values))


def loss_of(name: str, encoding: Encoding, delta: float | None = None) -> Loss:
    """Return the loss of [model] loss, for the classes of the target where that is softmax."""
    if encoding.target is not None:
        return Softmax(len(encoding.target.values))
    return LOSSES[name] if delta is None else Huber(delta)


def _digest(content: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(content)


def to_json(value: Any) -> bytes:
    """Return a value as the bytes of a JSON file, in which numbers that are not finite are null: JSON has none."""
    text = json.dumps(_finite(value), indent=1, ensure_ascii=False, allow_nan=False)
    return (text + "\n").encode(errors="backslashreplace")


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if isfinite(value) else None
    if isinstance(value, Mapping):
        return {name: _finite(each) for name, each in value.items()}
    return [_finite(each) for each in value] if isinstance(value, list | tuple) else value
