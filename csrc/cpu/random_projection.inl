// Random projection: rows of features against sign bits, sums in registers over at most 512 features, then in double.

namespace projection {

constexpr uint64_t GOLDEN = 0x9E3779B97F4A7C15u;
constexpr int COLUMNS = 64 * PROJECTED_WORDS;

DISTILL_INLINE uint64_t mix(uint64_t x) {  // SplitMix64's finaliser
  x = (x ^ (x >> 30)) * 0xBF58476D1CE4E5B9u;
  x = (x ^ (x >> 27)) * 0x94D049BB133111EBu;
  return x ^ (x >> 31);
}

// +1 or -1 per lane, by the W low bits; a product with it is exact, so a fused and a plain multiply-add agree.
DISTILL_INLINE Lanes sign(uint64_t low_bits) {
#if DISTILL_LANES == 16
  return bits<Lanes>(_mm512_mask_blend_ps(__mmask16(low_bits), _mm512_set1_ps(1.f), _mm512_set1_ps(-1.f)));
#else
  Words lane;
  for (int i = 0; i < W; ++i) lane[i] = 1u << i;
  const Words chosen = (Words{} + uint32_t(low_bits)) & lane;
  return bits<Lanes>((bits<Words>(chosen == lane) & 0x80000000u) | 0x3f800000u);
#endif
}

// R rows and V registers of columns from column `from` on.
template <int R, int V>
DISTILL_INLINE void tile(const float* x, const uint64_t* words, int64_t features, int from, double* sums) {
  Lanes sum[R][V] = {};
  const uint64_t* word = words + from / 64;
  const int shift = from % 64;
  for (int64_t f = 0; f < features; ++f, word += PROJECTED_WORDS) {
    Lanes signs[V];
#pragma GCC unroll 8
    for (int v = 0; v < V; ++v) signs[v] = sign(word[(shift + v * W) / 64] >> ((shift + v * W) % 64));
#pragma GCC unroll 8
    for (int r = 0; r < R; ++r) {
      const Lanes value = all(x[r * PROJECTED_FEATURES + f]);
#pragma GCC unroll 8
      for (int v = 0; v < V; ++v) sum[r][v] += value * signs[v];
    }
  }
  for (int r = 0; r < R; ++r)
    for (int v = 0; v < V; ++v) {
      float lanes[W];
      store(lanes, sum[r][v]);
      for (int i = 0; i < W; ++i) sums[r * COLUMNS + from + v * W + i] += lanes[i];
    }
}

template <int R, int V>
DISTILL_INLINE void columns(const float* x, const uint64_t* words, int64_t features, double* sums) {
  for (int from = 0; from < COLUMNS; from += V * W) tile<R, V>(x, words, features, from, sums);
}

}  // namespace projection

void projection_signs(uint64_t state, uint64_t first, int64_t features, int64_t word, uint64_t* words) {
  for (int64_t f = 0; f < features; ++f) {
    const uint64_t own = projection::mix(state + (first + f) * projection::GOLDEN);
    for (int w = 0; w < PROJECTED_WORDS; ++w)
      words[f * PROJECTED_WORDS + w] = projection::mix(own + uint64_t(word + w + 1) * projection::GOLDEN);
  }
}

void projection_sums(const float* x, int64_t rows, const uint64_t* words, int64_t features, double* sums) {
  constexpr int narrow = DISTILL_LANES == 16 ? 4 : 2;  // accumulators and signs of four rows fit the registers
  constexpr int64_t step = PROJECTED_FEATURES, out = projection::COLUMNS;
  int64_t r = 0;
  for (; r + 4 <= rows; r += 4) projection::columns<4, narrow>(x + r * step, words, features, sums + r * out);
  for (; r < rows; ++r) projection::columns<1, 8>(x + r * step, words, features, sums + r * out);
}
