// One register of fp32 numbers: W lanes. Loads and stores convert from and to bf16 and fp16, rounding to nearest even.
//
// DISTILL_LANES comes from the including file: g++ before 13 reads the whole file before it obeys a target pragma, so
// __AVX2__ and __AVX512F__ are not defined here.
constexpr int W = DISTILL_LANES;

#define DISTILL_INLINE static inline __attribute__((always_inline))

typedef float Lanes __attribute__((vector_size(W * 4)));
typedef int32_t Ints __attribute__((vector_size(W * 4)));
typedef uint32_t Words __attribute__((vector_size(W * 4)));
typedef uint16_t Halves __attribute__((vector_size(W * 2)));

DISTILL_INLINE Lanes all(float x) { return x - Lanes{}; }
DISTILL_INLINE Lanes larger(Lanes a, Lanes b) { return a > b ? a : b; }   // b where a is NaN
DISTILL_INLINE Lanes smaller(Lanes a, Lanes b) { return a < b ? a : b; }  // b where a is NaN

template <class To, class From>
DISTILL_INLINE To bits(From x) {
  static_assert(sizeof(To) == sizeof(From), "same size");
  To y;
  std::memcpy(&y, &x, sizeof y);
  return y;
}

DISTILL_INLINE Halves load_halves(const void* p) {
  Halves h;
  std::memcpy(&h, p, sizeof h);
  return h;
}

DISTILL_INLINE Lanes load(const float* p) {
  Lanes x;
  std::memcpy(&x, p, sizeof x);
  return x;
}

DISTILL_INLINE Lanes load(const bf16* p) { return bits<Lanes>(__builtin_convertvector(load_halves(p), Words) << 16); }

DISTILL_INLINE Lanes load(const fp16* p) {
#if DISTILL_LANES == 16
  return bits<Lanes>(_mm512_cvtph_ps(bits<__m256i>(load_halves(p))));
#elif DISTILL_LANES == 8
  return bits<Lanes>(_mm256_cvtph_ps(bits<__m128i>(load_halves(p))));
#else
  const Words h = __builtin_convertvector(load_halves(p), Words);
  const Lanes scaled = bits<Lanes>((h & 0x7fffu) << 13) * 0x1p112f;  // exact, subnormals too
  const Words special = (h & 0x7c00u) == 0x7c00u ? Words{} + 0x7f800000u : Words{};
  return bits<Lanes>(bits<Words>(scaled) | special | ((h & 0x8000u) << 16));
#endif
}

DISTILL_INLINE void store(float* p, Lanes x) { std::memcpy(p, &x, sizeof x); }

DISTILL_INLINE void store(bf16* p, Lanes x) {
  const Words u = bits<Words>(x);
  const Words rounded = (u + (0x7fffu + ((u >> 16) & 1u))) >> 16;
  const Halves h = __builtin_convertvector(x != x ? Words{} + 0x7fc0u : rounded, Halves);
  std::memcpy(p, &h, sizeof h);
}

DISTILL_INLINE void store(fp16* p, Lanes x) {
#if DISTILL_LANES == 16
  const auto h = _mm512_cvtps_ph(bits<__m512>(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif DISTILL_LANES == 8
  const auto h = _mm256_cvtps_ph(bits<__m256>(x), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
  const Words u = bits<Words>(x), magnitude = u & 0x7fffffffu, sign = (u >> 16) & 0x8000u;
  // Below 2^-14 the sum with 0.5 puts the subnormal's bits at the end of the significand.
  const Words subnormal = bits<Words>(bits<Lanes>(magnitude) + 0.5f) - 0x3f000000u;
  const Words normal = (magnitude - 0x38000000u + 0xfffu + ((magnitude >> 13) & 1u)) >> 13;
  Words r = magnitude < 0x38800000u ? subnormal : normal;
  r = magnitude >= 0x477ff000u ? Words{} + 0x7c00u : r;
  r = magnitude > 0x7f800000u ? Words{} + 0x7e00u : r;
  const Halves h = __builtin_convertvector(r | sign, Halves);
#endif
  std::memcpy(p, &h, sizeof h);
}

// The first n < W elements, the other lanes `fill`; and their store. For the ends of rows.
template <class T>
DISTILL_INLINE Lanes load_part(const T* p, int64_t n, float fill) {
  T buffer[W] = {};
  float wide[W];
  std::memcpy(buffer, p, n * sizeof(T));
  store(wide, load(buffer));
  for (int64_t i = n; i < W; ++i) wide[i] = fill;
  return load(wide);
}

template <class T>
DISTILL_INLINE void store_part(T* p, int64_t n, Lanes x) {
  T buffer[W];
  store(buffer, x);
  std::memcpy(p, buffer, n * sizeof(T));
}

// One element.
DISTILL_INLINE float read(const float* p) { return *p; }
DISTILL_INLINE float read(const bf16* p) { return bits<float>(uint32_t(p->bits) << 16); }
DISTILL_INLINE float read(const fp16* p) { return load_part(p, 1, 0.f)[0]; }
DISTILL_INLINE void write(float* p, float x) { *p = x; }
template <class T>
DISTILL_INLINE void write(T* p, float x) { store_part(p, 1, all(x)); }

// exp, within about 1 ulp; 0 below -87.33 (no subnormals), capped at exp(88.37), NaN stays NaN.
DISTILL_INLINE Lanes exponential(Lanes x) {
  const float magic = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer
  const Lanes a = smaller(larger(x, all(-87.33654f)), all(88.37f));
  const Lanes shifted = a * 1.44269504f + magic;
  const Lanes n = shifted - magic;
  const Lanes r = (a - n * 0.693145752f) - n * 1.42860677e-6f;  // n * (first constant) is exact
  Lanes p = r * 1.3888889e-3f + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * (r * r) + r;
  const Lanes y = bits<Lanes>(bits<Words>(p + 1.f) + (bits<Words>(shifted) << 23));
  return x < -87.33654f ? Lanes{} : (x != x ? x : y);
}

// Over the lanes, in a fixed order.
DISTILL_INLINE float highest(Lanes x) {
  float v[W], m;
  store(v, x);
  m = v[0];
  for (int i = 1; i < W; ++i) m = v[i] > m ? v[i] : m;
  return m;
}

DISTILL_INLINE float total(Lanes x) {
  float v[W];
  store(v, x);
  for (int half = W / 2; half; half /= 2)
    for (int i = 0; i < half; ++i) v[i] += v[i + half];
  return v[0];
}
