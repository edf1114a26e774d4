// Gradient matching, one row of n elements: sums in fp32 lanes per block of 2048, blocks in double, in fixed order.

namespace matching {

constexpr int64_t BLOCK = 2048;

typedef double Doubles __attribute__((vector_size(W * 8)));

DISTILL_INLINE double total(Doubles x) {
  double v[W];
  std::memcpy(v, &x, sizeof x);
  for (int half = W / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) v[i] += v[i + half];
  return v[0];
}

DISTILL_INLINE Lanes magnitude(Lanes x) { return bits<Lanes>(bits<Words>(x) & 0x7fffffffu); }

// Squares leave fp32 above 1e19 and below 1e-19: such rows are summed in double, where they cannot.
DISTILL_INLINE bool safe(double square) { return square > 1e-24 && square < 1e34; }

template <class T>
DISTILL_INLINE void moments_in_double(const T* a, const T* b, int64_t n, double* out) {
  Doubles ab{}, aa{}, bb{};
  for (int64_t i = 0; i < n; i += W) {
    const bool whole = i + W <= n;
    const Doubles x = __builtin_convertvector(whole ? load(a + i) : load_part(a + i, n - i, 0.f), Doubles);
    const Doubles y = __builtin_convertvector(whole ? load(b + i) : load_part(b + i, n - i, 0.f), Doubles);
    ab += x * y;
    aa += x * x;
    bb += y * y;
  }
  out[0] = total(ab);
  out[1] = total(aa);
  out[2] = total(bb);
}

template <class T>
DISTILL_INLINE void moments(const T* a, const T* b, int64_t n, double* out) {
  double ab = 0, aa = 0, bb = 0;
  for (int64_t start = 0; start < n; start += BLOCK) {
    const int64_t end = n - start < BLOCK ? n : start + BLOCK;
    Lanes ab0{}, ab1{}, aa0{}, aa1{}, bb0{}, bb1{};
    int64_t i = start;
    for (; i + 2 * W <= end; i += 2 * W) {
      const Lanes x0 = load(a + i), y0 = load(b + i), x1 = load(a + i + W), y1 = load(b + i + W);
      ab0 += x0 * y0;
      aa0 += x0 * x0;
      bb0 += y0 * y0;
      ab1 += x1 * y1;
      aa1 += x1 * x1;
      bb1 += y1 * y1;
    }
    for (; i < end; i += W) {
      const int64_t left = end - i;
      const Lanes x = left >= W ? load(a + i) : load_part(a + i, left, 0.f);
      const Lanes y = left >= W ? load(b + i) : load_part(b + i, left, 0.f);
      ab0 += x * y;
      aa0 += x * x;
      bb0 += y * y;
    }
    ab += distill::DISTILL_ISA::total(ab0 + ab1);
    aa += distill::DISTILL_ISA::total(aa0 + aa1);
    bb += distill::DISTILL_ISA::total(bb0 + bb1);
  }
  out[0] = ab;
  out[1] = aa;
  out[2] = bb;
  if (!safe(aa) || !safe(bb)) moments_in_double(a, b, n, out);
}

template <class T>
DISTILL_INLINE void difference(const T* a, const T* b, int64_t n, float absolute, double* out) {
  double squares = 0, magnitudes = 0;
  for (int64_t start = 0; start < n; start += BLOCK) {
    const int64_t end = n - start < BLOCK ? n : start + BLOCK;
    Lanes square{}, size{};
    for (int64_t i = start; i < end; i += W) {
      const int64_t left = end - i;
      const Lanes d = left >= W ? load(a + i) - load(b + i) : load_part(a + i, left, 0.f) - load_part(b + i, left, 0.f);
      square += d * d;
      size += magnitude(d);
    }
    squares += distill::DISTILL_ISA::total(square);
    magnitudes += distill::DISTILL_ISA::total(size);
  }
  out[0] = squares + (absolute != 0 ? absolute * magnitudes : 0);
}

// Coefficients beyond fp32, for norms beyond fp32's squares, are applied in double.
DISTILL_INLINE bool in_float(double c) { return c == 0 || (c > 1e-30 && c < 1e30) || (c < -1e-30 && c > -1e30); }

// A store past the caches, for outputs larger than they are: the line is not read first. `p` is a whole register's
// multiple; the caller fences.
DISTILL_INLINE void stream(float* p, Lanes x) {
#if DISTILL_LANES == 16
  _mm512_stream_ps(p, bits<__m512>(x));
#elif DISTILL_LANES == 8
  _mm256_stream_ps(p, bits<__m256>(x));
#else
  store(p, x);
#endif
}

template <class T>
DISTILL_INLINE void combine(const T* a, const T* b, T* g, int64_t n, double alpha, double beta, bool past_cache) {
  int64_t i = 0;
  if (!in_float(alpha) || !in_float(beta)) {
    for (; i < n; ++i) write(g + i, float(alpha * read(b + i) + beta * read(a + i)));
    return;
  }
  const Lanes to_b = all(float(alpha)), to_a = all(float(beta));
  if constexpr (sizeof(T) == 4) {
    if (past_cache && reinterpret_cast<uintptr_t>(g) % sizeof(Lanes) == 0)
      for (; i + W <= n; i += W) stream(g + i, to_b * load(b + i) + to_a * load(a + i));
  }
  for (; i + W <= n; i += W) store(g + i, to_b * load(b + i) + to_a * load(a + i));
  if (i < n) store_part(g + i, n - i, to_b * load_part(b + i, n - i, 0.f) + to_a * load_part(a + i, n - i, 0.f));
}

template <class T>
DISTILL_INLINE void slope(const T* a, const T* b, T* g, int64_t n, double scale, float absolute) {
  const Lanes twice = all(float(2 * scale)), step = all(float(scale * absolute));
  for (int64_t i = 0; i < n; i += W) {
    const int64_t left = n - i;
    const Lanes d = left >= W ? load(a + i) - load(b + i) : load_part(a + i, left, 0.f) - load_part(b + i, left, 0.f);
    const Lanes sign = d > 0.f ? step : (d < 0.f ? -step : Lanes{});
    const Lanes value = twice * d + sign;
    if (left >= W) store(g + i, value);
    else store_part(g + i, left, value);
  }
}

}  // namespace matching

