"""The card's own rates: what a copy and a plain read of some GB reach."""

from statistics import median
from typing import Any

# Every thread has eight loads of 16 bytes under way.
SOURCE = r"""
extern "C" __global__ void plain_read(const float4* __restrict__ x, long long count, float* __restrict__ out) {
    const long long step = (long long)gridDim.x * blockDim.x;
    const long long thread = (long long)blockIdx.x * blockDim.x + threadIdx.x;
    float a = 0.0f, b = 0.0f, c = 0.0f, d = 0.0f;
    long long i = thread;
    for (; i + 7 * step < count; i += 8 * step) {
        float4 v[8];
        #pragma unroll
        for (int k = 0; k < 8; ++k) v[k] = __ldcs(x + i + k * step);
        #pragma unroll
        for (int k = 0; k < 8; ++k) { a += v[k].x; b += v[k].y; c += v[k].z; d += v[k].w; }
    }
    for (; i < count; i += step) { const float4 v = __ldcs(x + i); a += v.x; b += v.y; c += v.z; d += v.w; }
    out[thread] = (a + b) + (c + d);
}
"""
THREADS = 256
BLOCKS = (4, 8, 16, 32)  # per multiprocessor: the fastest counts


def event_seconds(work: Any, repeats: int) -> list[float]:
    """Return the seconds of each call on the card, by its own events, after one that does not count."""
    import cupy

    times = []
    for repeat in range(1 + repeats):
        start, stop = cupy.cuda.Event(), cupy.cuda.Event()
        start.record()
        work()
        stop.record()
        stop.synchronize()
        if repeat:
            times.append(cupy.cuda.get_elapsed_time(start, stop) / 1e3)
    return times


def read_rate(rows: Any, repeats: int = 9) -> float:
    """Return the rate in GB/s at which a kernel reads this contiguous array and does next to nothing with it."""
    import cupy
    import numpy as np

    kernel = cupy.RawKernel(SOURCE, "plain_read")
    processors = cupy.cuda.Device().attributes["MultiProcessorCount"]
    best = 0.0
    for blocks in (processors * each for each in BLOCKS):
        out = cupy.empty(blocks * THREADS, dtype=cupy.float32)
        words = (rows, np.int64(rows.nbytes // 16), out)
        times = event_seconds(lambda blocks=blocks, words=words: kernel((blocks,), (THREADS,), words), repeats)
        best = max(best, rows.nbytes // 16 * 16 / median(times) / 1e9)
    return best


def copy_rate(rows: Any, repeats: int = 9) -> float:
    """Return the rate in GB/s of a copy within the card: bytes read and bytes written."""
    import cupy

    other = cupy.empty_like(rows)
    stream = cupy.cuda.get_current_stream()
    times = event_seconds(lambda: other.data.copy_from_device_async(rows.data, rows.nbytes, stream), repeats)
    return 2 * rows.nbytes / median(times) / 1e9
