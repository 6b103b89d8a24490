"""Logistic regression on the flights beside scikit-learn's, on the same cores. `python -m benchmarks.logistic`.

Which of 327,346 flights arrive more than 15 minutes late, from 160 features; alpha = 1. Each solver goes on until
max |gradient of F| <= 1e-6 * n, which is what scikit-learn's tol = 1e-6 says too. Our time starts from blocks in the
memory of the workers, theirs from an array. Then 20 alphas and 5 folds together, beside some of the fits alone.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import dist_dot_cluster
import numpy as np
from sklearn.linear_model import LogisticRegression

from benchmarks.flights import WithFolds, maker, matrix
from benchmarks.harness import environment, save
from dist_dot import Fit, Objective, losses, solvers
from dist_dot.jobs.features import BlockMaker
from dist_dot.objective import Linear
from dist_dot.rounds.blocks import Blocks, Report
from dist_dot.rounds.layout import lay_out_rows
from dist_dot.rows.block import Block, Cuts
from dist_dot.training.loop import Loop
from dist_dot.training.together import CrossValidated, Together
from dist_dot.typing import Array

LATE = 15.0  # minutes
SMALL = 1e-6  # of the largest entry of the gradient, for each row
SOLVERS = (solvers.Newton(), solvers.LBFGS(30), solvers.LBFGS(10))
ALPHAS, FOLDS, TOL = np.logspace(-4, 4, 20), 5, 1e-6
SAMPLE = (0, 6, 12, 18)  # of the alphas, fitted alone to the rows that are not in the last fold


@dataclass(frozen=True)
class LateFlights:
    """Make block `number` of the first rows of the flights, y = 1 for those that are late."""

    make: BlockMaker
    cuts: Cuts

    def __call__(self, number: int) -> Block:
        """Return the block."""
        block = self.make(number)
        rows = slice(0, self.cuts.bounds(number)[1] - block.start)
        part = block.rows(rows)
        return replace(part, y=(part.y > LATE).astype(np.float64), weight=None)


@dataclass(frozen=True)
class UntilSmall:
    """A run that stops beside the scheduler, and not some rounds later, once the gradient is this small."""

    loop: Loop
    gradient: float

    def __call__(self, blocks: Blocks, report: Report) -> Fit:
        """Run the loop."""
        return self.loop(blocks, lambda progress: progress.gradient <= self.gradient)


def loop_for(alpha: float, solver: solvers.Solver[Any], tol: float, p: int) -> Loop:
    """Return a cold start."""
    return Loop(Linear(losses.Logistic(), alpha), solver, tol, 1000, start=np.zeros(p + 1))


def ours(blocks: Blocks, solver: Any) -> dict[str, Any]:
    """Return a record of one run."""
    loop = loop_for(1.0, solver, 0.0, blocks.cuts.n_features)
    begin = perf_counter()
    fit = blocks.run(UntilSmall(loop, SMALL * blocks.cuts.n_samples), lambda progress: False)
    return {
        "solver": f"dist_dot {solver.name}" + (f", memory {solver.memory}" if solver.name == "lbfgs" else ""),
        "seconds": perf_counter() - begin,
        "rounds": fit.rounds,
        "value": fit.value,
        "gradient": fit.history[-1].gradient / blocks.cuts.n_samples,
    }


def theirs(blocks: Blocks, X: Array, y: Array) -> dict[str, Any]:
    """Return a record of scikit-learn's fastest solver here, with F and its gradient evaluated by our blocks."""
    begin = perf_counter()
    model = LogisticRegression(C=1.0, solver="newton-cholesky", tol=SMALL, max_iter=1000).fit(X, y)
    seconds = perf_counter() - begin
    at = np.append(model.coef_[0], model.intercept_)
    value, gradient = Objective(blocks, losses.Logistic(), 1.0).value_and_gradient(at)
    return {
        "solver": "scikit-learn newton-cholesky",
        "seconds": seconds,
        "rounds": int(model.n_iter_[0]),
        "value": value,
        "gradient": float(np.abs(gradient).max()) / len(y),
    }


def timed(run: Callable[[], Any]) -> tuple[Any, float]:
    """Return what the run returns, and its seconds."""
    begin = perf_counter()
    result = run()
    return result, perf_counter() - begin


def fits(client: Any, make: BlockMaker, repeats: int) -> list[dict[str, Any]]:
    """Return a record for each solver: the run of the median time."""
    X, y = matrix(make)
    y = (y > LATE).astype(np.float64)
    blocks = lay_out_rows(LateFlights(make, make.cuts), make.cuts, client)
    for solver in SOLVERS:
        ours(blocks, solver)  # which loads what is compiled
    turns = [[*(ours(blocks, solver) for solver in SOLVERS), theirs(blocks, X, y)] for _ in range(repeats)]
    shape = {"benchmark": "logistic", "n": len(y), "p": X.shape[1], "repeats": repeats}
    return [shape | sorted(runs, key=lambda run: run["seconds"])[repeats // 2] for runs in zip(*turns, strict=True)]


def together(client: Any, make: BlockMaker) -> dict[str, Any]:
    """Return a record of all alphas and folds in one run, and of some of them alone."""
    p, solver = make.cuts.n_features, solvers.LBFGS(30)
    folds = WithFolds(LateFlights(make, make.cuts), FOLDS)
    blocks = folds.blocks(client)
    loops = [loop_for(float(alpha), solver, TOL, p) for alpha in ALPHAS for _ in range(FOLDS)]
    members = Together(tuple(loops), tuple(range(FOLDS)) * len(ALPHAS))
    program = CrossValidated(members, losses.Logistic())
    (_, scores), seconds = timed(lambda: blocks.run(program, lambda progress: False))
    rounds = blocks.rounds
    kept = int((folds.labels() != FOLDS - 1).sum())
    cuts = replace(make.cuts, n_samples=kept)
    first = lay_out_rows(LateFlights(make, cuts), cuts, client)
    held = (scores[:, 1] / scores[:, 0]).reshape(len(ALPHAS), FOLDS)[:, -1]
    alone, difference = [], 0.0
    X, y = (rows[kept:] for rows in matrix(make))
    for place in SAMPLE:
        loop = loop_for(float(ALPHAS[place]), solver, TOL, p)
        fit, taken = timed(lambda loop=loop: first.run(loop, lambda progress: False))
        z = X @ fit.w + fit.intercept
        loss = float(losses.Logistic().value((y > LATE).astype(np.float64), z).mean())
        alone.append(taken)
        difference = max(difference, abs(loss - float(held[place])))
    return {
        "benchmark": "together",
        "alphas": len(ALPHAS),
        "folds": FOLDS,
        "tol": TOL,
        "seconds": seconds,
        "rounds": rounds,
        "sample": len(SAMPLE),
        "alone": float(np.mean(alone)) * len(ALPHAS) * FOLDS,
        "difference": difference,
    }


def main() -> None:
    """Measure on a local cluster and write the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    make = maker()
    with dist_dot_cluster.open("local", options.workers) as client:
        records = [*fits(client, make, options.repeats), together(client, make)]
    here = environment() | {"workers": options.workers, "threads": 1}
    for record in records:
        print(record)
    print(save("logistic", [here | record for record in records]))


if __name__ == "__main__":
    main()