void match_moments(const float* a, const float* b, int64_t n, double* out) { matching::moments(a, b, n, out); }
void match_difference(const float* a, const float* b, int64_t n, float absolute, double* out) {
  matching::difference(a, b, n, absolute, out);
}
void match_combine(const float* a, const float* b, float* g, int64_t n, double alpha, double beta, bool past_cache) {
  matching::combine(a, b, g, n, alpha, beta, past_cache);
}
void match_slope(const float* a, const float* b, float* g, int64_t n, double scale, float absolute) {
  matching::slope(a, b, g, n, scale, absolute);
}
void match_moments(const bf16* a, const bf16* b, int64_t n, double* out) { matching::moments(a, b, n, out); }
void match_difference(const bf16* a, const bf16* b, int64_t n, float absolute, double* out) {
  matching::difference(a, b, n, absolute, out);
}
void match_combine(const bf16* a, const bf16* b, bf16* g, int64_t n, double alpha, double beta, bool past_cache) {
  matching::combine(a, b, g, n, alpha, beta, past_cache);
}
void match_slope(const bf16* a, const bf16* b, bf16* g, int64_t n, double scale, float absolute) {
  matching::slope(a, b, g, n, scale, absolute);
}
void match_moments(const fp16* a, const fp16* b, int64_t n, double* out) { matching::moments(a, b, n, out); }
void match_difference(const fp16* a, const fp16* b, int64_t n, float absolute, double* out) {
  matching::difference(a, b, n, absolute, out);
}
void match_combine(const fp16* a, const fp16* b, fp16* g, int64_t n, double alpha, double beta, bool past_cache) {
  matching::combine(a, b, g, n, alpha, beta, past_cache);
}
void match_slope(const fp16* a, const fp16* b, fp16* g, int64_t n, double scale, float absolute) {
  matching::slope(a, b, g, n, scale, absolute);
}
