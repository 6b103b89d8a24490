// ---- Moments: [sum s, sums of s d (p), sums of s d^2 (p)] of each chunk, d = x - centre, in double.
// With K > 0 [sum s, X.T s r of K outputs (K p), sums of s x (p), sums of s x^2 (p)]: r are the slopes at a constant z,
// a + c y, and a - [y is the class] of softmax, with [z, a, c, ..] in lines (outputs, 5). Outputs are those from
// `first` on. --------------------------------------------------------------------------------------------------

template <typename T, int V, bool A, int K>
__global__ void __launch_bounds__(256, K > 1 ? 1 : 3) moments(const Piece* __restrict__ pieces, const int* __restrict__ piece_of, int p,
                                               int chunk_rows, int across, const double* __restrict__ centre, int width,
                                               int first, int outputs, const double* __restrict__ lines, int loss,
                                               double shape, double* __restrict__ out) {
  __shared__ double of_columns[256 * V];
  __shared__ double weights;
  const Piece piece = pieces[piece_of[blockIdx.x]];
  const i64 start = (blockIdx.x - piece.chunk) * chunk_rows;
  const int rows = piece.rows - start < chunk_rows ? (int)(piece.rows - start) : chunk_rows;
  const int group = threadIdx.x / across, groups = 256 / across, place = threadIdx.x % across;
  const int column = (blockIdx.y * across + place) * V;
  const T *X = (const T*)piece.X + start * p + column, *weight = (const T*)piece.weight + start;
  const T* y = (const T*)piece.y + start * width + (width > 1 ? first : 0);
  double sums[K + 2][V], middle[V], sum = 0;
#pragma unroll
  for (int v = 0; v < V; ++v) {
#pragma unroll
    for (int q = 0; q < K + 2; ++q) sums[q][v] = 0;
    middle[v] = K == 0 && column + v < p ? centre[column + v] : 0;
  }
  if (column < p) {
    // The next U rows of a thread, their weights, and the first of their targets are on their way while it adds up those
    // before.
    constexpr int U = V > 1 ? 2 : 4;
    Numbers<T, V, A> ahead[U];
    T weight_ahead[U], y_ahead[U];
    auto ask = [&](int first_row) {
#pragma unroll
      for (int u = 0; u < U; ++u) {
        const int i = first_row + u * groups;
        weight_ahead[u] = y_ahead[u] = 1;
        if (i < rows) {
          ahead[u].stream(X + (i64)i * p);
          if (piece.weight) weight_ahead[u] = weight[i];
          if (K > 0) y_ahead[u] = y[(i64)i * width];
        }
      }
    };
    ask(group);
    for (int first_row = group; first_row < rows; first_row += U * groups) {
      Numbers<T, V, A> now[U];
      T weight_now[U], y_now[U];
#pragma unroll
      for (int u = 0; u < U; ++u) {
        now[u] = ahead[u];
        weight_now[u] = weight_ahead[u];
        y_now[u] = y_ahead[u];
      }
      ask(first_row + U * groups);
#pragma unroll
      for (int u = 0; u < U; ++u) {
        const int i = first_row + u * groups;
        if (i < rows) {
          const double s = (double)weight_now[u];
          sum += s;
#pragma unroll
          for (int q = 0; q < K; ++q) {
            if (q < outputs) {
              const double* line = lines + 5 * (first + q);
              const double t = (double)(q == 0 || width == 1 ? y_now[u] : y[(i64)i * width + q]);
              double r;
              if (loss == SOFTMAX) {
                r = line[1] - (t == first + q ? 1.0 : 0.0);
              } else if (loss == HUBER || loss == OWN) {
                double value, second;
                loss_at<double>(loss, shape, line[0], t, value, r, second);
              } else {
                r = line[1] + line[2] * t;
              }
              r *= s;
#pragma unroll
              for (int v = 0; v < V; ++v) sums[q][v] += r * (double)now[u].at[v];
            }
          }
#pragma unroll
          for (int v = 0; v < V; ++v) {
            const double d = (double)now[u].at[v] - middle[v];
            sums[K][v] += s * d;
            sums[K + 1][v] += s * d * d;
          }
        }
      }
    }
  }
  double* to = out + (i64)blockIdx.x * (1 + (K + 2) * p);
#pragma unroll
  for (int q = 0; q < K + 2; ++q) {
    for (int turn = 0; turn < groups; ++turn) {
      if (turn == group) {
#pragma unroll
        for (int v = 0; v < V; ++v) {
          const int at = place * V + v;
          of_columns[at] = turn ? of_columns[at] + sums[q][v] : sums[q][v];
        }
        if (q == 0 && place == 0) weights = turn ? weights + sum : sum;
      }
      __syncthreads();
    }
    if (group == 0) {
#pragma unroll
      for (int v = 0; v < V; ++v)
        if (column + v < p) to[1 + q * p + column + v] = of_columns[place * V + v];
    }
    __syncthreads();
  }
  if (blockIdx.y == 0 && threadIdx.x == 0) to[0] = weights;
}

// ---- Sums of targets: [sum s, sum of s dropped(y), sums of s y, or of s for each class] of each chunk. ---------------

