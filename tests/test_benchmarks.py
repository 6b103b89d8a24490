"""The benchmarks run, and the kernels are no slower than they may be on any machine."""

import sys
import time
from importlib import import_module
from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks import harness, kernels, report, roofline
from benchmarks.gpu import __main__ as on_a_gpu
from benchmarks.gpu import clock
from benchmarks.gpu.report import section
from dist_dot import losses
from dist_dot.kernels.kernel import Kernel
from dist_dot.kernels.passes import ValueAndGradient
from dist_dot.rows.arrays import Parameters


def test_roofline_from_measurement_to_table_and_plot(clients, tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "RECORDS", tmp_path)
    client = clients(2)
    records = [roofline.memory(client, 20_000_000)]
    for p in (3, 20):
        blocks = harness.random_blocks(client, 2_000_000, p, "float32")
        records += roofline.measure(blocks, 3)
    records += [roofline.products(blocks, 2), roofline.points(blocks, 3, 2)]
    harness.save("roofline", [harness.environment() | {"workers": 2, "threads": 1} | r for r in records])
    loaded = harness.load("roofline")
    assert [(r["kernel"], r["p"]) for r in loaded[1:5]] == [(k, p) for p in (3, 20) for k in ("squared", "logistic")]
    assert all(r["gb_s"] > 0 and r["share"] > 0 and r["rounds"] == 3 for r in loaded[1:5])
    text = report.roofline(loaded)
    assert "| logistic | float32 | 20 |" in text and harness.environment()["cpu"] in text
    report.plot(loaded, tmp_path / "plot.svg")
    assert (tmp_path / "plot.svg").read_text().count("p = 20") >= 1


def test_kernels_from_measurement_to_table(clients):
    own = losses.ScalarLoss(kernels.value, kernels.slope, kernels.bend, name="log cosh", curvature=1.0)
    records, syrk = [], kernels.blas(200_000, 5, "float32", 1)
    for name, client in (("thread", None), ("threads", None), ("processes", clients(2))):
        blocks = kernels.rows(name, client, 200_000, 5, "float32")
        records += kernels.measure(name, blocks, 2, syrk, own)
    asked = [name for name in kernels.kernels(5, own) if name not in kernels.READS]
    assert [r["kernel"] for r in records] == 3 * asked and all(r["ms"] > 0 and r["reads"] > 0 for r in records)
    assert "softmax of 10" in kernels.text(records)
    text = report.kernels([harness.environment() | r for r in records])
    assert "| kernel | thread | threads | processes |" in text and "| curvature, softmax of 5 |" in text


def test_the_table_in_the_repository_is_that_of_its_records():
    text = (report.HERE / "RESULTS.md").read_text()
    for part in report.sections():
        assert part in text, part.splitlines()[0]
    docs = report.HERE.parent / "docs"
    assert report.digits(harness.load("nist")) in (docs / "numerics.md").read_text()
    assert report.deaths(harness.load("chaos")) in (docs / "survival.md").read_text()


def test_the_pass_is_faster_than_two_products():
    blocks = harness.random_blocks(None, 64_000_000, 100, "float64")

    class Products(Kernel):
        def __call__(self, block, parameters):
            at, X = parameters.like(block.y), block.X.dense()
            z = X @ at[:-1] + at[-1] - block.y
            return np.concatenate([[0.5 * z @ z], z @ X, [z.sum()]])

    kernels = {"pass": ValueAndGradient(losses.Squared()), "products": Products(), "sum": harness.CompiledSum()}
    times = harness.Times(kernels, np.full(101, 0.1), 9)(blocks, lambda progress: False)
    best = {name: min(seconds) for name, seconds in times.items()}
    assert best["pass"] < 1.5 * best["products"]  # measured: 0.5
    assert best["pass"] < 6 * best["sum"]  # measured: 1.1 .. 1.7


def test_the_streams_read_everything():
    blocks = harness.random_blocks(None, 3_000_000, 20, "float64")
    block = blocks.blocks[0]
    for kernel in (harness.CompiledSum(), harness.NumpySum()):
        np.testing.assert_allclose(kernel(block, Parameters(np.zeros(0))), block.X.dense().sum(), rtol=1e-9)


