// Adds up N numbers of each of L lanes, lane by lane: afterwards a lane has those sums whose index begins with the bits
// of its number, N / L of them, or one that L / N lanes share. Each step halves what is left to send.
template <typename T, int N, int L>
DEVICE void add_lanes(T (&a)[N], int lane) {
  int n = N;
#pragma unroll
  for (int m = L / 2; m >= 1; m /= 2) {
    if (n > 1) {
      n /= 2;
      const bool upper = lane & m;
#pragma unroll
      for (int i = 0; i < N / 2; ++i) {
        if (i < n) {
          const T sent = upper ? a[i] : a[i + n], kept = upper ? a[i + n] : a[i];
          a[i] = kept + __shfl_xor_sync(ALL, sent, m);
        }
      }
    } else {
      a[0] += __shfl_xor_sync(ALL, a[0], m);
    }
  }
}

// How the R x K sums of a step are shared out over L lanes, E to each.
template <int K, int R, int L>
struct Shares {
  static constexpr int N = R * K, E = N > L ? N / L : 1, COPIES = N > L ? 1 : L / N;
  static constexpr int K_BITS = N > L ? K / E - 1 : (K - 1) * COPIES;  // of a lane's number, those that say which column
  static_assert(R <= L, "a lane has the sums of one row");
  static DEVICE int index(int part, int e) { return COPIES > 1 ? part / COPIES : part * E + e; }
  static DEVICE int lane_of(int index) { return COPIES > 1 ? index * COPIES : index / E; }
};

// The target, the weight and the fold of a lane's rows, asked for as far ahead as the rows.
template <typename T>
struct Columns {
  T *y, *weight, *fold;
  DEVICE Columns(T* room, int places) : y(room), weight(room + places), fold(room + 2 * places) {}
};

#define PASS_ARGUMENTS                                                                                                \
  const Piece *__restrict__ pieces, const int *__restrict__ piece_of, int chunks, int p, int k, int chunk_rows,       \
      int y_width, const T *__restrict__ W, const int *__restrict__ targets, const T *__restrict__ folds, int loss,   \
      double loss_shape, double *__restrict__ sums, T *__restrict__ gradients

