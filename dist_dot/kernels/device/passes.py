"""One pass over device rows: its kernel, its parameters, which are kept from round to round, and its launch."""

from dataclasses import dataclass

import numpy as np

from dist_dot.kernels.device.card import NUMBER, Card
from dist_dot.kernels.device.losses import code_of
from dist_dot.kernels.device.plan import Plan
from dist_dot.losses import Loss
from dist_dot.typing import Array, DeviceArray, DType

NONE = np.uint64(0)  # the address of nothing


@dataclass(frozen=True)
class Chunks:
    """How the rows of all blocks are cut for a launch: the table (blocks, 7) of Piece, and the block of each chunk."""

    pieces: DeviceArray
    piece_of: DeviceArray
    count: int
    rows: int


class Pass:
    """The sums of one launch, for as many columns of parameters as there are targets.

    `columns` (k, p + 1) and `folds` (k,) are memory of the host that the card reads when a launch is due: they are set
    before it, and left alone until it is done.
    """

    def __init__(
        self,
        card: Card,
        plan: Plan,
        loss: Loss,
        p: int,
        dtype: DType,
        aligned: bool,
        targets: Array,
        folds: Array | None,
    ) -> None:
        code = code_of(loss)
        if code is None:
            raise ValueError(f"the {loss.name} loss has no pass on a card")
        self.card, self.plan, self.p, self.k = card, plan, p, len(targets)
        number, own = NUMBER[dtype.name], code[2]
        self._loss = np.int32(code[0]), np.float64(code[1])
        self._shared = plan.shared_bytes(p, dtype.itemsize)
        self._kernel = card.function("passes", plan.expression(number, aligned), own)
        # Passes over rows of other widths share the kernel, and may ask for more.
        if self._kernel.max_dynamic_shared_size_bytes < self._shared:
            self._kernel.max_dynamic_shared_size_bytes = self._shared
        resident = card.cupy.cuda.driver.occupancyMaxActiveBlocksPerMultiprocessor(
            self._kernel.kernel.ptr, plan.threads, self._shared
        )
        self._most_ctas = card.processors * max(1, resident)
        self._fold = card.function("sums", f"fold_chunks<{number}>")
        # For wide rows there are many columns and few chunks to add up.
        self._fold_parts = 32 if p < 512 else 8
        self._targets = card.upload(targets.astype(np.int32))
        self._folds = NONE if folds is None else card.upload(folds.astype(dtype))
        self.columns: Array = card.pinned((self.k, p + 1), dtype)
        self._W = card.empty((self.k, p + 1), dtype)

    def room(self, chunks: Chunks) -> tuple[int, int]:
        """Return how many numbers the sums of all chunks are: float64, and those of the dtype of the rows."""
        return chunks.count * self.k * 2, chunks.count * self.k * self.p

    def add_up(self, chunks: Chunks, y_width: int, sums: DeviceArray, gradients: DeviceArray) -> None:
        """Ask for the sums of all chunks, in memory that has room for them."""
        self.card.write(self._W, self.columns)
        if chunks.count:
            self._kernel(
                (min(chunks.count, self._most_ctas),),
                (self.plan.threads,),
                (
                    chunks.pieces,
                    chunks.piece_of,
                    np.int32(chunks.count),
                    *self._sizes(chunks),
                    np.int32(y_width),
                    self._W,
                    self._targets,
                    self._folds,
                    *self._loss,
                    sums,
                    gradients,
                ),
                shared_mem=self._shared,
            )

    def fold(
        self,
        chunks: Chunks,
        place: tuple[int, int, int],
        sums: DeviceArray,
        gradients: DeviceArray,
        totals: DeviceArray,
        losses: DeviceArray | np.uint64,
    ) -> None:
        """Put the sums of the blocks in their places: (first column, all columns, columns of a point)."""
        grid, block = (-(-self.k * (self.p + 2) // 32), totals.shape[0]), (32, self._fold_parts)
        places = (np.int32(number) for number in place)
        arguments = *self._sizes(chunks), *places, sums, gradients, losses, totals
        self._fold(grid, block, (chunks.pieces, *arguments))

    def _sizes(self, chunks: Chunks) -> tuple[np.int32, np.int32, np.int32]:
        return np.int32(self.p), np.int32(self.k), np.int32(chunks.rows)
