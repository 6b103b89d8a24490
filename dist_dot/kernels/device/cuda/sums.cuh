// ---- Sums of chunks -> sums of pieces -> nodes of the tree. ---------------------------------------------------------

// (chunks, k, 2) and (chunks, k, p) -> (pieces, columns of all launches): of each point [loss, then of each of its
// `outputs` columns the gradient (p) and the sum of the residuals]. These k columns are those from `column` on of `all`.
// The losses of columns that share a point go to (pieces, all) first. 32 places and so many parts of the chunks to a CTA.
template <typename T>
__global__ void fold_chunks(const Piece* __restrict__ pieces, int p, int k, int chunk_rows, int column, int all, int outputs,
                        const double* __restrict__ sums, const T* __restrict__ gradients, double* __restrict__ losses,
                        double* __restrict__ totals) {
  __shared__ double parts[32][33];
  const int width = k * (p + 2), j = blockIdx.x * 32 + threadIdx.x;
  const Piece piece = pieces[blockIdx.y];
  const int count = (int)((piece.rows + chunk_rows - 1) / chunk_rows);
  const int q = j / (p + 2), i = j % (p + 2);
  double total = 0;
  if (j < width) {
    const bool beside = i == 0 || i == p + 1;
#pragma unroll 4
    for (int chunk = threadIdx.y; chunk < count; chunk += blockDim.y) {
      const i64 at = piece.chunk + chunk;
      total += beside ? sums[(at * k + q) * 2 + (i != 0)] : (double)gradients[(at * k + q) * p + i - 1];
    }
  }
  parts[threadIdx.y][threadIdx.x] = total;
  __syncthreads();
  for (int half = blockDim.y / 2; half; half /= 2) {
    if (threadIdx.y < half) parts[threadIdx.y][threadIdx.x] += parts[threadIdx.y + half][threadIdx.x];
    __syncthreads();
  }
  if (threadIdx.y || j >= width) return;
  total = parts[0][threadIdx.x];
  const int point = (column + q) / outputs, output = (column + q) % outputs, of_point = 1 + outputs * (p + 1);
  double* to = totals + (i64)blockIdx.y * (all / outputs) * of_point + point * of_point;
  if (i == 0) {
    if (outputs == 1)
      to[0] = total;
    else
      losses[(i64)blockIdx.y * all + column + q] = total;
  } else {
    to[output * (p + 1) + i] = total;
  }
}

// The losses of the columns of each point, in order: (pieces, all) -> their places in the totals.
extern "C" __global__ void fold_losses(int p, int all, int outputs, const double* __restrict__ losses, double* __restrict__ totals) {
  const int points = all / outputs, of_point = 1 + outputs * (p + 1);
  for (int point = threadIdx.x; point < points; point += blockDim.x) {
    const double* from = losses + (i64)blockIdx.x * all + point * outputs;
    double total = 0;
    for (int output = 0; output < outputs; ++output) total += from[output];
    totals[((i64)blockIdx.x * points + point) * of_point] = total;
  }
}

// (pieces, width) -> (nodes, width). Node i adds up the pieces [first[i], first[i] + count[i]) as the tree over the
// numbers of blocks does (dist_dot/kernels/tree.py).
extern "C" __global__ void fold_pieces(const double* __restrict__ totals, int width, const int* __restrict__ first,
                                       const int* __restrict__ count, double* __restrict__ nodes) {
  const int j = blockIdx.x * blockDim.x + threadIdx.x;
  if (j >= width) return;
  const double* from = totals + (i64)first[blockIdx.y] * width + j;
  const int n = count[blockIdx.y];
  double waiting[24], next[16];
  int top = 0;
  for (int begin = 0; begin < n; begin += 16) {
#pragma unroll
    for (int i = 0; i < 16; ++i) next[i] = begin + i < n ? from[(i64)(begin + i) * width] : 0;
#pragma unroll
    for (int i = 0; i < 16; ++i)
      if (begin + i < n) {
        double sum = next[i];
        for (int bits = begin + i; bits & 1; bits >>= 1) sum = waiting[--top] + sum;
        waiting[top++] = sum;
      }
  }
  double sum = waiting[--top];
  while (top) sum = waiting[--top] + sum;
  nodes[(i64)blockIdx.y * width + j] = sum;
}
