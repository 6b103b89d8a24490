"""The blocks of this process."""

from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from functools import cached_property
from threading import Lock

import numpy as np

from dist_dot.kernels import device
from dist_dot.kernels.blas import one_blas_thread
from dist_dot.kernels.checksum import checksum, combined
from dist_dot.kernels.kernel import Kernel
from dist_dot.kernels.tree import Node, put, quietly, root
from dist_dot.rounds.blocks import Program, Recovery, Report, T, log
from dist_dot.rows.arrays import Parameters, cores, to_host
from dist_dot.rows.block import Block, Cuts, named
from dist_dot.typing import Array


class LocalBlocks:
    """The blocks of this process, worked on by as many threads as it may use."""

    def __init__(self, blocks: Sequence[Block], cuts: Cuts, look: Callable[[], None] | None = None) -> None:
        """`look` raises DataError for an X that is not finite, where nobody has looked yet."""
        self.blocks = tuple(blocks)
        self._look = look
        self.cuts = cuts
        self.rounds = 0
        self.recovery = Recovery()
        self.on_device = all(block.on_device for block in self.blocks)
        self._threads = 1 if self.on_device else min(len(self.blocks), cores())

    @property
    def where(self) -> str:
        """Where the rows live, in words."""
        devices = named(block.device for block in self.blocks)
        return f"this process{devices or f', {self._threads} thread' + 's' * (self._threads > 1)}"

    @cached_property
    def tables(self) -> device.Tables:
        """Where the rows lie on GPUs."""
        return device.Tables(self.blocks)

    @cached_property
    def _pool(self) -> ThreadPoolExecutor:
        return ThreadPoolExecutor(self._threads, thread_name_prefix="dist-dot")

    @cached_property
    def checksum(self) -> str:
        """A checksum of all rows, in their cuts. Reads them once."""
        return combined(self._pool.map(checksum, self.blocks))

    def reduce(self, kernel: Kernel, parameters: Array) -> Array:
        """Return the sum of kernel(block, parameters) over all blocks. One round; reads X once."""
        self.rounds += 1
        leaves, merge = len(self.blocks), kernel.merge
        if self.on_device:
            if self._look is not None and not kernel.reads:
                self._looked()
            sums = self.tables.reduce(self.blocks, range(leaves), leaves, kernel, parameters)[root(leaves)]
            if self._look is not None and kernel.reads == "X":
                self._looked(np.isfinite(sums).all())
            return sums
        at, nodes, lock = Parameters(parameters), dict[Node, Array](), Lock()
        numbers, errors = iter(range(leaves)), dict[int, Exception]()

        @quietly
        def work() -> None:
            """Take the next block until there is none: a future for each would cost 15 us, a tenth of a small one."""
            for number in numbers:
                try:
                    total = kernel(self.blocks[number], at)
                    with lock:
                        put(nodes, (0, number), total, leaves, merge)
                except Exception as error:
                    errors[number] = error
                    deque(numbers, 0)  # nobody takes another one; those before it are at work, or done

        with one_blas_thread():
            others: list[Future[None]] = []
            try:
                others += [self._pool.submit(work) for _ in range(self._threads - 1)]
                work()
            finally:
                deque(numbers, 0)  # after Ctrl-C too
                wait(others)
        if errors:
            try:
                raise errors[min(errors)]  # of the first block that has one, whoever was faster
            finally:
                errors.clear()  # a traceback holds this frame, which would hold it, and the rows
        return np.asarray(to_host(nodes[root(leaves)]))

    def _looked(self, finite: bool | np.bool = False) -> None:
        """Raise DataError for an X that is not finite, unless it is known to be; once is enough."""
        look = self._look  # another thread may have looked meanwhile
        if not finite and look is not None:
            look()
        self._look = None

    def notice(self, words: str) -> None:
        """Log a warning."""
        log.warning("%s", words)

    def run(self, program: Program[T], report: Report) -> T:
        """Run the program in this thread."""
        with one_blas_thread():
            return program(self, report)
