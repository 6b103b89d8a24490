"""Blocks of a GPU on their way to another worker, GPU to GPU where Dask's connections can do that (UCX).

They then take the family "cuda" of Dask's serializers. Other connections (TCP) take "pickle": through the host, once,
see `dist_dot.rows.travel`. A block of the host is always pickled.
"""

from typing import Any

from distributed.protocol.cuda import cuda_deserialize, cuda_serialize

from dist_dot.rows.block import Block, stays_on_device
from dist_dot.rows.design import Dense
from dist_dot.typing import DeviceArray


@cuda_serialize.register(Block)
def serialize(block: Block) -> tuple[dict[str, Any], list[DeviceArray]]:
    """Return what Dask sends of a block, as CuPy arrays of bytes. Raises NotImplementedError for one of the host."""
    if not block.on_device:
        raise NotImplementedError("its rows are on the host")
    headers: list[Any] = []  # Dask's
    frames: list[DeviceArray] = []
    for array in (block.X.array, *block.columns):
        header, parts = (None, []) if array is None else cuda_serialize(array)
        headers.append(header)
        frames += parts
    return {"start": block.start, "arrays": headers}, frames


@cuda_deserialize.register(Block)
def deserialize(header: dict[str, Any], frames: list[DeviceArray]) -> Block:
    """Return the block that was sent: each of its arrays is one frame."""
    import cupy

    array, rest = cuda_deserialize.dispatch(cupy.ndarray), iter(frames)
    arrays: list[DeviceArray] = [None if each is None else array(each, [next(rest)]) for each in header["arrays"]]
    X, y, weight, offset, fold = arrays
    return stays_on_device(Block(Dense(X), y, weight, header["start"], offset, fold))
