"""Logistic regression on the flights beside scikit-learn's, on the same cores. `python -m benchmarks.logistic`.

Which of 327,346 flights arrive more than 15 minutes late, from the 160 features of examples/flights.toml; alpha = 1.
Each solver goes on until max |gradient of F| <= 1e-6 * n, which is what scikit-learn's tol = 1e-6 says too. Our time
starts from blocks in the memory of the workers, theirs from an array.
"""

import argparse
from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from sklearn.linear_model import LogisticRegression

from benchmarks.harness import environment, save
from cluster import connect
from dist_dot import Fit, Objective, losses, solvers
from dist_dot.blocks.block import Block, Blocks, Cuts, Report, cut
from dist_dot.blocks.layout import lay_out_rows, make_block
from dist_dot.jobs.features import Encoding, learn_encoding
from dist_dot.jobs.job import read_job
from dist_dot.jobs.sources import Part, Split, Table, open_table
from dist_dot.training.loop import Loop
from dist_dot.typing import Array

JOB = Path(__file__).parent.parent / "examples" / "flights.toml"
LATE = 15.0  # minutes
SMALL = 1e-6  # of the largest entry of the gradient, for each row
SOLVERS = (solvers.Newton(), solvers.LBFGS(30), solvers.LBFGS(10))


@dataclass(frozen=True)
class LateFlights:
    """Make block `number` of the flights, y = 1 for those that are late."""

    table: Table
    target: str
    encoding: Encoding
    cuts: Cuts

    def __call__(self, number: int) -> Block:
        """Read, encode and check the rows of the block."""
        start, stop = self.cuts.bounds(number)
        X, y = self.rows(start, stop)
        return make_block(X, y, None, start, self.cuts.dtype)

    def rows(self, start: int, stop: int) -> tuple[Array, Array]:
        """Return X and y of these rows."""
        rows = self.table.read(start, stop, (*self.encoding.columns, self.target))
        return self.encoding.design(rows), (np.asarray(rows.column(self.target)) > LATE).astype(np.float64)


def flights() -> LateFlights:
    """Return the maker of all rows, without any held out."""
    data = read_job(JOB, ["data.holdout=0.0"]).data
    table = open_table(data.source)
    columns = 1 + len(data.numeric) + len(data.categorical)
    ranges = cut(table.n_rows, columns, "float64")
    encoding = learn_encoding(table, data, Part(Split(0.0), False, table.n_rows), map, ranges)
    return LateFlights(table, data.target, encoding, cut(table.n_rows, len(encoding.names), "float64"))


@dataclass(frozen=True)
class UntilSmall:
    """A run that stops beside the scheduler, and not some rounds later, once the gradient is this small."""

    loop: Loop
    gradient: float

    def __call__(self, blocks: Blocks, report: Report) -> Fit:
        """Run the loop."""
        return self.loop(blocks, lambda progress: progress.gradient <= self.gradient)


def ours(blocks: Blocks, solver: solvers.Solver[Any]) -> dict[str, Any]:
    """Return a record of one run."""
    objective = Objective(blocks, losses.Logistic(), 1.0)
    loop = Loop(objective.loss, 1.0, True, solver, 0.0, 1000, None, np.zeros(objective.n_parameters))
    begin = perf_counter()
    fit = blocks.run(UntilSmall(loop, SMALL * blocks.cuts.n_samples), lambda progress: False)
    return {
        "solver": f"dist_dot {solver.name}"
        + (f", memory {solver.memory}" if isinstance(solver, solvers.LBFGS) else ""),
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
    value, gradient = Objective(blocks, losses.Logistic(), 1.0).value_and_gradient(
        np.append(model.coef_[0], model.intercept_)
    )
    return {
        "solver": "scikit-learn newton-cholesky",
        "seconds": seconds,
        "rounds": int(model.n_iter_[0]),
        "value": value,
        "gradient": float(np.abs(gradient).max()) / len(y),
    }


def median(runs: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the run of the median time, with all the times."""
    runs = sorted(runs, key=lambda run: float(run["seconds"]))
    return runs[len(runs) // 2] | {"all_seconds": [run["seconds"] for run in runs]}


def measure(client: Any, maker: LateFlights, repeats: int) -> list[dict[str, Any]]:
    """Return a record for each solver."""
    X, y = maker.rows(0, maker.cuts.n_samples)
    blocks = lay_out_rows(maker, maker.cuts, client)
    for solver in SOLVERS:
        ours(blocks, solver)  # which loads what is compiled
    tasks = [lambda solver=solver: ours(blocks, solver) for solver in SOLVERS]
    tasks.append(lambda: theirs(blocks, X, y))
    turns = [[task() for task in tasks] for _ in range(repeats)]
    shape = {"benchmark": "logistic", "n": len(y), "p": X.shape[1], "repeats": repeats}
    return [shape | median([turn[place] for turn in turns]) for place in range(len(tasks))]


def main() -> None:
    """Measure on a local cluster and write the records."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    maker = flights()
    with connect("local", options.workers) as client:
        records = measure(client, maker, options.repeats)
    here = environment() | {"workers": options.workers, "threads": 1}
    for record in records:
        print("  ".join(f"{record[key]}" for key in ("solver", "seconds", "rounds", "value", "gradient")))
    print(save("logistic", [here | record for record in records]))


if __name__ == "__main__":
    main()
