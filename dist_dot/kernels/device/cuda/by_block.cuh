// ---- A row over a CTA. --------------------------------------------------------------------------------------------

template <typename T, int K, int V, bool A, int C, int R, int S, int WARPS, int CTAS>
__global__ void __launch_bounds__(WARPS * 32, CTAS) by_block(PASS_ARGUMENTS) {
  typedef Shares<K, R, 32> Share;
  constexpr int N = R * K, THREADS = WARPS * 32;
  static_assert(N <= 32, "a lane has one sum");
  constexpr bool KEEP = R * C * V * sizeof(T) <= 96;
  extern __shared__ __align__(128) unsigned char room[];
  __shared__ u64 full[S];
  __shared__ T of_warps[2][WARPS][N];

  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5;
  const u32 row_bytes = p * sizeof(T), stage_bytes = (R * row_bytes + 32 + 127) & ~127u;
  T* beside = reinterpret_cast<T*>(room + (size_t)S * stage_bytes) + warp * S * 3 * 32 + lane;
  if (threadIdx.x == 0)
    for (int s = 0; s < S; ++s) barrier_init(full + s);
  barriers_are_ready();
  __syncthreads();

  T w[K][C * V], g[K][C * V];
#pragma unroll
  for (int c = 0; c < C; ++c)
#pragma unroll
    for (int v = 0; v < V; ++v) {
      const int column = (c * THREADS + threadIdx.x) * V + v;
#pragma unroll
      for (int q = 0; q < K; ++q) w[q][c * V + v] = q < k && column < p ? W[q * (p + 1) + column] : T(0);
    }
  const int index = Share::index(lane, 0), q_of = index % K, row_of = index / K;
  const bool counts = q_of < k && lane % Share::COPIES == 0 && warp == 0;
  const T bias[1] = {q_of < k ? W[q_of * (p + 1) + p] : T(0)};
  const int target_of = q_of < k ? targets[q_of] : 0;
  const T left_out = folds && q_of < k ? folds[q_of] : T(0);
  const T shape = (T)loss_shape;

  int ahead_chunk = blockIdx.x, ahead_first = 0, ahead_rows = 0;
  i64 ahead_start = 0;
  Piece ahead = {};
  auto open_chunk = [&]() {
    if (ahead_chunk >= chunks) return;
    ahead = pieces[piece_of[ahead_chunk]];
    ahead_start = (ahead_chunk - ahead.chunk) * chunk_rows;
    const i64 left = ahead.rows - ahead_start;
    ahead_rows = left < chunk_rows ? (int)left : chunk_rows;
  };
  open_chunk();
  auto ask = [&](int stage) {
    if (ahead_chunk < chunks) {
      const int m = min(R, ahead_rows - ahead_first);
      const i64 first = ahead_start + ahead_first;
      if (threadIdx.x == 0) {
        const Range range(ahead.X, ahead.rows, first, m, row_bytes);
        if (range.whole)
          bulk_copy(room + stage * stage_bytes, range.begin, range.bytes, full + stage);
        else
          nothing_comes(full + stage);
      }
      Columns<T> rows(beside + stage * 3 * 32, 32);
      const T *y = (const T*)ahead.y, *weight = (const T*)ahead.weight, *fold = (const T*)ahead.fold;
      if (row_of < m) {
        const i64 row = first + row_of;
        if (y) copy_one(rows.y, y + row * y_width + target_of);
        if (weight) copy_one(rows.weight, weight + row);
        if (folds) copy_one(rows.fold, fold + row);
      }
      ahead_first += R;
      if (ahead_first >= ahead_rows) {
        ahead_chunk += gridDim.x;
        ahead_first = 0;
        open_chunk();
      }
    }
    end_of_group();
  };
#pragma unroll
  for (int s = 0; s < S; ++s) ask(s);

  int stage = 0, turn = 0, last = -1;
  u32 phase = 0;
  for (int chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
    const Piece piece = pieces[piece_of[chunk]];
    const i64 start = (chunk - piece.chunk) * chunk_rows;
    const int rows = piece.rows - start < chunk_rows ? (int)(piece.rows - start) : chunk_rows;
    double value_sum[1] = {0}, slope_sum[1] = {0};
#pragma unroll
    for (int q = 0; q < K; ++q)
#pragma unroll
      for (int j = 0; j < C * V; ++j) g[q][j] = 0;

    for (int first = 0; first < rows; first += R) {
      const int m = min(R, rows - first);
      const Range range(piece.X, piece.rows, start + first, m, row_bytes);
      barrier_wait(full + stage, phase);
      groups_but<S - 2>();
      T* x = reinterpret_cast<T*>(room + stage * stage_bytes + range.lead);
      const bool written = !range.whole || m < R;
      if (written) {  // each thread reads what it writes itself
        const T* from = (const T*)piece.X + (start + first) * p;
        for (int r = 0; r < R; ++r)
          for (int c = 0; c < C; ++c)
            for (int v = 0; v < V; ++v) {
              const int column = (c * THREADS + threadIdx.x) * V + v;
              if (column < p && (r >= m || !range.whole)) x[r * p + column] = r < m ? from[r * p + column] : T(0);
            }
      }

      T z[N];
      Numbers<T, V, A> kept[KEEP ? R : 1][KEEP ? C : 1];
#pragma unroll
      for (int i = 0; i < N; ++i) z[i] = 0;
#pragma unroll
      for (int c = 0; c < C; ++c) {
        const int column = (c * THREADS + threadIdx.x) * V;
        const bool inside = column < p;
#pragma unroll
        for (int r = 0; r < R; ++r) {
          Numbers<T, V, A> now;
#pragma unroll
          for (int v = 0; v < V; ++v) now.at[v] = 0;
          if (inside) now.load(x + r * p + column);
          if constexpr (KEEP) kept[r][c] = now;
#pragma unroll
          for (int q = 0; q < K; ++q)
#pragma unroll
            for (int v = 0; v < V; ++v) z[r * K + q] += now.at[v] * w[q][c * V + v];
        }
      }
      add_lanes<T, N, 32>(z, lane);
      if (lane % Share::COPIES == 0) of_warps[turn][warp][index] = z[0];
      if (written) before_bulk_copy();
      __syncthreads();
      if (last >= 0) ask(last);  // all threads are done with the stage before
      T sum = of_warps[turn][0][index];
#pragma unroll
      for (int other = 1; other < WARPS; ++other) sum += of_warps[turn][other][index];
      z[0] = sum;

      Columns<T> beside_rows(beside + stage * 3 * 32, 32);
      const bool there[1] = {q_of < k && row_of < m};
      const T y[1] = {row_of < m && piece.y ? beside_rows.y[0] : T(0)};
      T s[1] = {row_of < m && piece.weight ? beside_rows.weight[0] : T(1)};
      if (folds && row_of < m && beside_rows.fold[0] == left_out) s[0] = 0;
      double value_here[1] = {0}, slope_here[1] = {0};
      T curvature[1];
      residuals<T, K, R, 32>(z, lane, bias, there, y, s, loss, shape, k, value_here, slope_here, curvature);
      if (counts && there[0]) {
        value_sum[0] += value_here[0];
        slope_sum[0] += slope_here[0];
        if (K == 1 && piece.curvature) ((T*)piece.curvature)[start + first + row_of] = curvature[0];
      }

#pragma unroll
      for (int r = 0; r < R; ++r) {
        T residual[K];
#pragma unroll
        for (int q = 0; q < K; ++q) residual[q] = __shfl_sync(ALL, z[0], Share::lane_of(r * K + q));
#pragma unroll
        for (int c = 0; c < C; ++c) {
          const int column = (c * THREADS + threadIdx.x) * V;
          Numbers<T, V, A> now;
          if constexpr (KEEP) {
            now = kept[r][c];
          } else {
#pragma unroll
            for (int v = 0; v < V; ++v) now.at[v] = 0;
            if (column < p) now.load(x + r * p + column);
          }
#pragma unroll
          for (int q = 0; q < K; ++q)
#pragma unroll
            for (int v = 0; v < V; ++v) g[q][c * V + v] += residual[q] * now.at[v];
        }
      }
      last = stage;
      turn ^= 1;
      if (++stage == S) {
        stage = 0;
        phase ^= 1;
      }
    }

#pragma unroll
    for (int c = 0; c < C; ++c)
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const int column = (c * THREADS + threadIdx.x) * V + v;
#pragma unroll
        for (int q = 0; q < K; ++q)
          if (q < k && column < p) gradients[((i64)chunk * k + q) * p + column] = g[q][c * V + v];
      }
    if (warp == 0) {
#pragma unroll
      for (int mask = 1; mask < 32; mask *= 2)
        if (!(mask & Share::K_BITS)) {
          value_sum[0] += __shfl_xor_sync(ALL, value_sum[0], mask);
          slope_sum[0] += __shfl_xor_sync(ALL, slope_sum[0], mask);
        }
      if ((lane & ~Share::K_BITS) == 0 && q_of < k) {
        sums[((i64)chunk * k + q_of) * 2] = value_sum[0];
        sums[((i64)chunk * k + q_of) * 2 + 1] = slope_sum[0];
      }
    }
  }
}

