"""Rows on a GPU: kernels of our own in CUDA C++, compiled by CuPy, and cuBLAS where a product is all there is to do.

::

    cuda/        the kernels; common.cuh says how rows are cut, and why the bits depend on nothing else
    plan.py      how a pass is laid over a card, by p, dtype and columns of parameters
    card.py      a card as this process uses it: one stream, one thread at a time
    passes.py    a pass and its buffers
    rows.py      all blocks of a process at once: what kernels ask for
    settle.py    the way there and back

Kernels (`dist_dot.blocks.kernels`) ask blocks of rows on a card through their method `launch`; one that has none runs
as array operations, block by block.
"""

from collections.abc import Sequence
from typing import Any
from weakref import ref

from dist_dot.blocks.arrays import Parameters
from dist_dot.blocks.device.card import Card, card
from dist_dot.blocks.device.rows import DeviceRows, digest, first_outside, merged
from dist_dot.blocks.device.settle import on_device
from dist_dot.blocks.reduce import Node, merge_of, put
from dist_dot.typing import Array

__all__ = ["Card", "DeviceRows", "card", "digest", "merged", "of_one", "on_device", "places_outside", "reduce"]

# Tables of blocks that are kept from round to round.
KEPT = 16
_tables: dict[tuple[int, ...], tuple[list["ref[Any]"], DeviceRows]] = {}


def _rows_of(blocks: Sequence[Any], here: Card) -> DeviceRows:
    """Return the table of these blocks: the one made before, where all of them still live."""
    key = tuple(map(id, blocks))
    kept = _tables.get(key)
    if kept is not None and all(known() is block for known, block in zip(kept[0], blocks, strict=True)):
        return kept[1]
    while len(_tables) >= KEPT:
        _tables.pop(next(iter(_tables)), None)
    rows = DeviceRows(blocks, here)
    _tables[key] = [ref(block) for block in blocks], rows
    return rows


def places_outside(arrays: Sequence[Any], lows: Sequence[float]) -> list[int]:
    """Return the place of the first number of each array that is below its low, NaN or infinite; -1 for none."""
    with card(arrays[0].device.id) as here:
        places: list[int] = first_outside(here, arrays, lows).tolist()
        return places


def of_one(block: Any, kernel: Any, parameters: Parameters) -> Any:
    """Return kernel(block, parameters), on the card, by the kernel's launch; None where it has none for this block."""
    with card(block.X.device.id) as here:
        sums = kernel.launch(DeviceRows((block,), here), (block,), parameters.host)
        return sums[0] if on_device(sums) else None if sums is None else next(iter(sums))


def reduce(
    blocks: Sequence[Any], numbers: Sequence[int], leaves: int, kernel: Any, parameters: Array
) -> dict[Node, Array]:
    """Return the nodes that kernel(block, parameters) add up to, on the host, of blocks on one card or several.

    numbers are those of the blocks, in order, of `leaves` in all. On each card one launch and one transfer where the
    kernel has a `launch`, else array operations, block by block.
    """
    places = [block.X.device.id for block in blocks]
    nodes: dict[Node, Array] = {}
    for place in dict.fromkeys(places):
        part = [i for i, other in enumerate(places) if other == place]
        mine = blocks if len(part) == len(blocks) else [blocks[i] for i in part]
        found = _on_one(card(place), mine, [numbers[i] for i in part], leaves, kernel, parameters)
        for node, total in found.items():
            put(nodes, node, total, leaves, merge_of(kernel))
    return nodes


def _on_one(
    here: Card, blocks: Sequence[Any], numbers: Sequence[int], leaves: int, kernel: Any, parameters: Array
) -> dict[Node, Array]:
    with here:
        launch = getattr(kernel, "launch", None)
        sums = launch(_rows_of(blocks, here), blocks, parameters) if launch else None
        if on_device(sums):
            return here.folded(sums, numbers, leaves)
        if sums is None:
            at = Parameters(parameters)
            sums = (kernel(block, at) for block in blocks)
        nodes: dict[Node, Any] = {}
        for number, total in zip(numbers, sums, strict=True):
            put(nodes, (0, number), total, leaves, merge_of(kernel))
        return here.together(nodes)
