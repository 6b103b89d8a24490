"""RESULTS.md and its plots, from the records. `python -m benchmarks.report`."""

from pathlib import Path
from typing import Any

from benchmarks.harness import load

HERE = Path(__file__).parent


def table(rows: list[list[str]], head: list[str]) -> str:
    """Return a Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def roofline(records: list[dict[str, Any]]) -> str:
    """Return the section on the kernels' speed and memory."""
    first = records[0]
    passes = [record for record in records if record["benchmark"] == "roofline"]
    grams = [r for r in records if r["benchmark"] == "gram"]
    points = [r for r in records if r["benchmark"] == "points"]
    memory = next(record for record in records if record["benchmark"] == "memory")
    rows = [
        [r["kernel"], r["dtype"], str(r["p"]), f"{r['read_gb_s']:.1f}", f"{r['gb_s']:.1f}", f"{r['share']:.2f}"]
        for r in passes
    ]
    versions = ", ".join(f"{name} {number}" for name, number in first["versions"].items())
    where = f"{first['workers']} workers of {first['threads']} thread on {first['cores']} cores of {first['cpu']}"
    when = f"{first['date']} UTC, load {first['load']}; Python {first['python']}, {versions}"
    return f"""## Kernels against the memory

{where}, {when}.

Medians of {passes[0]["rounds"]} rounds, GB/s of all workers together. The read rate is the faster of NumPy's and a
compiled sum over the same blocks, in turns with the pass; the share is the median ratio of the two within a turn.

{table(rows, ["loss", "dtype", "p", "read GB/s", "pass GB/s", "share"])}

![shares of the read rate](roofline.svg)

The Gram matrix, beside NumPy's syrk of the same blocks by the same workers:

{table([_gram(r) for r in grams], ["dtype", "p", "GFLOP/s", "share"])}

Several points in one pass, in streaming reads:

{table([_points(r) for r in points], ["points", "dtype", "p", "reads"])}

Peak memory of the workers, less that before, over the bytes of {memory["nbytes"] / 1e9:.1f} GB of blocks:
{memory["ratio"]:.2f}.
"""


def _gram(r: dict[str, Any]) -> list[str]:
    return [r["dtype"], str(r["p"]), f"{r['gflop_s']:.0f}", f"{r['share']:.2f}"]


def _points(r: dict[str, Any]) -> list[str]:
    return [str(r["points"]), r["dtype"], str(r["p"]), f"{r['reads']:.1f}"]


def plot(records: list[dict[str, Any]], path: Path) -> None:
    """Draw the shares as bars, one group for each p."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams["svg.hashsalt"] = "dist_dot"
    from matplotlib import pyplot

    passes = [record for record in records if record["benchmark"] == "roofline"]
    features = sorted({record["p"] for record in passes})
    kinds = list(dict.fromkeys((record["kernel"], record["dtype"]) for record in passes))
    figure, axes = pyplot.subplots(figsize=(7, 3), layout="constrained")
    for number, kind in enumerate(kinds):
        shares = {record["p"]: record["share"] for record in passes if (record["kernel"], record["dtype"]) == kind}
        places = [group + (number - (len(kinds) - 1) / 2) / (len(kinds) + 1) for group in range(len(features))]
        axes.bar(places, [shares[p] for p in features], 1 / (len(kinds) + 1), label=" ".join(kind))
    axes.axhline(1.0, color="black", linewidth=0.8)
    axes.set_xticks(range(len(features)), [f"p = {p}" for p in features])
    axes.set_ylabel("share of the read rate")
    axes.legend(ncols=len(kinds) // 2, fontsize="small", loc="lower right")
    figure.savefig(path, metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    """Write RESULTS.md and roofline.svg beside this file."""
    records = load("roofline")
    plot(records, HERE / "roofline.svg")
    head = "# Results\n\nMade by `make bench` from the files in `records/`; not written by hand.\n\n"
    (HERE / "RESULTS.md").write_text(head + roofline(records))


if __name__ == "__main__":
    main()
