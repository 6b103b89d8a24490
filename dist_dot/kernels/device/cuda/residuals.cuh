// From the sums z of a lane's share to the residuals, in place; adds to the lane's sums of losses and residuals.
template <typename T, int K, int R, int L>
DEVICE void residuals(T (&z)[R * K], int part, const T (&bias)[Shares<K, R, L>::E], const bool (&valid)[Shares<K, R, L>::E],
                      const T (&y)[Shares<K, R, L>::E], const T (&s)[Shares<K, R, L>::E], int loss, T shape, int k,
                      double (&value_sum)[Shares<K, R, L>::E], double (&slope_sum)[Shares<K, R, L>::E],
                      T (&curvature)[Shares<K, R, L>::E]) {
  typedef Shares<K, R, L> S_;
  constexpr int E = S_::E;
  if (K > 1 && loss == SOFTMAX) {
    T top = T(-1e30);
#pragma unroll
    for (int e = 0; e < E; ++e) {
      z[e] += bias[e];
      const bool there = S_::index(part, e) % K < k;
      top = there && z[e] > top ? z[e] : top;
    }
#pragma unroll
    for (int m = 1; m < L; m *= 2)
      if (m & S_::K_BITS) {
        const T other = __shfl_xor_sync(ALL, top, m);
        top = other > top ? other : top;
      }
    T total = 0, chosen = 0, e_[E];
#pragma unroll
    for (int e = 0; e < E; ++e) {
      const int c = S_::index(part, e) % K;
      e_[e] = c < k ? exp(z[e] - top) : T(0);
      total += e_[e];
      chosen += T(c) == y[e] ? z[e] : T(0);
    }
#pragma unroll
    for (int m = 1; m < L; m *= 2)
      if (m & S_::K_BITS) {
        total += __shfl_xor_sync(ALL, total, m);
        chosen += __shfl_xor_sync(ALL, chosen, m);
      }
    const T value = log(total) + (top - chosen);
#pragma unroll
    for (int e = 0; e < E; ++e) {
      const int c = S_::index(part, e) % K;
      const T slope = e_[e] / total - (T(c) == y[e] ? T(1) : T(0));
      z[e] = valid[e] ? s[e] * slope : T(0);
      slope_sum[e] += (double)z[e];
      if (valid[e] && c == 0) value_sum[e] += (double)(s[e] * value);
    }
    return;
  }
#pragma unroll
  for (int e = 0; e < E; ++e) {
    T value, slope, second;
    loss_at<T>(loss, shape, z[e] + bias[e], y[e], value, slope, second);
    z[e] = valid[e] ? s[e] * slope : T(0);
    curvature[e] = s[e] * second;
    slope_sum[e] += (double)z[e];
    if (valid[e]) value_sum[e] += (double)(s[e] * value);
  }
}

