"""The CUDA C++ of the kernels compiles: NVIDIA's run-time compiler, which CuPy uses, needs no GPU for that."""

import ctypes
from importlib.util import find_spec
from pathlib import Path

import pytest

from dist_dot.kernels.device.card import OPTIONS, source
from dist_dot.kernels.device.plan import most_columns, plan

PASSES = [(4, 17), (4, 128), (4, 1000), (8, 100)]
OTHERS = {
    "sums": ["fold_chunks<float>", "fold_chunks<double>", "fold_losses", "fold_pieces"],
    "moments": [
        "moments<float, 4, true, 0>",
        "moments<double, 1, false, 1>",
        "moments<float, 4, true, 8>",
        "target_sums<float>",
        "slope_sums<float>",
        "constant_values<double>",
        "fold_rows",
    ],
    "checks": ["first_outside<float>", "outside_of_pieces<double>", "digest<unsigned int>"],
    "tiles": ["widened<float>", "widened<double>", "added", "means_of", "packed", "summary_of", "merged"],
    "labels": ["extent<unsigned char>", "present<long long>", "codes_of<double, float>"],
}


@pytest.fixture(scope="session")
def nvrtc():
    """Return NVIDIA's compiler."""
    folder = Path(find_spec("nvidia").submodule_search_locations[0])
    library = next(folder.rglob("libnvrtc.so.*"))
    for helper in library.parent.glob("libnvrtc-builtins.so.*"):
        ctypes.CDLL(str(helper), ctypes.RTLD_GLOBAL)
    return ctypes.CDLL(str(library))


def compiled(nvrtc, code, expressions, architecture):
    """Compile for an architecture; return the size of the machine code. Fails with the compiler's words."""
    program = ctypes.c_void_p()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), code.encode(), b"kernels.cu", 0, None, None) == 0
    for expression in expressions:
        assert nvrtc.nvrtcAddNameExpression(program, expression.encode()) == 0
    options = [option.encode() for option in (*OPTIONS, f"-arch={architecture}")]
    status = nvrtc.nvrtcCompileProgram(program, len(options), (ctypes.c_char_p * len(options))(*options))
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    assert status == 0, log.value.decode()
    nvrtc.nvrtcGetCUBINSize(program, ctypes.byref(size))
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))
    return size.value


@pytest.mark.parametrize("architecture", ["sm_80", "sm_90"])
def test_passes_compile(nvrtc, architecture):
    shapes = PASSES if architecture == "sm_90" else PASSES[:2]
    names = {"float32": "float", "float64": "double"}
    expressions = {
        plan(p, itemsize, columns).expression(names[f"float{8 * itemsize}"], aligned)
        for itemsize, p in shapes
        for columns in (1, most_columns(p, itemsize))
        for aligned in (True, False)[: 2 if p == 128 and columns == 1 else 1]
    }
    assert compiled(nvrtc, source("passes"), sorted(expressions), architecture) > 100_000


@pytest.mark.parametrize("part", OTHERS)
def test_other_kernels_compile(nvrtc, part):
    templates = [expression for expression in OTHERS[part] if "<" in expression]
    assert compiled(nvrtc, source(part), templates, "sm_90") > 1_000


def test_a_loss_of_the_users_own_is_compiled_into_the_pass(nvrtc):
    expression = plan(28, 4, 1).expression("float", True)
    own = """
        const T r = z - y;
        value = log(cosh(r));
        slope = tanh(r);
        second = T(1) - slope * slope;
    """
    assert compiled(nvrtc, source("passes", own), [expression], "sm_90") > 1_000
    with pytest.raises(AssertionError, match="nonsense"):
        compiled(nvrtc, source("passes", "value = nonsense;"), [expression], "sm_90")


@pytest.mark.parametrize("itemsize", [4, 8])
def test_every_width_has_a_plan_that_fits_the_shared_memory(itemsize):
    for p in [*range(1, 70), *range(70, 20_000, 37)]:
        for columns in range(1, most_columns(p, itemsize) + 1):
            made = plan(p, itemsize, columns)
            assert (made is None) == (p * itemsize > 80 << 10)
            if made is not None:
                taken = made.shared_bytes(p, itemsize) + made.static_bytes(itemsize)
                assert made.columns >= columns and taken <= 227 << 10
                assert made.loads * made.numbers * (made.lanes if made.kernel == "by_warps" else made.threads) >= p
                assert made.rows * made.columns <= 32 or made.kernel == "by_warps"
                assert made.chunk_rows > 0
