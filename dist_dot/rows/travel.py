"""What holds arrays, on its way to another process or to disk and back."""

from dataclasses import dataclass

import numpy as np

from dist_dot.rows import settle
from dist_dot.rows.arrays import aligned, to_host
from dist_dot.typing import Array


class Travels:
    """A class whose fields are pickled, whoever pickles them and with whatever protocol: arrays, and tuples of them.

    Buffers that come off the network may be unaligned (1 block in 12 was): NumPy then takes other code paths, slower
    and with other bits. So arrays are aligned when they arrive. Those of a GPU come through the host, and go to the GPU
    of the process that they come to. Raises DeviceError where there is none.
    """

    def __getstate__(self) -> dict[str, object]:
        return {name: _packed(value) for name, value in self.__dict__.items()}

    def __setstate__(self, state: dict[str, object]) -> None:
        self.__dict__.update({name: _unpacked(value) for name, value in state.items()})


@dataclass(frozen=True)
class _OfDevice:
    """An array of a GPU, as it travels."""

    on_host: Array


def _packed(value: object) -> object:
    if isinstance(value, tuple | list):
        return type(value)(map(_packed, value))
    return _OfDevice(to_host(value)) if settle.on_device(value) else value


def _unpacked(value: object) -> object:
    if isinstance(value, _OfDevice):
        return settle.to_device(value.on_host, value.on_host.dtype.name)
    if isinstance(value, tuple | list):
        return type(value)(map(_unpacked, value))
    return aligned(value) if isinstance(value, np.ndarray) else value
