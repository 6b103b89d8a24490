"""The flights as blocks: 327,346 rows of 160 columns, standardised and one-hot, the target in minutes late."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from dist_dot.jobs.features import BlockMaker, learn_encoding
from dist_dot.jobs.job import read_job
from dist_dot.jobs.sources import Part, Split, open_table
from dist_dot.losses import Squared
from dist_dot.rounds.blocks import Blocks
from dist_dot.rounds.layout import lay_out_rows
from dist_dot.rows.block import Block, cut
from dist_dot.typing import Array

JOB = Path(__file__).parent.parent / "examples" / "flights.toml"


def maker() -> BlockMaker:
    """Return what makes the blocks, all rows of the job's table; `make examples/flights.parquet` writes that."""
    job = read_job(JOB, ["data.holdout=0"])
    table = open_table(job.data.source)
    part = Part(Split(0.0), False, table.n_rows)
    used = 1 + len(job.data.numeric) + len(job.data.categorical)
    encoding = learn_encoding(table, job.data, Squared(), part, map, cut(table.n_rows, used, "float64"))
    cuts = cut(table.n_rows, len(encoding.names), "float64")
    starts = [number * cuts.block_rows for number in range(cuts.n_blocks)]
    return BlockMaker(table, job.data, encoding, part, cuts, (*starts, table.n_rows))


@dataclass(frozen=True)
class WithFolds:
    """Blocks with the number of each row's fold: folds of rows that follow each other."""

    make: BlockMaker
    folds: int

    def __call__(self, number: int) -> Block:
        """Return the block."""
        block = self.make(number)
        rows = np.arange(block.start, block.start + len(block))
        return replace(block, fold=self.labels()[rows])

    def labels(self) -> Array:
        """Return the fold of each row: those of scikit-learn's KFold."""
        n = self.make.cuts.n_samples
        sizes = np.full(self.folds, n // self.folds)
        sizes[: n % self.folds] += 1
        return np.repeat(np.arange(self.folds, dtype=np.float64), sizes)

    def blocks(self, client: Any) -> Blocks:
        """Lay them out on the client's cluster."""
        return lay_out_rows(self, self.make.cuts, client)


def matrix(make: BlockMaker) -> tuple[Array, Array]:
    """Return X (n, 160) and y (n,) in this process."""
    blocks = [make(number) for number in range(make.cuts.n_blocks)]
    return np.concatenate([block.X.dense() for block in blocks]), np.concatenate([block.y for block in blocks])


def full_rank(make: BlockMaker) -> list[int]:
    """Return the columns without the first of each category: together with an intercept they are independent."""
    first = len(make.encoding.numeric)
    left_out = []
    for column in make.encoding.categorical:
        left_out.append(first)
        first += len(column.values)
    return [j for j in range(make.cuts.n_features) if j not in left_out]
