"""What is compiled before the rounds: the kernels that most fits need, while blocks are made."""

from functools import lru_cache
from threading import Lock, Timer

import numpy as np

from dist_dot.kernels import device
from dist_dot.kernels.compiled import compile_for
from dist_dot.kernels.compiling import SPEAK, say
from dist_dot.kernels.kernel import Kernel
from dist_dot.kernels.moments import CentredMoments
from dist_dot.kernels.passes import Expansion, ValueAndGradient
from dist_dot.kernels.targets import CheckTarget, ReferenceSums, TargetSums
from dist_dot.losses import Logistic
from dist_dot.rows.block import Block
from dist_dot.rows.design import Dense
from dist_dot.typing import AnyArray, Array

POINTS = 4  # of a line search
MOST_SQUARE = 2000  # columns of which fits make products of all with all
_lock = Lock()


def ready_for(X: AnyArray) -> None:
    """Compile, or load from disk, what blocks of such rows need: seconds, the first time in an installation."""
    if device.on_device(X):
        with _lock:  # one thread compiles, and the others wait for it
            _on_card(X.device.id, X.shape[1], X.dtype.name)
    elif isinstance(X, np.ndarray):
        compile_for(X.dtype.name)


@lru_cache
def _on_card(number: int, p: int, dtype: str) -> None:
    """Ask for a round of each kind, of two blocks of one row each."""
    import cupy

    words = "compiling kernels for the GPU, once per installation: this takes some 5 .. 15 s"
    timer = Timer(SPEAK, say, (words,))
    timer.daemon = True
    timer.start()
    try:
        with cupy.cuda.Device(number):
            X, y = cupy.asarray(np.zeros((2, p), dtype)), cupy.asarray(np.zeros(2, dtype))
            cupy.cuda.get_current_stream().synchronize()
        blocks = [Block(Dense(X[i : i + 1]), y[i : i + 1], None, i) for i in range(2)]
        tables, at = device.Tables(blocks), np.zeros(p + 1)
        loss = Logistic()
        kinds: list[tuple[Kernel, Array]] = [
            (ValueAndGradient(loss), at),
            (ValueAndGradient(loss, POINTS), np.zeros(POINTS * (p + 1))),
            (CheckTarget(loss), at),
            (TargetSums(loss), at),
            (ReferenceSums(loss), at),
        ]
        if p <= MOST_SQUARE:
            kinds += [(CentredMoments(), at), (Expansion(loss), at)]
        for kernel, parameters in kinds:
            tables.reduce(blocks, range(2), 2, kernel, parameters)
    finally:
        timer.cancel()
