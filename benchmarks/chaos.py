"""What a run survives, and what it costs: fits on flights while Dask's own KillWorker kills the workers under them.

`python -m benchmarks.chaos`. Every fit must end with the bits of the undisturbed one, or the exit status is 1.
"""

import argparse
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from threading import Event, Thread
from time import perf_counter
from typing import Any

import dask
import pyarrow.parquet as pq
from distributed import Client, LocalCluster, SchedulerPlugin
from distributed.chaos import KillWorker

from benchmarks.harness import environment, save
from dist_dot.jobs.job import Job, read_job
from dist_dot.jobs.run import run_job

FLIGHTS = Path(__file__).parent.parent / "examples" / "flights.toml"
WORKERS, FILES = 4, 8
LIFE = 3.0  # seconds
MODES = ("segfault", "sys.exit")


class Deaths(SchedulerPlugin):
    """Counts workers that leave."""

    name = "deaths"
    count = 0

    def remove_worker(self, scheduler: Any, worker: str, **rest: Any) -> None:
        """Count one."""
        self.count += 1


def flights_job(folder: Path, steps: int) -> Job:
    """Return the flights job on a folder of Parquet files, which is made here, with a fixed number of steps."""
    job = read_job(FLIGHTS)
    table = pq.read_table(job.data.source)
    rows = -(-table.num_rows // FILES)
    for number in range(FILES):
        part = table.slice(number * rows, rows)
        pq.write_table(part, folder / f"flights-{number}.parquet", row_group_size=8192)
    return replace(
        job,
        data=replace(job.data, source=str(folder / "*.parquet")),
        solver=replace(job.solver, tol=0.0, max_iter=steps),
        output=replace(job.output, folder=str(folder / "run"), checkpoint_every=0),
    )


@contextmanager
def cluster(mode: str | None, life: float) -> Iterator[tuple[Client, Deaths]]:
    """Yield a client of four workers that die of `mode` after `life` seconds on average, None for workers that live.

    A nanny replaces what dies of a segmentation fault. After a sys.exit it goes too, so new ones are started here.
    """
    ended = Event()

    def replace_workers(local: LocalCluster, deaths: Deaths) -> None:
        while not ended.wait(0.5):
            local.scale(WORKERS + deaths.count)

    with (
        dask.config.set({"distributed.deploy.lost-worker-timeout": "1 hour"}),
        LocalCluster(n_workers=WORKERS, threads_per_worker=1, dashboard_address=":0", silence_logs=60) as local,
        Client(local) as client,
    ):
        client.register_plugin(Deaths())
        deaths = local.scheduler.plugins[Deaths.name]  # the copy that was sent there, in this process
        if mode is not None:
            client.register_plugin(KillWorker(delay=life, mode=mode))
        if mode == "sys.exit":
            Thread(target=replace_workers, args=(local, deaths), daemon=True).start()
        try:
            yield client, deaths
        finally:
            ended.set()


def fit(job: Job, mode: str | None, life: float) -> dict[str, Any]:
    """Return a record of one fit under `mode`, whose workers live for `life` seconds on average."""
    with cluster(mode, life) as (client, deaths):
        begin = perf_counter()
        report = run_job(job, client, lambda progress: False, lambda run: None)
        seconds = perf_counter() - begin
        count = deaths.count
    return {
        "benchmark": "chaos",
        "mode": mode,
        "life": life,
        "seconds": seconds,
        "rounds": report.rounds,
        "deaths": count,
        "repeated": report.recovery.repeated,
        "repeated_seconds": report.recovery.seconds,
        "model": (Path(job.output.folder) / "model.safetensors").read_bytes().hex(),
    }


def chaos(steps: int, counts: Mapping[str, int], share: float = 0.0) -> list[dict[str, Any]]:
    """Return records: an undisturbed fit, and so many fits of each mode; `same` says whether they have its bits.

    Workers live for LIFE on average, and for this share of the undisturbed fit at least: on a slow machine those that
    live no longer than they take to start would never get to a round.
    """
    with TemporaryDirectory() as folder:
        job = flights_job(Path(folder), steps)
        straight = fit(job, None, LIFE)
        life = max(LIFE, share * straight["seconds"])
        records = [straight]
        for mode, count in counts.items():
            for number in range(count):
                record = fit(job, mode, life)
                records.append(record)
                print(
                    f"{mode} {number + 1} of {count}: {record['seconds']:.0f} s, {record['deaths']} deaths, "
                    f"{record['repeated']} of {record['rounds']} rounds repeated, "
                    f"bits {'equal' if record['model'] == straight['model'] else 'DIFFER'}",
                    flush=True,
                )
    bits = straight["model"]
    return [record | {"same": record.pop("model") == bits} for record in records]


def main() -> None:
    """Measure, write the records, and fail unless every fit has ended with the same bits."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=600)
    parser.add_argument("--segfault", type=int, default=20, help="fits under segmentation faults")
    parser.add_argument("--sys-exit", type=int, default=3, help="fits under sys.exit, whose workers no nanny replaces")
    options = parser.parse_args()
    here = environment() | {"workers": WORKERS, "threads": 1}
    records = chaos(options.steps, dict(zip(MODES, (options.segfault, options.sys_exit), strict=True)))
    print(save("chaos", [here | record for record in records]))
    if not all(record["same"] for record in records):
        sys.exit(1)


if __name__ == "__main__":
    main()
