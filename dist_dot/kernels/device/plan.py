"""How a pass is laid over a card: a function of p, the dtype and the columns of parameters, never of the card.

The order of every sum follows from the plan, so the bits of a pass do. What was measured is in `benchmarks/RESULTS.md`;
the constants below are those that were the fastest on one H100 (2026-11-26), for p = 16 .. 10,000.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from math import ceil

# Most columns of parameters that share a read of X.
COLUMNS = 8
# Bytes and most rows of a chunk of narrow rows, the rows of one of wide rows, and the fewest for each column of
# parameters: so few chunks that their sums weigh little beside the rows, so many that all CTAs have as much work.
CHUNK, NARROW_ROWS, WIDE_ROWS, FEWEST_ROWS = 512 << 10, 8 << 10, 512, 128
# Bytes of the widest row that a warp works on, and of the widest at all: its stages fill the shared memory.
BY_WARPS, WIDEST = 1 << 10, 80 << 10
# Bytes of a row from which on a CTA of 16 warps works on it instead of 8.
WIDE = 16 << 10
# Bytes of shared memory that a CTA may have on the cards that this is made for (compute capability 9.0), and those
# that leave room for a second one.
MOST_SHARED, HALF_SHARED = 225 << 10, 113 << 10


@dataclass(frozen=True)
class Plan:
    """The template arguments of `by_warps` and `by_block` (see cuda/common.cuh), and the rows of a chunk."""

    kernel: str
    columns: int
    numbers: int
    loads: int
    lanes: int
    rows: int
    stages: int
    warps: int
    ctas: int
    chunk_rows: int

    def expression(self, number: str, aligned: bool) -> str:
        """Return the C++ name of the kernel for rows of `number`, float or double."""
        lanes = (self.lanes,) if self.kernel == "by_warps" else ()
        sizes = (self.loads, *lanes, self.rows, self.stages, self.warps, self.ctas)
        aligned_word = "true" if aligned and self.numbers > 1 else "false"  # single numbers are loaded as they are
        return f"{self.kernel}<{number}, {self.columns}, {self.numbers}, {aligned_word}, {', '.join(map(str, sizes))}>"

    @property
    def threads(self) -> int:
        """Threads of a CTA."""
        return 32 * self.warps

    def shared_bytes(self, p: int, itemsize: int) -> int:
        """Return the bytes of shared memory of a CTA, as the kernels lay them out."""
        if self.kernel == "by_block":
            return self.stages * _stage(self.rows * p * itemsize) + self.warps * self.stages * 3 * 32 * itemsize
        step = 32 // self.lanes * self.rows
        places = 32 * max(1, self.rows * self.columns // self.lanes)
        rows = self.warps * self.stages * (_stage(step * p * itemsize) + 3 * places * itemsize)
        of_w = self.loads * self.columns * self.lanes * self.numbers * itemsize if self.columns >= 4 else 0
        return rows + 8 * (self.columns * p + 1) + of_w

    def static_bytes(self, itemsize: int) -> int:
        """Return the bytes of shared memory that a CTA has beside those: barriers, and the sums of its warps."""
        if self.kernel == "by_block":
            nbytes = 8 * self.stages + 2 * self.warps * self.rows * self.columns * itemsize
        else:
            nbytes = 8 * self.warps * self.stages + 16 * self.columns
        return -(-nbytes // 128) * 128


def _stage(nbytes: int) -> int:
    return -(-(nbytes + 32) // 128) * 128


def power_of_two(number: int) -> int:
    """Return the smallest power of two that is not below the number."""
    return 1 << max(0, number - 1).bit_length()


def most_columns(p: int, itemsize: int) -> int:
    """Return how many columns of parameters may share a read of rows of p numbers: their sums lie in registers."""
    row, columns = p * itemsize, COLUMNS
    while columns > 1 and row > BY_WARPS and columns * row > (24 * 4 * 512 if row > WIDE else 64 * 4 * 256):
        columns //= 2
    return columns


@lru_cache
def plan(p: int, itemsize: int, columns: int) -> Plan | None:
    """Return the plan for rows of p numbers and up to `columns` columns of parameters; None for rows that are too wide.

    The columns are at most `most_columns`.
    """
    row = p * itemsize
    if row > WIDEST or p < 1:
        return None
    numbers = 16 // itemsize if row % 16 == 0 else 1
    columns = power_of_two(columns)
    # Of several columns a warp that has a row to itself (by_block) made more, but for eight of short float32 rows.
    several = columns >= 4 and ceil(p / numbers) > 16 and not (columns == 8 and itemsize == 4 and row <= BY_WARPS // 2)
    return (_by_block if several or row > BY_WARPS else _by_warps)(p, itemsize, columns, numbers)


def _by_warps(p: int, itemsize: int, columns: int, numbers: int) -> Plan:
    row, vectors = p * itemsize, ceil(p / numbers)
    # A row of single numbers is spread over few lanes, so that those have something to do.
    lanes = min(32, max(4, power_of_two(vectors if numbers > 1 else ceil(vectors / 4))))
    step = 32 // lanes * row  # bytes of one row for each group of lanes
    rows = 4 if lanes == 4 or numbers == 1 else 8
    rows = max(1, min(rows, 32 // columns, (8 << 10) // power_of_two(step)))
    return Plan(
        kernel="by_warps",
        columns=columns,
        numbers=numbers,
        loads=ceil(vectors / lanes),
        lanes=lanes,
        rows=rows,
        stages=2,
        warps=8,
        ctas=1 if row * columns >= 1 << 10 and itemsize == 8 else 2 if lanes > 4 or columns > 1 else 3,
        chunk_rows=_chunk_rows(row, columns, 8 * 32 // lanes * rows),
    )


def _by_block(p: int, itemsize: int, columns: int, numbers: int) -> Plan:
    row, vectors = p * itemsize, ceil(p / numbers)
    rows = 8 if row <= 4 << 10 else 4 if row <= 24 << 10 else 2 if 4 * row <= MOST_SHARED else 1
    rows = max(1, min(rows, 32 // columns))
    # All warps make the same residuals: of several columns as few as their sums have registers in.
    warps = 16 if row > WIDE else 8 if vectors > 256 else 4
    while columns >= 4 and warps > (1 if rows * row <= 8 << 10 else 2) and columns * row <= 64 * 4 * 32 * warps // 2:
        warps //= 2
    made = Plan(
        kernel="by_block",
        columns=columns,
        numbers=numbers,
        loads=ceil(vectors / (32 * warps)),
        lanes=32,
        rows=rows,
        stages=3 if rows == 8 else 4,
        warps=warps,
        ctas=1,
        chunk_rows=_chunk_rows(row, columns, rows),
    )
    # As many stages as leave room for a second CTA, if those are two; else as many as there is room for.
    two = replace(made, stages=2).shared_bytes(p, itemsize) <= HALF_SHARED
    most = HALF_SHARED if two else MOST_SHARED
    while made.shared_bytes(p, itemsize) > most:
        made = replace(made, stages=made.stages - 1) if made.stages > 2 else replace(made, rows=made.rows // 2)
    return replace(made, ctas=2) if two and columns == 1 and warps == 8 else made


def _chunk_rows(row: int, columns: int, step: int) -> int:
    wanted = min(NARROW_ROWS, CHUNK // row) if row <= BY_WARPS else WIDE_ROWS
    return step * ceil(max(FEWEST_ROWS * columns, wanted) / step)
