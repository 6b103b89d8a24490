"""The section of RESULTS.md on a GPU, which `python -m benchmarks.gpu` prints at its end."""

from hashlib import sha256
from typing import Any

from benchmarks.report import made, table

Record = dict[str, Any]


def section(records: list[Record]) -> str:
    """Return it. What was not measured has no table; what failed is said."""
    first = records[0]
    rate = next((r for r in records if r["benchmark"] == "card"), None)
    rates = f"Plain read {rate['read_gb_s']:,.0f} GB/s, copy {rate['copy_gb_s']:,.0f} GB/s. " if rate else ""
    tables = [text for make in TABLES if (text := make(records))]
    return f"""## On a GPU

{first["card"]}, driver {first["driver"]}, {made(first)}.

{rates}Rows lie on the card, and a round ends when its sums are on the host.

{chr(10).join(tables)}"""


def passes(records: list[Record]) -> str:
    """Return the table of rounds over some GB of X."""
    rows = [
        [
            r["loss"],
            r["dtype"],
            f"{r['p']:,}",
            f"{r['round_ms']:.3f}",
            f"{r['gb_s']:,.0f}",
            f"{r['share']:.2f}",
            f"{r['pass_share']:.2f}",
            f"{r['beyond_us']:.0f}",
            f"{r['small_round_us']:.0f}",
        ]
        for r in sorted(of(records, "pass"), key=lambda r: (r["loss"], r["dtype"], r["p"]))
    ]
    head = ["loss", "dtype", "p", "round ms", "GB/s", "round", "pass", "beyond us", "1,000 rows us"]
    words = """One evaluation of F over some 4 GB of X: of the round, and of its pass alone, between two events of the
card, the share of the plain read of as many bytes; what a round takes beyond its pass; a round over 1,000 rows."""
    return titled(words, rows, head)


def columns(records: list[Record]) -> str:
    """Return the table of several columns of W."""
    rows = [
        [r["dtype"], str(r["p"]), str(r["columns"]), f"{r['round_ms']:.3f}", f"{r['reads']:.2f}"]
        for r in of(records, "columns")
    ]
    head = ["dtype", "p", "columns", "round ms", "times one"]
    return titled("Several columns of W in one read, logistic:", rows, head)


def looks(records: list[Record]) -> str:
    """Return the table of what looks at the rows before a fit."""
    rows = [
        [r["kernel"], r["dtype"], str(r["p"]), f"{r['round_ms']:.3f}", f"{r['gb_s']:,.0f}", f"{r['share']:.2f}"]
        for r in of(records, "look")
    ]
    head = ["kernel", "dtype", "p", "round ms", "GB/s", "share"]
    return titled("What looks at X and y, or at y alone, before a fit:", rows, head)


def arrivals(records: list[Record]) -> str:
    """Return the table of rows that come from the host."""
    rows = [[r["source"], r["dtype"], f"{r['gb_s']:.1f}", f"{r['host_gb_s']:.1f}"] for r in of(records, "arriving")]
    words = "4,000,000 x 128 rows of the host, brought to the card by as many threads as that takes:"
    return titled(words, rows, ["from", "to", "GB/s of the card's bytes", "of the host's"])


def grams(records: list[Record]) -> str:
    """Return the table of Gram matrices."""
    rows = [
        [
            r["kernel"],
            r["dtype"],
            f"{r['p']:,}",
            f"{r['round_ms']:.2f}",
            f"{r['tflop_s']:.1f}",
            ", ".join(f"{value:.1f} ({dtype})" for dtype, value in r["gemm_tflop_s"].items()),
        ]
        for r in of(records, "gram")
    ]
    head = ["kernel", "dtype", "p", "round ms", "TFLOP/s", "gemm TFLOP/s"]
    return titled("Gram matrices, 2 n p^2 operations, beside one gemm of cuBLAS over the same rows:", rows, head)


