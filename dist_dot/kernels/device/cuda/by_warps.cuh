// ---- A row over L lanes. ------------------------------------------------------------------------------------------

template <typename T, int K, int V, bool A, int C, int L, int R, int S, int WARPS, int CTAS>
__global__ void __launch_bounds__(WARPS * 32, CTAS) by_warps(PASS_ARGUMENTS) {
  typedef Shares<K, R, L> Share;
  constexpr int G = 32 / L, ROWS = G * R, E = Share::E, PLACES = 32 * E;
  constexpr bool KEEP = K < 4 && R * C * V * sizeof(T) <= 128;  // rows stay in registers between their two uses
  extern __shared__ __align__(128) unsigned char room[];
  __shared__ u64 full[WARPS * S];
  __shared__ double of_columns[2 * K];

  const int lane = threadIdx.x & 31, warp = threadIdx.x >> 5, part = lane % L, group = lane / L;
  const u32 row_bytes = p * sizeof(T), stage_bytes = (ROWS * row_bytes + 32 + 127) & ~127u;
  unsigned char* stages = room + (size_t)warp * S * stage_bytes;
  T* beside = reinterpret_cast<T*>(room + (size_t)WARPS * S * stage_bytes) + warp * S * 3 * PLACES + lane;
  double* total = reinterpret_cast<double*>(
      room + (size_t)WARPS * S * stage_bytes + (size_t)WARPS * S * 3 * PLACES * sizeof(T));  // (K, p)
  u64* barriers = full + warp * S;
  if (lane == 0)
    for (int s = 0; s < S; ++s) barrier_init(barriers + s);
  barriers_are_ready();
  __syncthreads();

  // The columns of w: in registers, or in shared memory, where several need too many of those.
  constexpr bool SHARED_W = K >= 4;
  T* shared_w = reinterpret_cast<T*>(total + ((K * p + 1) & ~1));
  Numbers<T, V, true> w[SHARED_W ? 1 : K][SHARED_W ? 1 : C];
  T g[K][C * V], bias[E];
  if constexpr (SHARED_W) {
    for (int i = threadIdx.x; i < C * K * L * V; i += WARPS * 32) {
      const int column = i / (K * L * V) * L * V + i % (L * V), q = i / (L * V) % K;
      shared_w[i] = q < k && column < p ? W[q * (p + 1) + column] : T(0);
    }
    __syncthreads();
  } else {
#pragma unroll
    for (int c = 0; c < C; ++c)
#pragma unroll
      for (int v = 0; v < V; ++v) {
        const int column = (c * L + part) * V + v;
#pragma unroll
        for (int q = 0; q < K; ++q) w[q][c].at[v] = q < k && column < p ? W[q * (p + 1) + column] : T(0);
      }
  }
  int column_of[E];
  int row_of[E];
  bool counts[E];
  T left_out[E];
  int target_of[E];
#pragma unroll
  for (int e = 0; e < E; ++e) {
    const int index = Share::index(part, e), q = index % K;
    column_of[e] = q;
    row_of[e] = index / K * G + group;
    counts[e] = q < k && part % Share::COPIES == 0;
    bias[e] = q < k ? W[q * (p + 1) + p] : T(0);
    target_of[e] = q < k ? targets[q] : 0;
    left_out[e] = folds && q < k ? folds[q] : T(0);
  }

  // The step that is asked for next: rows [ahead_first, ..) of chunk ahead_chunk.
  int ahead_chunk = blockIdx.x, ahead_first = warp * ROWS, ahead_rows = 0;
  i64 ahead_start = 0;
  Piece ahead = {};
  auto open_chunk = [&]() {
    while (ahead_chunk < chunks) {
      ahead = pieces[piece_of[ahead_chunk]];
      ahead_start = (ahead_chunk - ahead.chunk) * chunk_rows;
      const i64 left = ahead.rows - ahead_start;
      ahead_rows = left < chunk_rows ? (int)left : chunk_rows;
      if (ahead_first < ahead_rows) return;
      ahead_chunk += gridDim.x;
      ahead_first = warp * ROWS;
    }
  };
  open_chunk();
  auto ask = [&](int stage) {
    if (ahead_chunk < chunks) {
      const int m = min(ROWS, ahead_rows - ahead_first);
      const i64 first = ahead_start + ahead_first;
      if (lane == 0) {
        const Range range(ahead.X, ahead.rows, first, m, row_bytes);
        if (range.whole)
          bulk_copy(stages + stage * stage_bytes, range.begin, range.bytes, barriers + stage);
        else
          nothing_comes(barriers + stage);
      }
      Columns<T> rows(beside + stage * 3 * PLACES, PLACES);
      const T *y = (const T*)ahead.y, *weight = (const T*)ahead.weight, *fold = (const T*)ahead.fold;
#pragma unroll
      for (int e = 0; e < E; ++e)
        if (row_of[e] < m) {
          const i64 row = first + row_of[e];
          if (y) copy_one(rows.y + e * 32, y + row * y_width + target_of[e]);
          if (weight) copy_one(rows.weight + e * 32, weight + row);
          if (folds) copy_one(rows.fold + e * 32, fold + row);
        }
      ahead_first += WARPS * ROWS;
      if (ahead_first >= ahead_rows) {
        ahead_chunk += gridDim.x;
        ahead_first = warp * ROWS;
        open_chunk();
      }
    }
    end_of_group();
  };
#pragma unroll
  for (int s = 0; s < S; ++s) ask(s);

  int stage = 0;
  u32 phase = 0;
  const T shape = (T)loss_shape;
  for (int chunk = blockIdx.x; chunk < chunks; chunk += gridDim.x) {
    const Piece piece = pieces[piece_of[chunk]];
    const i64 start = (chunk - piece.chunk) * chunk_rows;
    const int rows = piece.rows - start < chunk_rows ? (int)(piece.rows - start) : chunk_rows;
    double value_sum[E], slope_sum[E];
#pragma unroll
    for (int e = 0; e < E; ++e) value_sum[e] = slope_sum[e] = 0;
#pragma unroll
    for (int q = 0; q < K; ++q)
#pragma unroll
      for (int j = 0; j < C * V; ++j) g[q][j] = 0;

    for (int first = warp * ROWS; first < rows; first += WARPS * ROWS) {
      const int m = min(ROWS, rows - first);
      const Range range(piece.X, piece.rows, start + first, m, row_bytes);
      barrier_wait(barriers + stage, phase);
      groups_but<S - 1>();
      T* x = reinterpret_cast<T*>(stages + stage * stage_bytes + range.lead);
      const bool written = !range.whole || m < ROWS;
      if (!range.whole) {
        const T* from = (const T*)piece.X + (start + first) * p;
        for (int i = lane; i < m * p; i += 32) x[i] = from[i];
      }
      if (m < ROWS)
        for (int i = m * p + lane; i < ROWS * p; i += 32) x[i] = 0;
      if (written) __syncwarp();

      // Products of R rows with K columns. Row r of the lanes' group is row r * G + group of the step.
      T z[R * K];
      Numbers<T, V, A> kept[KEEP ? R : 1][KEEP ? C : 1];
#pragma unroll
      for (int i = 0; i < R * K; ++i) z[i] = 0;
#pragma unroll
      for (int c = 0; c < C; ++c) {
        const int column = (c * L + part) * V;
        const bool inside = c < C - 1 || column < p;
        if constexpr (SHARED_W) {
          Numbers<T, V, A> now[R];
#pragma unroll
          for (int r = 0; r < R; ++r) {
#pragma unroll
            for (int v = 0; v < V; ++v) now[r].at[v] = 0;
            if (inside) now[r].load(x + (r * G + group) * p + column);
          }
#pragma unroll
          for (int q = 0; q < K; ++q) {
            Numbers<T, V, true> of_w;
            of_w.load(shared_w + ((c * K + q) * L + part) * V);
#pragma unroll
            for (int r = 0; r < R; ++r)
#pragma unroll
              for (int v = 0; v < V; ++v) z[r * K + q] += now[r].at[v] * of_w.at[v];
          }
        } else {
#pragma unroll
          for (int r = 0; r < R; ++r) {
            Numbers<T, V, A> now;
#pragma unroll
            for (int v = 0; v < V; ++v) now.at[v] = 0;
            if (inside) now.load(x + (r * G + group) * p + column);
            if constexpr (KEEP) kept[r][c] = now;
#pragma unroll
            for (int q = 0; q < K; ++q)
#pragma unroll
              for (int v = 0; v < V; ++v) z[r * K + q] += now.at[v] * w[q][c].at[v];
          }
        }
      }
      add_lanes<T, R * K, L>(z, lane);

      T y[E], s[E], curvature[E];
      bool valid[E];
      Columns<T> beside_rows(beside + stage * 3 * PLACES, PLACES);
#pragma unroll
      for (int e = 0; e < E; ++e) {
        valid[e] = counts[e] && row_of[e] < m;
        const bool there = row_of[e] < m;
        y[e] = there && piece.y ? beside_rows.y[e * 32] : T(0);
        s[e] = there && piece.weight ? beside_rows.weight[e * 32] : T(1);
        if (folds && there && beside_rows.fold[e * 32] == left_out[e]) s[e] = 0;
      }
      // Every lane that has the sums of a row makes its residual; one of them counts its loss.
      bool there[E];
      double values_here[E], slopes_here[E];
#pragma unroll
      for (int e = 0; e < E; ++e) {
        there[e] = column_of[e] < k && row_of[e] < m;
        values_here[e] = slopes_here[e] = 0;
      }
      residuals<T, K, R, L>(z, part, bias, there, y, s, loss, shape, k, values_here, slopes_here, curvature);
#pragma unroll
      for (int e = 0; e < E; ++e) {
        value_sum[e] += valid[e] ? values_here[e] : 0.0;
        slope_sum[e] += valid[e] ? slopes_here[e] : 0.0;
        if (K == 1 && piece.curvature && valid[e])
          ((T*)piece.curvature)[start + first + row_of[e]] = curvature[e];
      }

#pragma unroll
      for (int r = 0; r < R; ++r) {
        T residual[K];
#pragma unroll
        for (int q = 0; q < K; ++q) {
          const int index = r * K + q;
          residual[q] = __shfl_sync(ALL, z[E > 1 ? index % E : 0], Share::lane_of(index), L);
        }
#pragma unroll
        for (int c = 0; c < C; ++c) {
          const int column = (c * L + part) * V;
          Numbers<T, V, A> now;
          if constexpr (KEEP) {
            now = kept[r][c];
          } else {
#pragma unroll
            for (int v = 0; v < V; ++v) now.at[v] = 0;
            if (c < C - 1 || column < p) now.load(x + (r * G + group) * p + column);
          }
#pragma unroll
          for (int q = 0; q < K; ++q)
#pragma unroll
            for (int v = 0; v < V; ++v) g[q][c * V + v] += residual[q] * now.at[v];
        }
      }
      if (written) before_bulk_copy();
      __syncwarp();
      ask(stage);
      if (++stage == S) {
        stage = 0;
        phase ^= 1;
      }
    }

    // The sums of the chunk: lanes of a warp, then warps, in order, in double.
#pragma unroll
    for (int e = 0; e < E; ++e)
#pragma unroll
      for (int mask = 1; mask < 32; mask *= 2)
        if (!(mask & Share::K_BITS)) {
          value_sum[e] += __shfl_xor_sync(ALL, value_sum[e], mask);
          slope_sum[e] += __shfl_xor_sync(ALL, slope_sum[e], mask);
        }
    for (int turn = 0; turn < WARPS; ++turn) {
      if (warp == turn) {
#pragma unroll
        for (int q = 0; q < K; ++q)
#pragma unroll
          for (int c = 0; c < C; ++c)
#pragma unroll
            for (int v = 0; v < V; ++v) {
              const int column = (c * L + part) * V + v;
              double sum = g[q][c * V + v];
#pragma unroll
              for (int mask = L; mask < 32; mask *= 2) sum += __shfl_xor_sync(ALL, sum, mask);
              if (group == 0 && column < p) total[q * p + column] = turn ? total[q * p + column] + sum : sum;
            }
        if ((lane & ~Share::K_BITS) == 0)
#pragma unroll
          for (int e = 0; e < E; ++e) {
            double* of = of_columns + 2 * column_of[e];
            of[0] = turn ? of[0] + value_sum[e] : value_sum[e];
            of[1] = turn ? of[1] + slope_sum[e] : slope_sum[e];
          }
      }
      __syncthreads();
    }
    for (int i = threadIdx.x; i < k * p; i += WARPS * 32) gradients[(i64)chunk * k * p + i] = (T)total[i];
    for (int i = threadIdx.x; i < 2 * k; i += WARPS * 32) sums[(i64)chunk * 2 * k + i] = of_columns[i];
    __syncthreads();
  }
}

