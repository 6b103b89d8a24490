"""What the parts share: the time that is left, cases that may fail, and rows on the card."""

import traceback
from collections.abc import Callable, Iterator
from statistics import median
from time import perf_counter
from typing import Any

import numpy as np

Record = dict[str, Any]


class Clock:
    """So many seconds, from now on."""

    def __init__(self, seconds: float) -> None:
        self._end = perf_counter() + seconds

    def share(self, part: float) -> "Clock":
        """Return a clock of this part of the time that is left."""
        return Clock(part * self.left)

    @property
    def left(self) -> float:
        """Seconds until the end; negative after it."""
        return self._end - perf_counter()


def cases(clock: Clock, cases: list[tuple[Callable[..., Any], dict[str, Any]]]) -> Iterator[Record]:
    """Yield what each function(**words) returns or yields; of one that fails, its error; of what is late, its words."""
    for function, words in cases:
        if clock.left < 1:
            yield {"benchmark": "skipped", "case": function.__name__, **plain(words), "why": "no time was left"}
            continue
        try:
            yield from function(**words)
        except Exception as error:
            traceback.print_exc()
            why = f"{type(error).__name__}: {error}"[:300]
            yield {"benchmark": "failed", "case": function.__name__, **plain(words), "why": why}
        free()


def plain(words: dict[str, Any]) -> Record:
    """Return the words that JSON can hold."""
    return {name: value for name, value in words.items() if isinstance(value, int | float | str)}


def free() -> None:
    """Give back what CuPy keeps for later."""
    import gc

    import cupy

    gc.collect()
    cupy.get_default_memory_pool().free_all_blocks()


def room() -> int:
    """Return the free bytes of the card."""
    import cupy

    free()
    return int(cupy.cuda.runtime.memGetInfo()[0])


def normal(n: int, p: int, dtype: str, seed: int = 0) -> Any:
    """Return standard normal numbers (n, p) on the card; the same each time on the same card."""
    import cupy

    return cupy.random.RandomState(seed).standard_normal((n, p), dtype=dtype)


def seconds_of(work: Callable[[], Any], repeats: int, warm: int = 2) -> list[float]:
    """Return the seconds of each of so many calls, after some that do not count. Each ends when the card is done."""
    import cupy

    times = []
    for repeat in range(warm + repeats):
        begin = perf_counter()
        work()
        cupy.cuda.runtime.deviceSynchronize()
        if repeat >= warm:
            times.append(perf_counter() - begin)
    return times


def round_ms(blocks: Any, kernel: Any, at: np.ndarray, repeats: int) -> float:
    """Return the median time of a round in ms: `reduce` ends when the sums are on the host."""
    times = []
    for repeat in range(2 + repeats):
        begin = perf_counter()
        blocks.reduce(kernel, at)
        if repeat >= 2:
            times.append(perf_counter() - begin)
    return median(times) * 1e3
