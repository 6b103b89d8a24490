"""A trained model: two files in the folder of its run, and what it predicts for the rows of a table."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import xxhash
from safetensors import SafetensorError
from safetensors.numpy import load, save

from dist_dot.errors import JobError
from dist_dot.jobs.features import Categorical, Encoding, Numeric
from dist_dot.losses import Gamma, Huber, Logistic, Loss, Poisson, Softmax, Squared
from dist_dot.training.checkpoint import write_atomically
from dist_dot.training.fit import Status
from dist_dot.typing import Array

FORMAT = 1
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
    except (AttributeError, TypeError, ValueError, SafetensorError) as error:
        raise JobError(f"the model in {folder} cannot be read: {error}") from None


def _parse(known: Any, content: bytes) -> Model:
    """Return the model of the contents of its two files. Raises whatever comes where they are not one."""
    if known.get("digest") not in (None, _digest(content)):  # older ones have none
        raise ValueError("its two files are of different runs")
    arrays = load(content)
    target = known["encoding"].get("target")  # older ones have none
    encoding = Encoding(
        tuple(Numeric(**column) for column in known["encoding"]["numeric"]),
        tuple(_categorical(column) for column in known["encoding"]["categorical"]),
        None if target is None else _categorical(target),
    )
    outputs = () if encoding.target is None else (len(encoding.target.values),)
    if arrays["coef"].shape != (len(encoding.names), *outputs):
        raise ValueError(f"it has coefficients {arrays['coef'].shape} for {len(encoding.names)} features")
    if known["loss"] not in (*LOSSES, Softmax.name):
        raise ValueError(f"it is of an unknown loss, {known['loss']!r}")
    fields = {key: known[key] for key in ("target", "loss", "alpha", "fit_intercept", "status", "versions")}
    return Model(
        **fields,
        encoding=encoding,
        coef=arrays["coef"],
        intercept=arrays["intercept"] if outputs else float(arrays["intercept"][0]),
    )


def loss_of(name: str, encoding: Encoding, delta: float | None = None) -> Loss:
    """Return the loss of [model] loss, for the classes of the target where that is softmax."""
    if encoding.target is not None:
        return Softmax(len(encoding.target.values))
    return LOSSES[name] if delta is None else Huber(delta)


def _categorical(column: Mapping[str, Any]) -> Categorical:
    return Categorical(column["name"], tuple(column["values"]))


def _digest(content: bytes) -> str:
    return xxhash.xxh3_128_hexdigest(content)


def to_json(value: Any) -> bytes:
    """Return a value as the bytes of a JSON file."""
    return (json.dumps(value, indent=1, ensure_ascii=False) + "\n").encode()
