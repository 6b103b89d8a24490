// ---- Checks: the place of the first number that may not be, or what was there before. ------------------------------

template <typename T>
__global__ void first_outside(const T* __restrict__ values, i64 n, T low, T high, int whole, u64* __restrict__ place) {
  const i64 step = (i64)gridDim.x * blockDim.x;
  u64 found = ~0ull;
#pragma unroll 8
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += step) {
    const T value = values[i];
    const bool good = value >= low && value <= high && (!whole || value == floor(value));
    if (!good && i < found) found = i;
  }
  if (found != ~0ull) atomicMin(place, found);
}

// The same for y of each piece, (rows, width).
template <typename T>
__global__ void __launch_bounds__(256) outside_of_pieces(const Piece* __restrict__ pieces,
                                                         const int* __restrict__ piece_of, int chunk_rows, int width,
                                                         T low, T high, int whole, u64* __restrict__ places) {
  const int number = piece_of[blockIdx.x];
  const Piece piece = pieces[number];
  const i64 start = (blockIdx.x - piece.chunk) * chunk_rows;
  const i64 rows = piece.rows - start < chunk_rows ? piece.rows - start : chunk_rows;
  const T* values = (const T*)piece.y + start * width;
  u64 found = ~0ull;
#pragma unroll 4
  for (i64 i = threadIdx.x; i < rows * width; i += 256) {
    const T value = values[i];
    const bool good = value >= low && value <= high && (!whole || value == floor(value));
    if (!good && (u64)i < found) found = i;
  }
  if (found != ~0ull) atomicMin(places + number, (u64)(start * width) + found);
}

// ---- Digests: 128 bits of n numbers. Integers add up to the same in any order. ---------------------------------------

__device__ __forceinline__ u64 mixed(u64 x) {  // Steele, Lea and Flood, Fast splittable pseudorandom generators (2014)
  x ^= x >> 30;
  x *= 0xbf58476d1ce4e5b9ull;
  x ^= x >> 27;
  x *= 0x94d049bb133111ebull;
  return x ^ (x >> 31);
}

template <typename Bits>
__global__ void digest(const Bits* __restrict__ numbers, i64 n, u64 seed, u64* __restrict__ out) {
  u64 a = 0, b = 0;
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (i64)gridDim.x * blockDim.x) {
    const u64 one = mixed((u64)numbers[i] + (u64)(i + 1) * 0x9e3779b97f4a7c15ull + seed);
    a += one;
    b += mixed(one ^ 0xd1b54a32d192ed03ull);
  }
  for (int m = 16; m; m /= 2) {
    a += __shfl_down_sync(0xffffffffu, a, m);
    b += __shfl_down_sync(0xffffffffu, b, m);
  }
  if (threadIdx.x % 32 == 0) {
    atomicAdd(out, a);
    atomicAdd(out + 1, b);
  }
}