def fits(records: list[Record]) -> str:
    """Return the table of whole fits, by whom."""
    found = of(records, "fit")
    order = list(dict.fromkeys(r["table"] for r in found))
    rows = [
        [
            r["table"],
            r["estimator"],
            r["who"],
            seconds(r["first_s"]),
            seconds(r["second_s"]),
            str(r.get("rounds") or r.get("steps") or ""),
            f"{r['gradient']:.1e}",
        ]
        for r in sorted(found, key=lambda r: (order.index(r["table"]), r["estimator"], r["who"]))
    ]
    words = """Whole fits of float32 rows, alpha = C = 1, each with its own tol. The second time is the median of up to
three more fits. The gradient is that of F, its largest entry over n, by one function for all. Rounds of dist_dot, steps
of scikit-learn."""
    return titled(words, rows, ["rows", "estimator", "who", "first s", "second s", "rounds", "gradient / n"])


def starts(records: list[Record]) -> str:
    """Return the table of the first fits of a process."""
    rows = [[f"{r['n']:,} x {r['p']}", r["estimator"], r["cache"], f"{r['seconds']:.2f}"] for r in of(records, "first")]
    words = "The first fits of a process, with an empty (cold) and with a filled cache of compiled kernels:"
    return titled(words, rows, ["rows", "estimator", "cache", "seconds"])


def evaluations(records: list[Record]) -> str:
    """Return the table of one evaluation by two products."""
    rows = [[r["table"], r["who"], f"{r['ms']:.2f}"] for r in of(records, "evaluation")]
    return titled("One evaluation of the logistic loss by two products:", rows, ["rows", "who", "ms"])


def places(records: list[Record]) -> str:
    """Return the table of rounds over a cluster."""
    rows = [
        [
            r["where"],
            f"{r['n']:,} x {r['p']}",
            f"{r['round_ms']:.2f}",
            f"{1e3 * r['seconds_per_round']:.2f}",
            seconds(r["first_s"]),
            seconds(r["second_s"]),
            str(r["rounds"]),
            {True: "yes", False: "NO"}.get(r.get("same_bits"), ""),
        ]
        for r in of(records, "cluster")
    ]
    head = ["where", "rows", "round ms", "in a fit", "first fit s", "second", "rounds", "same bits"]
    return titled("LogisticRegression on a Dask cluster of one GPU, and the same rows in process, float32:", rows, head)


def bits(records: list[Record]) -> str:
    """Return one hash of all sums of fixed rows."""
    hashed = of(records, "bits")
    if not hashed:
        return ""
    one = sha256("".join(r["sha256"] for r in hashed).encode()).hexdigest()[:16]
    again = sum(r["same_again"] for r in hashed)
    return f"""Bits: {again} of {len(hashed)} sums are the same when asked for again. The hash of their hashes is
`{one}`; the records hold each of them, of rows that are the same on every card.
"""


def failures(records: list[Record]) -> str:
    """Return the table of what is missing, and why."""
    rows = [
        [
            r["part"],
            ", ".join(str(r[name]) for name in ("case", "name", "estimator", "dtype", "p") if name in r),
            f"{r['benchmark']}: {r['why']}"[:160].replace("|", "/").replace("\n", " "),
        ]
        for r in of(records, "failed") + of(records, "skipped")
    ]
    return titled("Not measured:", rows, ["part", "case", "why"])


def agreement(records: list[Record]) -> str:
    """Return how far the coefficients of the card are from those of the processors."""
    far = [f"{r['difference']:.0e} ({r['estimator']}, {r['table']})" for r in records if "difference" in r]
    return f"Largest relative difference of a coefficient from that of the CPU path: {', '.join(far)}.\n" if far else ""


TABLES = (passes, columns, looks, arrivals, grams, fits, agreement, starts, evaluations, places, bits, failures)


def of(records: list[Record], benchmark: str) -> list[Record]:
    """Return the records of one kind."""
    return [r for r in records if r["benchmark"] == benchmark]


def titled(words: str, rows: list[list[str]], head: list[str]) -> str:
    """Return a table with its introduction; nothing where it has no rows."""
    return f"{words}\n\n{table(rows, head)}\n" if rows else ""


def seconds(value: float | None) -> str:
    """Return it with three digits after the point; nothing for None."""
    return "" if value is None else f"{value:.3f}"
