// ---- Moments: [sum s, sums of s d (p), sums of s d^2 (p)] of each chunk, d = x - centre, in double. -----------------

template <typename T, int V, bool A>
__global__ void __launch_bounds__(256) moments(const Piece* __restrict__ pieces, const int* __restrict__ piece_of, int p,
                                               int chunk_rows, int across, const double* __restrict__ centre,
                                               double* __restrict__ out) {
  __shared__ double of_columns[2][256 * V];
  const Piece piece = pieces[piece_of[blockIdx.x]];
  const i64 start = (blockIdx.x - piece.chunk) * chunk_rows;
  const int rows = piece.rows - start < chunk_rows ? (int)(piece.rows - start) : chunk_rows;
  const int group = threadIdx.x / across, groups = 256 / across, place = threadIdx.x % across;
  const int column = (blockIdx.y * across + place) * V;
  const T *X = (const T*)piece.X + start * p + column, *weight = (const T*)piece.weight + start;
  double first[V], second[V], middle[V], sum = 0;
#pragma unroll
  for (int v = 0; v < V; ++v) {
    first[v] = second[v] = 0;
    middle[v] = column + v < p ? centre[column + v] : 0;
  }
  if (column < p) {
#pragma unroll 4
    for (int i = group; i < rows; i += groups) {
      T x[V];
      if constexpr (A && V * sizeof(T) == 16) {
        *reinterpret_cast<float4*>(x) = __ldcs(reinterpret_cast<const float4*>(X + (i64)i * p));
      } else {
#pragma unroll
        for (int v = 0; v < V; ++v) x[v] = X[(i64)i * p + v];
      }
      const double s = piece.weight ? (double)weight[i] : 1.0;
      sum += s;
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const double d = (double)x[v] - middle[v];
        first[v] += s * d;
        second[v] += s * d * d;
      }
    }
  }
  __shared__ double weights;
  for (int turn = 0; turn < groups; ++turn) {
    if (turn == group) {
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const int at = place * V + v;
        of_columns[0][at] = turn ? of_columns[0][at] + first[v] : first[v];
        of_columns[1][at] = turn ? of_columns[1][at] + second[v] : second[v];
      }
      if (place == 0) weights = turn ? weights + sum : sum;
    }
    __syncthreads();
  }
  double* to = out + (i64)blockIdx.x * (1 + 2 * p);
  if (group == 0) {
#pragma unroll
    for (int v = 0; v < V; ++v)
      if (column + v < p) {
        to[1 + column + v] = of_columns[0][place * V + v];
        to[1 + p + column + v] = of_columns[1][place * V + v];
      }
  }
  if (blockIdx.y == 0 && threadIdx.x == 0) to[0] = weights;
}

// ---- Sums of targets: [sum s, sum of s dropped(y), sums of s y, or of s for each class] of each chunk. ---------------

template <typename T>
__global__ void __launch_bounds__(256) target_sums(const Piece* __restrict__ pieces, const int* __restrict__ piece_of,
                                                   int chunk_rows, int width, int classes, int loss,
                                                   double* __restrict__ out) {
  __shared__ double parts[256];
  const Piece piece = pieces[piece_of[blockIdx.x]];
  const i64 start = (blockIdx.x - piece.chunk) * chunk_rows;
  const int rows = piece.rows - start < chunk_rows ? (int)(piece.rows - start) : chunk_rows;
  const T *y = (const T*)piece.y + start * width, *weight = (const T*)piece.weight + start;
  const int outputs = classes ? classes : width;
  for (int j = 0; j < outputs + 2; ++j) {
    double sum = 0;
    for (int i = threadIdx.x; i < rows; i += 256) {
      const double s = piece.weight ? (double)weight[i] : 1.0;
      double value = 1.0;
      if (j == 1) {
        value = 0;
        for (int c = 0; c < width; ++c) {
          const double t = (double)y[(i64)i * width + c];
          if (loss == POISSON) value += t * log(t > 0 ? t : 1.0) - t;
          if (loss == GAMMA) value += -log(t) - 1.0;
        }
      } else if (j > 1) {
        value = classes ? ((double)y[i] == j - 2 ? 1.0 : 0.0) : (double)y[(i64)i * width + j - 2];
      }
      sum += s * value;
    }
    parts[threadIdx.x] = sum;
    __syncthreads();
    for (int half = 128; half; half /= 2) {
      if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
      __syncthreads();
    }
    if (threadIdx.x == 0) out[(i64)blockIdx.x * (outputs + 2) + j] = parts[0];
    __syncthreads();
  }
}