@pytest.fixture
def gpu_records():
    """One record of each kind, as a card would make them."""
    here = harness.environment() | {"card": "NVIDIA H100", "driver": "580", "card_memory": "80 GiB"}
    times = {"round_ms": 1.5, "gb_s": 2700.0, "read_gb_s": 3000.0, "share": 0.9}
    shape = {"n": 1000, "p": 128, "dtype": "float32"}
    fit = {"benchmark": "fit", "table": "1M x 100", "estimator": "Ridge", "gradient": 1e-8, **shape}
    kinds = [
        {"benchmark": "card", "read_gb_s": 3000.0, "copy_gb_s": 2800.0},
        {"benchmark": "pass", "loss": "logistic", "pass_share": 0.95, "beyond_us": 50.0, "small_round_us": 40.0,
         **times, **shape},
        {"benchmark": "columns", "loss": "logistic", "columns": 8, "reads": 2.25, **times, **shape},
        {"benchmark": "look", "kernel": "Moments", **times, **shape},
        {"benchmark": "gram", "kernel": "Expansion", "tflop_s": 41.0, "gemm_tflop_s": {"float64": 50.0}, **times,
         **shape},
        fit | {"who": "dist_dot", "first_s": 0.5, "second_s": 0.025, "rounds": 1, "steps": 1},
        fit | {"who": "dist_dot, CPU", "first_s": 9.5, "second_s": None, "difference": 2e-6, "rounds": 1},
        {"benchmark": "first", "estimator": "Ridge", "cache": "cold", "seconds": 6.5, **shape},
        {"benchmark": "evaluation", "who": "torch", "table": "1M x 100", "ms": 4.25, **shape},
        {"benchmark": "cluster", "where": "cuda", "same_bits": False, "seconds_per_round": 0.002, "first_s": 1.0,
         "second_s": 0.5, "rounds": 9, **times, **shape},
        {"benchmark": "bits", "sha256": "ab", "same_again": True, **shape},
        {"benchmark": "failed", "case": "fit", "name": "84M x 16", "why": "MemoryError: a|b"},
    ]  # fmt: skip
    return [here | {"part": "all"} | kind for kind in kinds]


def test_the_section_on_a_gpu_has_a_table_of_all_that_was_measured(gpu_records):
    text = section(gpu_records)
    for line in (
        "NVIDIA H100, driver 580, ",
        "Plain read 3,000 GB/s, copy 2,800 GB/s.",
        "| logistic | float32 | 128 | 1.500 | 2,700 | 0.90 | 0.95 | 50 | 40 |",
        "| float32 | 128 | 8 | 1.500 | 2.25 |",
        "| Moments | float32 | 128 | 1.500 | 2,700 | 0.90 |",
        "| Expansion | float32 | 128 | 1.50 | 41.0 | 50.0 (float64) |",
        "| 1M x 100 | Ridge | dist_dot | 0.500 | 0.025 | 1 | 1.0e-08 |",
        "| 1M x 100 | Ridge | dist_dot, CPU | 9.500 |  | 1 | 1.0e-08 |",
        "2e-06 (Ridge, 1M x 100)",
        "| 1,000 x 128 | Ridge | cold | 6.50 |",
        "| 1M x 100 | torch | 4.25 |",
        "| cuda | 1,000 x 128 | 1.50 | 2.00 | 1.000 | 0.500 | 9 | NO |",
        "Bits: 1 of 1 sums are the same when asked for again.",
        "| all | fit, 84M x 16 | failed: MemoryError: a/b |",
    ):
        assert line in text
    assert section(gpu_records[:1]).count("\n| ") == 0


def test_results_have_a_section_on_a_gpu_where_there_are_records_of_one(gpu_records, tmp_path, monkeypatch):
    monkeypatch.setattr(harness, "RECORDS", tmp_path)
    monkeypatch.setattr(report, "SECTIONS", {})
    assert report.sections() == []
    harness.save("gpu", gpu_records)
    assert report.sections() == [section(gpu_records)]


def test_all_parts_can_be_read_without_a_gpu():
    for part in on_a_gpu.PARTS.values():
        assert callable(import_module(f"benchmarks.gpu.{part.module}").measure)


def test_a_part_that_hangs_is_ended_and_named(tmp_path):
    begin = time.perf_counter()
    with open(tmp_path / "log", "w") as log:
        records = on_a_gpu.in_a_process("bits", 0.1 - on_a_gpu.GRACE, True, tmp_path, log)
    assert time.perf_counter() - begin < 10
    assert [(r["benchmark"], r["part"]) for r in records] == [("failed", "bits")] and "killed" in records[0]["why"]


def test_a_case_that_fails_or_is_late_costs_no_other(monkeypatch, capsys):
    pool = SimpleNamespace(free_all_blocks=lambda: None)
    monkeypatch.setitem(sys.modules, "cupy", SimpleNamespace(get_default_memory_pool=lambda: pool))

    def case(p):
        yield {"p": p}
        if p == 1:
            raise MemoryError("too wide")

    todo = [(case, {"p": p}) for p in (0, 1, 2)]
    done = list(clock.cases(clock.Clock(60), todo))
    assert done[:2] == [{"p": 0}, {"p": 1}] and done[3] == {"p": 2}
    assert done[2] == {"benchmark": "failed", "case": "case", "p": 1, "why": "MemoryError: too wide"}
    assert "too wide" in capsys.readouterr().err
    late = list(clock.cases(clock.Clock(0), todo))
    assert [(r["benchmark"], r["p"]) for r in late] == [("skipped", 0), ("skipped", 1), ("skipped", 2)]
