// The pass over rows on a card: the loss and its gradient from one read of X, for up to K columns of parameters.
//
// Rows lie in pieces (blocks), pieces are cut into chunks of chunk_rows rows. A chunk is the work of one CTA, and leaves
// its sums in memory of its own; `fold_chunks` and `fold_pieces` add them up in an order that is fixed by the numbers
// of chunks and pieces. So the bits depend on the rows, p and the type alone: not on the number of SMs, nor on how many
// pieces a launch has. There are no atomics.
//
// X comes to shared memory by bulk copies, into a ring of stages that are asked for long before they are used (on cards
// before compute capability 9.0 by plain loads). A stage is a range of whole rows, copied from the 16 bytes before its
// first number to those after its last, so that rows of any length, at any address, travel at the full rate. Only a
// range that would reach beyond the memory of its piece comes by plain loads.
//
//   by_warps   a row is the work of L lanes of a warp: each lane has its columns of w and of the gradient in registers
//   by_block   a row is the work of a whole CTA: rows of more columns than a warp's registers hold
//
// T     float or double
// K     columns of parameters, a power of two; the last of them may be empty
// V     numbers that lie side by side in a lane (thread): 16 bytes where rows are a multiple of that, else 1
// A     whether the rows are aligned to 16 bytes, and those V are one load
// C     loads of a lane (thread) and row
// R     rows that L lanes (the CTA) work on side by side
// S     stages of a ring
// CTAS  that share an SM, so that the compiler knows how many registers it has

typedef unsigned long long u64;
typedef unsigned int u32;
typedef long long i64;

struct Piece {
  u64 X, y, weight, fold, curvature;  // addresses; 0 for no weights or folds, no y (which is then 0), no curvature to write
  i64 rows, chunk;                    // its rows, and the number of its first chunk
};

enum Loss { SQUARED, LOGISTIC, POISSON, GAMMA, HUBER, SOFTMAX, OWN };

#define ALL 0xffffffffu
#define DEVICE __device__ __forceinline__

template <typename T>
struct Sixteen {  // bytes
  typedef float4 type;
};
template <>
struct Sixteen<double> {
  typedef double2 type;
};

// V numbers that lie side by side, in one load where they are 16 bytes and aligned.
template <typename T, int V, bool A>
struct Numbers {
  T at[V];
  DEVICE void load(const T* from) {
    if constexpr (A && V * sizeof(T) == 16) {
      *reinterpret_cast<float4*>(at) = *reinterpret_cast<const float4*>(from);
    } else {
#pragma unroll
      for (int v = 0; v < V; ++v) at[v] = from[v];
    }
  }
  // As above, of what is read once.
  DEVICE void stream(const T* from) {
    if constexpr (A && V * sizeof(T) == 16) {
      typedef typename Sixteen<T>::type Bytes;
      *reinterpret_cast<Bytes*>(at) = __ldcs(reinterpret_cast<const Bytes*>(from));
    } else {
#pragma unroll
      for (int v = 0; v < V; ++v) at[v] = from[v];
    }
  }
};
