"""RESULTS.md and its plots, from the records. `python -m benchmarks.report`."""

from pathlib import Path
from statistics import median
from typing import Any

from benchmarks import harness
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


def kernels(records: list[dict[str, Any]]) -> str:
    """Return the section on every kernel in each way to use the cores."""
    first = records[0]
    each = [r for r in records if r["benchmark"] == "kernels"]
    ways = list(dict.fromkeys(r["way"] for r in each))
    tables = []
    for dtype, p in dict.fromkeys((r["dtype"], r["p"]) for r in each):
        case = [r for r in each if (r["dtype"], r["p"]) == (dtype, p)]
        of = {(r["kernel"], r["way"]): f"{r['ms']:.1f} ({r['reads']:.2f})" for r in case}
        reading = {r["way"]: f"{r['read_ms']:.1f}" for r in case}
        rows = [["reading X", *(reading[way] for way in ways)]]
        rows += [[name, *(of[name, way] for way in ways)] for name in dict.fromkeys(r["kernel"] for r in case)]
        head = f"{case[0]['n']:,} x {p}, {dtype}; NumPy's X.T @ X on all cores: {case[0]['syrk_ms']:.0f} ms"
        tables.append(f"{head}\n\n{table(rows, ['kernel', *ways])}")
    return f"""## Every kernel, in each way to use the cores

{made(first)}.

Milliseconds of a round, medians of {each[0]["rounds"]}, and in brackets how many times as long as reading X.

{(chr(10) * 2).join(tables)}
"""


def _gram(r: dict[str, Any]) -> list[str]:
    return [r["dtype"], str(r["p"]), f"{r['gflop_s']:.0f}", f"{r['share']:.2f}"]


def _points(r: dict[str, Any]) -> list[str]:
    return [str(r["points"]), r["dtype"], str(r["p"]), f"{r['reads']:.1f}"]


def nist(records: list[dict[str, Any]]) -> str:
    """Return the section on the digits of NIST's reference sets."""
    return f"""## Digits of NIST's reference sets

{made(records[0])}.

The fewest correct digits of the coefficients (log relative error, 15 at most), those of dist_dot over cuts into 1, 3
and 10 blocks, on which the refined ones do not depend. The condition is that of the centred columns, scaled to norm 1.
Filip's decimals lose all but some seven digits where they become doubles. Rounds are those of "auto".

{digits(records)}
"""


def digits(records: list[dict[str, Any]]) -> str:
    """Return the table of digits, which docs/numerics.md shows too."""
    names = list(records[0]["digits"])
    rows = [
        [r["name"], f"{r['condition']:.0e}", *(f"{r['digits'][name]:.1f}" for name in names), str(r["rounds auto"])]
        for r in records
    ]
    return table(rows, ["set", "condition", *names, "rounds"])


def exact(records: list[dict[str, Any]]) -> str:
    """Return the section on exact least squares on the flights."""
    ridge, path, inference = (
        next(r for r in records if r["benchmark"] == name) for name in ("ridge", "path", "inference")
    )
    fits = [[name, f"{taken:.2f}", f"{ridge['objective'][name]:.9g}"] for name, taken in ridge["seconds"].items()]
    descent = ridge["descent"]
    fits.append([f"gradient descent, blocks, {descent['rounds']:,} rounds", f"{descent['seconds']:.2f}",
                 f"{descent['objective']:.9g}"])  # fmt: skip
    taken = path["seconds"]
    ratios = ", ".join(
        f"{taken[f'RidgeCV, {rows}'] / taken[f'Ridge, {rows}']:.2f} ({rows})" for rows in ("blocks", "NumPy rows")
    )
    errors, alphas = inference["seconds"], (path["alpha"], path["scikit-learn alpha"])
    return f"""## Exact least squares on the flights

{ridge["n"]:,} x {ridge["p"]}, {ridge["workers"]} workers of {ridge["threads"]} thread, {made(ridge)}.

Ridge with alpha = 1, in turns; blocks lie in the memory of the workers. F is that of `dist_dot.Objective`.

{table(fits, ["fit", "seconds", "F"])}

RidgeCV with {path["alphas"]} alphas and {path["folds"]} folds:

{table([[name, f"{value:.2f}"] for name, value in taken.items()], ["", "seconds"])}

RidgeCV / Ridge: {ratios}. Alpha {alphas[0]:.6g}, by scikit-learn's Ridge on the same folds {alphas[1]:.6g};
the largest difference of a score is {path["difference"]:.1e}.

Standard errors of {inference["p"]} independent columns: {errors["dist_dot"]:.2f} s, statsmodels
{errors["statsmodels"]:.2f} s; the largest relative difference is {inference["standard errors"]:.1e}, that of the
coefficients {inference["coefficients"]:.1e}.
"""


def logistic(records: list[dict[str, Any]]) -> str:
    """Return the section on logistic regression on the flights."""
    runs = [r for r in records if r["benchmark"] == "logistic"]
    both = next(r for r in records if r["benchmark"] == "together")
    rows = [
        [r["solver"], f"{r['seconds']:.2f}", str(r["rounds"]), f"{r['value']:.4f}", f"{r['gradient']:.1e}"]
        for r in runs
    ]
    return f"""## Logistic regression on the flights

Which of {runs[0]["n"]:,} flights are more than 15 minutes late, from {runs[0]["p"]} features; alpha = 1.
{runs[0]["workers"]} workers of {runs[0]["threads"]} thread, {made(runs[0])}.

Each goes on until max |gradient of F| <= 1e-6 n; the median of {runs[0]["repeats"]} runs in turns, from blocks in the
memory of the workers, or from an array. Rounds are the steps of scikit-learn.

{table(rows, ["solver", "seconds", "rounds", "F", "max gradient / n"])}

{both["alphas"]} alphas x {both["folds"]} folds by L-BFGS to tol = {both["tol"]:.0e}: {both["seconds"]:.0f} s together,
in {both["rounds"]} rounds; one by one {both["alone"]:.0f} s, by a sample of {both["sample"]}: a share of
{both["seconds"] / both["alone"]:.2f}. The largest difference of a mean loss on a fold is {both["difference"]:.1e}.
"""