// ---- How large slopes r at a constant z are, and the numbers whose difference they are: sums of s r^2 of each target,
// then of s m^2, of each chunk, m = |r| + |y dr / dy| + |z dr / dz|. Where y is the code of a class both are 1. ---------

template <typename T>
__global__ void __launch_bounds__(256) reference_sums(const Piece* __restrict__ pieces,
                                                      const int* __restrict__ piece_of, int chunk_rows, int width,
                                                      const double* __restrict__ z, int loss, double shape,
                                                      double* __restrict__ out) {
  __shared__ double parts[2][256];
  const Piece piece = pieces[piece_of[blockIdx.x]];
  const i64 start = (blockIdx.x - piece.chunk) * chunk_rows;
  const int rows = piece.rows - start < chunk_rows ? (int)(piece.rows - start) : chunk_rows;
  const T *y = (const T*)piece.y + start * width, *weight = (const T*)piece.weight + start;
  for (int j = 0; j < width; ++j) {
    double slopes = 0, sizes = 0;
    for (int i = threadIdx.x; i < rows; i += 256) {
      const double s = piece.weight ? (double)weight[i] : 1.0;
      double r = 1, m = 1;
      if (loss != SOFTMAX) {
        double value, at_zero, second;
        loss_at<double>(loss, shape, z[j], 0.0, value, at_zero, second);
        loss_at<double>(loss, shape, z[j], (double)y[(i64)i * width + j], value, r, second);
        m = fabs(r) + fabs(r - at_zero) + fabs(z[j]) * second;
      }
      slopes += s * r * r;
      sizes += s * m * m;
    }
    parts[0][threadIdx.x] = slopes;
    parts[1][threadIdx.x] = sizes;
    __syncthreads();
    for (int half = 128; half; half /= 2) {
      if (threadIdx.x < half) {
        parts[0][threadIdx.x] += parts[0][threadIdx.x + half];
        parts[1][threadIdx.x] += parts[1][threadIdx.x + half];
      }
      __syncthreads();
    }
    if (threadIdx.x < 2) out[((i64)blockIdx.x * 2 + threadIdx.x) * width + j] = parts[threadIdx.x][0];
    __syncthreads();
  }
}

// (chunks, width) -> (pieces, all): 32 columns and so many parts of the chunks to a CTA, as `fold_chunks`. Of the columns the
// first goes to the first place, `half` more to those from `first` on, the others to those from `second` on.
extern "C" __global__ void fold_rows(const Piece* __restrict__ pieces, int width, int chunk_rows, int half, int first,
                                     int second, int all, const double* __restrict__ sums,
                                     double* __restrict__ totals) {
  __shared__ double parts[32][33];
  const int j = blockIdx.x * 32 + threadIdx.x;
  const Piece piece = pieces[blockIdx.y];
  const int count = (int)((piece.rows + chunk_rows - 1) / chunk_rows);
  double total = 0;
  if (j < width) {
#pragma unroll 4
    for (int chunk = threadIdx.y; chunk < count; chunk += blockDim.y) total += sums[(piece.chunk + chunk) * width + j];
  }
  parts[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  for (int step = blockDim.y / 2; step; step /= 2) {
    if (threadIdx.y < step) parts[threadIdx.y][threadIdx.x] += parts[threadIdx.y + step][threadIdx.x];
    __syncthreads();
  }
  if (threadIdx.y == 0 && j < width)
    totals[(i64)blockIdx.y * all + (j == 0 ? 0 : j <= half ? first + j - 1 : second + j - 1 - half)] =
        parts[0][threadIdx.x];
}
