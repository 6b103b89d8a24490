"""Train a network of two layers on handwritten digits, on a cluster that loses a worker in the middle.

Each layer is inner products: of the pixels with the columns of W, then of their tanh with the columns of V. dist_dot
trains whatever is a sum over rows. Three things are written here: what a block of rows adds to F and its gradient
(`Pass`), F itself (`Loss`), and the problem, which travels to where the rows are (`Layers`).
"""

import hashlib
import os
import signal
from dataclasses import dataclass
from typing import Any, ClassVar

import dask.array as da
import numpy as np
from distributed import Client, LocalCluster
from sklearn.datasets import load_digits

from dist_dot import Fit, Progress, lay_out, minimise
from dist_dot.kernels.kernel import Kernel
from dist_dot.problem import Smooth
from dist_dot.rounds.blocks import Blocks
from dist_dot.solvers import LBFGS


@dataclass(frozen=True)
class Network:
    """Pixels X (m, p) -> tanh(X W + b) (m, h) -> a score for each class, tanh(X W + b) V + c (m, k)."""

    W: np.ndarray
    b: np.ndarray
    V: np.ndarray
    c: np.ndarray

    def predict(self, X: np.ndarray) -> np.ndarray:
        """Return the class of each row."""
        return np.argmax(np.tanh(X @ self.W + self.b) @ self.V + self.c, axis=1)


@dataclass(frozen=True)
class Layers:
    """The problem: the sizes of the layers, and the penalty alpha / 2 (||W||^2 + ||V||^2)."""

    pixels: int = 64
    hidden: int = 32
    classes: int = 10
    alpha: float = 0.5
    seed: int = 0
    name: ClassVar[str] = "network of two layers"

    @property
    def words(self) -> dict[str, Any]:
        """What a checkpoint must have been written for."""
        return {"network": repr(self)}

    def bind(self, blocks: Blocks) -> "Loss":
        """Return F of these rows."""
        return Loss(self, blocks)

    def network(self, flat: np.ndarray) -> Network:
        """Return the network whose arrays lie one after another in a flat vector."""
        p, h, k = self.pixels, self.hidden, self.classes
        W, b, V, c = np.split(flat, np.cumsum([p * h, h, h * k]))
        return Network(W.reshape(p, h), b, V.reshape(h, k), c)


@dataclass(frozen=True)
class Pass(Kernel):
    """A flat vector -> the cross-entropy of a block's rows and its gradient: what a worker computes in a round."""

    layers: Layers

    def __call__(self, block: Any, parameters: Any) -> np.ndarray:
        """Read X twice: once on the way forward, once on the way back."""
        net, rows, label = self.layers.network(parameters.host), np.arange(len(block)), block.y.astype(int)
        s = np.ones(len(block)) if block.weight is None else block.weight
        A = np.tanh(block.X.times(net.W) + net.b)  # (m, h)
        z = A @ net.V + net.c  # (m, k)
        z -= np.logaddexp.reduce(z, axis=1, keepdims=True)  # logarithms of probabilities
        r = np.exp(z)
        r[rows, label] -= 1.0
        r *= s[:, None]  # the derivative of the loss in z
        back = (r @ net.V.T) * (1.0 - A * A)  # and in the products of the first layer (m, h)
        gradient = block.X.transposed_times(back).T, back.sum(axis=0), A.T @ r, r.sum(axis=0)
        return np.concatenate([[-(s @ z[rows, label])], *map(np.ravel, gradient)])


class Loss(Smooth[Layers]):
    """F = sum of the cross-entropies of the rows + penalty."""

    convex = False  # hidden columns may change places: there are many minima

    @property
    def n_parameters(self) -> int:
        """Return how many numbers are in W, b, V and c."""
        return (self.problem.pixels + 1) * self.problem.hidden + (self.problem.hidden + 1) * self.problem.classes

    def start(self) -> np.ndarray:
        """Return small random numbers: from 0 all hidden columns would stay the same."""
        return 0.1 * np.random.default_rng(self.problem.seed).standard_normal(self.n_parameters)

    def value_and_gradient(self, parameters: np.ndarray) -> tuple[float, np.ndarray]:
        """Return F and its gradient. One round."""
        sums = self.blocks.reduce(Pass(self.problem), parameters)
        pull = self.problem.alpha * parameters
        views = self.problem.network(pull)
        views.b[:] = views.c[:] = 0.0  # they are not penalised
        return float(sums[0] + 0.5 * pull @ parameters), sums[1:] + pull

    def result(self, parameters: np.ndarray) -> Network:
        """Return what `fit.result` is."""
        return self.problem.network(parameters)


def train(blocks: Blocks, *callbacks: Any) -> Fit:
    """Fit the network by L-BFGS, and print how it went."""
    fit = minimise(Layers().bind(blocks), LBFGS(30, preconditioner=None), tol=1e-2, callbacks=callbacks)
    bits = hashlib.sha256(fit.parameters.tobytes()).hexdigest()[:16]
    print(f"{fit.where}: {fit.n_iter} steps, F = {fit.value:.6f}, {fit.status.name}, sha256 of coefficients {bits}")
    return fit


def main() -> None:
    """Train on two workers, then once more while one of them dies."""
    X, y = load_digits(return_X_y=True)
    X, held = X / 16.0, np.arange(len(y)) % 5 == 0
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "silence_logs": "ERROR"}
    with LocalCluster(**options) as cluster, Client(cluster) as client:
        blocks = lay_out(da.from_array(X[~held]), da.from_array(y[~held]), block_rows=128)
        print(f"{blocks.cuts} in {blocks.cuts.n_blocks} blocks")
        straight, victims = train(blocks), list(client.run(os.getpid).values())[:1]

        def kill(progress: Progress) -> None:
            if progress.iteration >= 10 and victims:
                print(f"step {progress.iteration}: the worker process {victims[0]} is killed")
                os.kill(victims.pop(), signal.SIGKILL)

        fit = train(blocks, kill)
    same = "the" if fit.parameters.tobytes() == straight.parameters.tobytes() else "NOT THE"
    print(f"workers lost: {fit.recovery.lost}; the coefficients have {same} bits of the undisturbed run")
    print(f"accuracy on the digits held out: {np.mean(fit.result.predict(X[held]) == y[held]):.3f}")


if __name__ == "__main__":
    main()
