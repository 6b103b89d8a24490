"""What a kernel is."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, ClassVar, TypeAlias

from dist_dot.rows.arrays import Parameters
from dist_dot.rows.block import Block
from dist_dot.typing import Array, DeviceArray

if TYPE_CHECKING:
    from dist_dot.kernels.device.evaluation import Evaluation
    from dist_dot.kernels.device.rows import DeviceRows

SumsOfBlocks: TypeAlias = "Evaluation | DeviceArray | Iterable[DeviceArray] | None"
"""What a launch answers for all blocks of a GPU.

An evaluation that is yet to be asked for its sums, the sums (blocks, width), those of each block in order, or None.
"""


class Kernel(ABC):
    """Sums over the rows of a block, as they are asked for in one round of all blocks. It must pickle.

    `reads` is "y" where it reads y alone, and "X" where its sums are finite only if all of X is. `of_z` is whether its
    sums depend on z, and so on an offset.
    """

    reads: ClassVar[str] = ""
    of_z: ClassVar[bool] = True

    @abstractmethod
    def __call__(self, block: Block, parameters: Parameters) -> Array:
        """Return the sums over the rows of a block: one flat float64 array of its library, in new memory."""

    def merge(self, left: Array, right: Array) -> Array:
        """Return the result for the rows of both, in the memory of either: the sum, where nothing else is said."""
        left += right
        return left

    def launch(self, rows: "DeviceRows", blocks: Sequence[Block], parameters: Array) -> SumsOfBlocks:
        """Answer for all blocks of a GPU at once; None where this kernel, or this width of rows, has no way to.

        parameters are NumPy's, and the sums are on the GPU.
        """
        return None
