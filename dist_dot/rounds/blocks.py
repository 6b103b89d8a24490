"""Blocks as a loop sees them, wherever they are, and the programs that run beside them."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar, runtime_checkable

from dist_dot.errors import InputError
from dist_dot.kernels.kernel import Kernel
from dist_dot.rows.block import Cuts
from dist_dot.typing import Array

log = logging.getLogger("dist_dot")
T = TypeVar("T")
Report = Callable[[Any], bool]
"""What a program calls with its progress, an object of its own class; the answer True asks it to stop."""
Program = Callable[["Blocks", Report], T]
"""What runs beside the blocks: a loop of `Blocks.reduce` calls. It must pickle."""


@dataclass(frozen=True)
class Recovery:
    """What the deaths of workers have cost: the numbers so far.

    lost counts the workers that left the cluster, repeated the rounds that had to be asked for again (for the missing
    blocks alone), seconds the time that those took beyond an undisturbed one.
    """

    lost: int = 0
    repeated: int = 0
    seconds: float = 0.0


class Blocks(Protocol):
    """Rows cut into blocks, wherever they live: what a loop asks."""

    @property
    def cuts(self) -> Cuts:
        """How many rows and columns there are, and where rows are cut."""

    @property
    def rounds(self) -> int:
        """How many rounds were asked for so far."""

    @property
    def recovery(self) -> Recovery:
        """What the deaths of workers have cost."""

    @property
    def checksum(self) -> str:
        """A checksum of all rows, in their cuts. No round."""

    @property
    def where(self) -> str:
        """Where the rows live, in words."""

    @property
    def on_device(self) -> bool:
        """Whether the rows are on GPUs."""

    def reduce(self, kernel: Kernel, parameters: Array) -> Array:
        """Return the sum of kernel(block, parameters) over all blocks, merged as the kernel says. One round."""

    def notice(self, words: str) -> None:
        """Tell the owner of the run what happened to it: a warning of the logger "dist_dot", where the client is."""


class Front:
    """What stands before other blocks and answers rounds in its own way: all else is theirs."""

    def __init__(self, blocks: Blocks) -> None:
        self._blocks, self.cuts = blocks, blocks.cuts

    @property
    def rounds(self) -> int:
        """How many rounds were asked for so far."""
        return self._blocks.rounds

    @property
    def recovery(self) -> Recovery:
        """What the deaths of workers have cost."""
        return self._blocks.recovery

    @property
    def checksum(self) -> str:
        """A checksum of all rows, in their cuts. No round."""
        return self._blocks.checksum

    @property
    def where(self) -> str:
        """Where the rows live, in words."""
        return self._blocks.where

    @property
    def on_device(self) -> bool:
        """Whether the rows are on GPUs."""
        return self._blocks.on_device

    def notice(self, words: str) -> None:
        """Tell the owner of the run."""
        self._blocks.notice(words)


@runtime_checkable
class Runs(Protocol):
    """Where a program can run."""

    def run(self, program: Program[T], report: Report) -> T:
        """Run program(blocks, report) as close to the rows as a loop can be, and return what it returns."""


class Host(Blocks, Runs, Protocol):
    """Blocks beside which a program can run."""


def host_of(blocks: Blocks) -> Host:
    """Return the blocks as a host. Raises InputError for blocks that only answer rounds, such as rows held out."""
    if not isinstance(blocks, Runs):
        raise InputError(f"{type(blocks).__name__} cannot run a loop: give an objective of the blocks of `lay_out`")
    return blocks
