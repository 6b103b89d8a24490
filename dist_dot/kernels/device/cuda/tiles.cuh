// ---- Tiles for cuBLAS: sqrt(s) [x - mean, y - mean, 1], whose products with each other hold all second moments. ------
// Rows from `rows` to `padded` are zeros.

template <typename T>
__global__ void widened(const T* __restrict__ X, const T* __restrict__ y, const T* __restrict__ weight,
                        const double* __restrict__ mean, int rows, int padded, int p, int targets,
                         double* __restrict__ tile) {
  const int width = p + targets + 1;
  for (i64 i = (i64)blockIdx.x * blockDim.y + threadIdx.y; i < padded; i += (i64)gridDim.x * blockDim.y) {
    const double root = i >= rows ? 0.0 : weight ? sqrt((double)weight[i]) : 1.0;
    for (int j = threadIdx.x; j < width; j += blockDim.x) {
      double value = i >= rows ? 0.0 : j < p ? (double)X[i * p + j] : j < p + targets ? (double)y[i * targets + j - p] : 1.0;
      if (mean && i < rows && j < width - 1) value -= mean[j];
      tile[i * width + j] = root * value;
    }
  }
}

// The sums of batches (batches, size) -> their sum, in order.
extern "C" __global__ void added(const double* __restrict__ sums, int batches, i64 size, double* __restrict__ out) {
  const i64 i = (i64)blockIdx.x * blockDim.x + threadIdx.x;
  if (i >= size) return;
  double total = sums[i];
  for (int batch = 1; batch < batches; ++batch) total += sums[batch * size + i];
  out[i] = total;
}

// Means (pieces, d) from [sum s, sums of s x (d), ..] (pieces, width).
extern "C" __global__ void means_of(const double* __restrict__ sums, int d, int width, double* __restrict__ means) {
  const int j = blockIdx.x * blockDim.x + threadIdx.x;
  const double* from = sums + (i64)blockIdx.y * width;
  if (j < d) means[(i64)blockIdx.y * d + j] = from[1 + j] / (from[0] > 0 ? from[0] : 1.0);
}

// The rows of a symmetric matrix, each up to the diagonal, end to end.
extern "C" __global__ void packed(const double* __restrict__ square, int m, double* __restrict__ triangle) {
  const int i = blockIdx.y;
  for (int j = blockIdx.x * blockDim.x + threadIdx.x; j <= i; j += gridDim.x * blockDim.x)
    triangle[(i64)i * (i + 1) / 2 + j] = square[(i64)i * m + j];
}

// The products of such tiles (below the diagonal), about a mean that is nearly theirs (from [sum s, sums of s x, ..]) -> a summary
// [weight, mean (d), second moments about the mean (d, d)], the mean put right by what was left over.
extern "C" __global__ void summary_of(const double* __restrict__ products, const double* __restrict__ mean, int d,
                                      double* __restrict__ summary) {
  const int i = blockIdx.y, width = d + 1;
  const double weight = products[(i64)d * width + d], divisor = weight > 0 ? weight : 1.0;
  const double left = products[(i64)d * width + i] / divisor;
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    summary[1 + i] = mean[i] + left;
    if (i == 0) summary[0] = weight;
  }
  for (int j = blockIdx.x * blockDim.x + threadIdx.x; j < d; j += gridDim.x * blockDim.x)
    summary[1 + d + (i64)i * d + j] =
        products[(i64)(i > j ? i : j) * width + (i > j ? j : i)] - weight * (left * (products[(i64)d * width + j] / divisor));
}

// The summary of the rows of both: Chan, Golub and LeVeque (1983), equation 2.1. Each operation is rounded, as in
// dist_dot/kernels/moments.py, which has the same bits: workers merge here, and the loop beside the scheduler there.
extern "C" __global__ void merged(const double* __restrict__ a, const double* __restrict__ b, int d,
                                  double* __restrict__ out) {
  const int i = blockIdx.y;
  const double weight = __dadd_rn(a[0], b[0]), share = weight > 0 ? __ddiv_rn(b[0], weight) : 0.0;
  const double gap = __dsub_rn(b[1 + i], a[1 + i]), between = __dmul_rn(__dmul_rn(a[0], share), gap);
  if (blockIdx.x == 0 && threadIdx.x == 0) {
    out[1 + i] = __dadd_rn(a[1 + i], __dmul_rn(share, gap));
    if (i == 0) out[0] = weight;
  }
  for (int j = blockIdx.x * blockDim.x + threadIdx.x; j < d; j += gridDim.x * blockDim.x) {
    const i64 at = 1 + d + (i64)i * d + j;
    out[at] = __dadd_rn(a[at], __dadd_rn(b[at], __dmul_rn(between, __dsub_rn(b[1 + j], a[1 + j]))));
  }
}
