// ---- Labels. -------------------------------------------------------------------------------------------------------

// The smallest and the largest of n numbers, and whether all are whole: of each CTA, (gridDim, 3).
template <typename Label>
__global__ void extent(const Label* __restrict__ labels, i64 n, double* __restrict__ out) {
  __shared__ double parts[3][256];
  double low = 1e300, high = -1e300, whole = 1;
  for (i64 i = (i64)blockIdx.x * 256 + threadIdx.x; i < n; i += (i64)gridDim.x * 256) {
    const double value = (double)labels[i];
    low = value < low ? value : low;
    high = value > high ? value : high;
    if (!(value == floor(value)) || value - floor(value) != 0) whole = 0;
  }
  parts[0][threadIdx.x] = low;
  parts[1][threadIdx.x] = high;
  parts[2][threadIdx.x] = whole;
  __syncthreads();
  for (int half = 128; half; half /= 2) {
    if (threadIdx.x < half) {
      double (*a)[256] = parts;
      const int t = threadIdx.x, u = t + half;
      a[0][t] = a[0][u] < a[0][t] ? a[0][u] : a[0][t];
      a[1][t] = a[1][u] > a[1][t] ? a[1][u] : a[1][t];
      a[2][t] = a[2][u] < a[2][t] ? a[2][u] : a[2][t];
    }
    __syncthreads();
  }
  if (threadIdx.x < 3) out[blockIdx.x * 3 + threadIdx.x] = parts[threadIdx.x][0];
}

// Which whole numbers from `low` occur: 1 in (size,) bytes.
template <typename Label>
__global__ void present(const Label* __restrict__ labels, i64 n, double low, unsigned char* __restrict__ seen) {
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (i64)gridDim.x * blockDim.x)
    seen[(i64)((double)labels[i] - low)] = 1;
}

// The place of each label among the classes, in order; their number for a label that is none of them.
template <typename Label, typename T>
__global__ void codes_of(const Label* __restrict__ labels, i64 n, const Label* __restrict__ classes, int k,
                         T* __restrict__ codes) {
  for (i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x; i < n; i += (i64)gridDim.x * blockDim.x) {
    int low = 0, high = k;  // the first class that is not smaller
    while (low < high) {
      const int middle = (low + high) / 2;
      if (classes[middle] < labels[i])
        low = middle + 1;
      else
        high = middle;
    }
    codes[i] = low < k && classes[low] == labels[i] ? T(low) : T(k);
  }
}
