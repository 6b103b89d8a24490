// ---- Copies that go on by themselves. -----------------------------------------------------------------------------

DEVICE u32 shared_address(const void* pointer) { return (u32)__cvta_generic_to_shared(pointer); }

DEVICE void barrier_init(u64* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" ::"r"(shared_address(barrier)) : "memory");
#endif
}

// Asks for the bytes from `source`; the barrier's phase ends when they are there.
DEVICE void bulk_copy(void* target, const void* source, u32 bytes, u64* barrier) {
#if __CUDA_ARCH__ >= 900
  u64 policy;
  asm volatile("createpolicy.fractional.L2::evict_first.b64 %0, 1.0;" : "=l"(policy));
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_address(barrier)), "r"(bytes)
               : "memory");
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
          "r"(shared_address(target)),
      "l"(source), "r"(bytes), "r"(shared_address(barrier)), "l"(policy)
      : "memory");
#endif
}

DEVICE void nothing_comes(u64* barrier) {
#if __CUDA_ARCH__ >= 900
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_address(barrier)) : "memory");
#endif
}

DEVICE void barrier_wait(u64* barrier, u32 phase) {
#if __CUDA_ARCH__ >= 900
  u32 done = 0;
  while (!done) {
    asm volatile(
        "{\n .reg .pred done;\n mbarrier.try_wait.parity.shared::cta.b64 done, [%1], %2;\n selp.u32 %0, 1, 0, done;\n}"
        : "=r"(done)
        : "r"(shared_address(barrier)), "r"(phase)
        : "memory");
  }
#endif
}

// What was written to shared memory by plain stores may be written next by a bulk copy.
DEVICE void before_bulk_copy() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
#endif
}

DEVICE void barriers_are_ready() {
#if __CUDA_ARCH__ >= 900
  asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  before_bulk_copy();
#endif
}

template <typename T>
DEVICE void copy_one(T* target, const T* source) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(shared_address(target)), "l"(source),
               "n"((int)sizeof(T))
               : "memory");
#else
  *target = *source;
#endif
}

DEVICE void end_of_group() {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

template <int LATER>
DEVICE void groups_but(void) {
#if __CUDA_ARCH__ >= 800
  asm volatile("cp.async.wait_group %0;" ::"n"(LATER) : "memory");
#endif
}

// Rows [first, first + rows) of a piece, as bytes: where a bulk copy begins, how long it is, whether it may be.
struct Range {
  const char* begin;
  u32 lead, bytes;
  bool whole;
  DEVICE Range(u64 X, i64 piece_rows, i64 first, int rows, u32 row_bytes) {
    const u64 start = X + first * row_bytes, end = start + (u64)rows * row_bytes;
    lead = start & 15;
    begin = (const char*)(start - lead);
    bytes = (u32)((end - (start - lead) + 15) & ~15ull);
#if __CUDA_ARCH__ >= 900
    whole = start - lead >= X && start - lead + bytes <= X + piece_rows * row_bytes;
#else
    whole = false;
#endif
  }
};