def products(records: list[dict[str, Any]]) -> str:
    """Return the section on the search for the largest inner products."""
    r = records[0]
    rows = [[name, f"{value:.2f}"] for name, value in r["seconds"].items()]
    return f"""## The largest inner products

The {r["k"]} best of {r["n"]:,} x {r["p"]} float32 rows for each of {r["queries"]:,} queries, {made(r)}. Scores
{"agree to the last bit" if r["exact"] else "DIFFER"}.

{table(rows, ["", "seconds"])}
"""


def rounds(records: list[dict[str, Any]]) -> str:
    """Return the section on what a round costs beside an echo, and on what many of them leave behind."""
    latencies = [r for r in records if r["benchmark"] == "latency"]
    soak = next(r for r in records if r["benchmark"] == "soak")
    rows = [[str(r["p"]), f"{r['round_ms']:.2f}", f"{r['echo_ms']:.2f}", f"{r['ratio']:.2f}"] for r in latencies]
    return f"""## Rounds

{soak["workers"]} workers of {soak["threads"]} thread, {made(soak)}.

A round over {latencies[0]["blocks"]} rows, beside a bare echo of the same bytes from the same thread to the same
workers and back; medians of {latencies[0]["rounds"]:,}, in turns.

{table(rows, ["p", "round ms", "echo ms", "ratio"])}

What {soak["rounds"]:,} rounds leave behind ({soak["seconds"]:.0f} s):

{table(_kept(soak), ["", "memory before", "after", "tasks before", "after", "threads before", "after"])}
"""


def _kept(soak: dict[str, Any]) -> list[list[str]]:
    before, after = ([state["scheduler"], *state["workers"]] for state in (soak["before"], soak["after"]))
    names = ["scheduler", *(f"worker {number + 1}" for number in range(len(before) - 1))]
    return [
        [
            name,
            *(f"{state['memory'] / 1e6:.1f} MB" for state in pair),
            *(str(state[what]) for what in ("tasks", "threads") for state in pair),
        ]
        for name, *pair in zip(names, before, after, strict=True)
    ]


def chaos(records: list[dict[str, Any]]) -> str:
    """Return the section on fits whose workers die."""
    straight, *disturbed = records
    return f"""## Workers that die

{straight["workers"]} workers of {straight["threads"]} thread, {made(straight)}.

The flights from Parquet files, {straight["rounds"]} rounds, while Dask's own KillWorker ends each worker after
{disturbed[0]["life"]:.1f} s on average, from the first task to the last round; {straight["seconds"]:.0f} s when nobody
dies.
A death costs what a fit takes longer, over its deaths: most of it is the start of a new process.

{deaths(records)}
"""


def deaths(records: list[dict[str, Any]]) -> str:
    """Return the table of fits whose workers die, which docs/survival.md shows too."""
    straight, *disturbed = records
    rows = []
    for mode in dict.fromkeys(r["mode"] for r in disturbed):
        fits = [r for r in disturbed if r["mode"] == mode]
        longer = sum(r["seconds"] - straight["seconds"] for r in fits)
        rows.append(
            [
                mode,
                f"{sum(r['same'] for r in fits)} of {len(fits)}",
                f"{min(r['deaths'] for r in fits)} .. {max(r['deaths'] for r in fits)}",
                f"{sum(r['repeated'] for r in fits)} of {sum(r['rounds'] for r in fits):,}",
                f"{median(r['seconds'] for r in fits):.0f}",
                f"{longer / sum(r['deaths'] for r in fits):.1f}",
            ]
        )
    head = ["workers die by", "same bits", "deaths in a fit", "rounds repeated", "seconds a fit", "seconds a death"]
    return table(rows, head)


def made(r: dict[str, Any]) -> str:
    """Return where, when and with what a record was made."""
    versions = ", ".join(f"{name} {number}" for name, number in r["versions"].items())
    return f"{r['cores']} cores of {r['cpu']}, {r['date']} UTC, load {r['load']}; Python {r['python']}, {versions}"


SECTIONS = {
    "roofline": roofline,
    "nist": nist,
    "exact": exact,
    "logistic": logistic,
    "products": products,
    "rounds": rounds,
    "chaos": chaos,
}


def sections() -> list[str]:
    """Return the text of each section; that on a GPU where its records are there."""
    texts = [section(load(name)) for name, section in SECTIONS.items()]
    if (harness.RECORDS / "kernels.jsonl").exists():
        texts.insert(1, kernels(load("kernels")))
    if (harness.RECORDS / "gpu.jsonl").exists():
        from benchmarks.gpu.report import section as on_a_gpu

        texts.append(on_a_gpu(load("gpu")))
    return texts


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
    plot(load("roofline"), HERE / "roofline.svg")
    head = "# Results\n\nMade by `make bench` from the files in `records/`; not written by hand.\n\n"
    (HERE / "RESULTS.md").write_text(head + "\n".join(sections()))


if __name__ == "__main__":
    main()