template <typename T>
__global__ void __launch_bounds__(256) target_sums(const Piece* __restrict__ pieces, const int* __restrict__ piece_of,
                                                   int chunk_rows, int width, int classes, int loss, double,
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

// ---- Slopes r at a constant z, and how large they and the numbers are whose difference they are: of each output the sum
// of s r, then of each target of s r^2, then of s m^2, of each chunk, m = |r| + |y dr / dy| + |z dr / dz|. Where y is the
// code of a class (classes > 0) r and m are 1 in the last two. Of a line r = a + c y, dr / dz = d + e y. -----------------

template <typename T>
__global__ void __launch_bounds__(256) slope_sums(const Piece* __restrict__ pieces, const int* __restrict__ piece_of,
                                                  int chunk_rows, int width, int classes,
                                                  const double* __restrict__ lines, int loss, double shape,
                                                  double* __restrict__ out) {
  __shared__ double parts[3][256];
  const Piece piece = pieces[piece_of[blockIdx.x]];
  const i64 start = (blockIdx.x - piece.chunk) * chunk_rows;
  const int rows = piece.rows - start < chunk_rows ? (int)(piece.rows - start) : chunk_rows;
  const T *y = (const T*)piece.y + start * width, *weight = (const T*)piece.weight + start;
  const int outputs = classes ? classes : width, all = outputs + 2 * width;
  const bool is_line = loss != HUBER && loss != OWN;
  for (int q = 0; q < outputs; ++q) {
    const double z = lines[5 * q], a = lines[5 * q + 1], c = lines[5 * q + 2], d = lines[5 * q + 3], e = lines[5 * q + 4];
    double value, at_zero = 0, curvature;
    if (!is_line) loss_at<double>(loss, shape, z, 0.0, value, at_zero, curvature);
    double sums[3] = {0, 0, 0};
    for (int i = threadIdx.x; i < rows; i += 256) {
      const double s = piece.weight ? (double)weight[i] : 1.0, t = (double)y[(i64)i * width + (classes ? 0 : q)];
      double r, m;
      if (classes) {
        sums[0] += s * (a - (t == q ? 1.0 : 0.0));
        r = m = 1;
      } else {
        if (is_line) {
          r = a + c * t;
          m = fabs(r) + fabs(c * t) + fabs(z) * (d + e * t);
        } else {
          loss_at<double>(loss, shape, z, t, value, r, curvature);
          m = fabs(r) + fabs(r - at_zero) + fabs(z) * curvature;
        }
        sums[0] += s * r;
      }
      sums[1] += s * r * r;
      sums[2] += s * m * m;
    }
    for (int j = 0; j < 3; ++j) parts[j][threadIdx.x] = sums[j];
    __syncthreads();
    for (int half = 128; half; half /= 2) {
      if (threadIdx.x < half)
        for (int j = 0; j < 3; ++j) parts[j][threadIdx.x] += parts[j][threadIdx.x + half];
      __syncthreads();
    }
    if (threadIdx.x == 0) {
      double* to = out + (i64)blockIdx.x * all;
      to[q] = parts[0][0];
      if (q < width) {
        to[outputs + q] = parts[1][0];
        to[outputs + width + q] = parts[2][0];
      }
    }
    __syncthreads();
  }
}

// ---- Losses at constants: of each of `points` constants, z (points, outputs), the sum of s loss(y, z), of each chunk. ---

template <typename T>
__global__ void __launch_bounds__(256) constant_values(const Piece* __restrict__ pieces,
                                                       const int* __restrict__ piece_of, int chunk_rows, int width,
                                                       int classes, const double* __restrict__ z, int points, int loss,
                                                       double shape, double* __restrict__ out) {
  __shared__ double parts[256];
  const Piece piece = pieces[piece_of[blockIdx.x]];
  const i64 start = (blockIdx.x - piece.chunk) * chunk_rows;
  const int rows = piece.rows - start < chunk_rows ? (int)(piece.rows - start) : chunk_rows;
  const T *y = (const T*)piece.y + start * width, *weight = (const T*)piece.weight + start;
  const int outputs = classes ? classes : width;
  for (int point = 0; point < points; ++point) {
    const double* at = z + point * outputs;
    double top = 0, share = 0, sum = 0;
    if (classes) {
      top = at[0];
      for (int c = 1; c < classes; ++c) top = at[c] > top ? at[c] : top;
      for (int c = 0; c < classes; ++c) share += exp(at[c] - top);
    }
    for (int i = threadIdx.x; i < rows; i += 256) {
      double value = 0;
      if (classes) {
        value = log(share) + (top - at[(int)y[i]]);
      } else {
        for (int t = 0; t < width; ++t) {
          double one, slope, second;
          loss_at<double>(loss, shape, at[t], (double)y[(i64)i * width + t], one, slope, second);
          value += one;
        }
      }
      sum += (piece.weight ? (double)weight[i] : 1.0) * value;
    }
    parts[threadIdx.x] = sum;
    __syncthreads();
    for (int half = 128; half; half /= 2) {
      if (threadIdx.x < half) parts[threadIdx.x] += parts[threadIdx.x + half];
      __syncthreads();
    }
    if (threadIdx.x == 0) out[(i64)blockIdx.x * points + point] = parts[0];
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
