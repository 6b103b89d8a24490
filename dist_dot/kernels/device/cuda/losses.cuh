// ---- Losses: value, first and second derivative in z. -------------------------------------------------------------

#ifndef OWN_LOSS
#define OWN_LOSS value = slope = second = 0
#endif

template <typename T>
DEVICE void loss_at(int loss, T shape, T z, T y, T& value, T& slope, T& second) {
  const T top = sizeof(T) == 4 ? T(80) : T(300);
  switch (loss) {
    case SQUARED: {
      slope = z - y;
      value = T(0.5) * slope * slope;
      second = T(1);
      break;
    }
    case LOGISTIC: {
      const T u = exp(-fabs(z)), one = T(1) / (T(1) + u);
      value = (z > T(0) ? z : T(0)) - y * z + log1p(u);
      slope = (z >= T(0) ? one : u * one) - y;
      second = u * one * one;
      break;
    }
    case POISSON: {
      const T inside = z > top ? top : z, e = exp(inside);
      value = e * (T(1) + (z - inside)) - y * z;
      slope = e - y;
      second = z > top ? T(0) : e;
      break;
    }
    case GAMMA: {
      const T inside = -z > top ? -top : z, scaled = y * exp(-inside);
      value = z + scaled * (T(1) - (z - inside));
      slope = T(1) - scaled;
      second = -z > top ? T(0) : scaled;
      break;
    }
    case HUBER: {
      const T r = z - y;
      slope = r > shape ? shape : r < -shape ? -shape : r;
      value = slope * (r - T(0.5) * slope);
      second = fabs(r) <= shape ? T(1) : T(0);
      break;
    }
    default: {
      OWN_LOSS;
    }
  }
}
