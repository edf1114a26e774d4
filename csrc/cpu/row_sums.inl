// Sums over the unmarked columns of a row, in blocks; mean, largest entry, gather.

constexpr int G = 4 * W;  // columns of a group: four registers

#if DISTILL_LANES == 16
typedef uint64_t Marks;
#elif DISTILL_LANES == 8
typedef uint32_t Marks;
#else
typedef uint16_t Marks;
#endif
static_assert(sizeof(Marks) * 8 == G, "one bit per column of a group");

struct Group { Lanes at[4]; };

DISTILL_INLINE Group group_of(float x) { return {all(x), all(x), all(x), all(x)}; }

DISTILL_INLINE Marks marks_at(const uint8_t* marks, int64_t column) {
  Marks m;
  std::memcpy(&m, marks + column / 8, sizeof m);
  return m;
}

// -inf in the lanes whose bit is set.
DISTILL_INLINE Lanes hidden(Lanes x, uint32_t marks) {
  Words bit;
  for (int i = 0; i < W; ++i) bit[i] = 1u << i;
  return ((Words{} + marks) & bit) != 0u ? all(-INFINITY) : x;
}

template <class T>
DISTILL_INLINE Group load_group(const T* z) { return {load(z), load(z + W), load(z + 2 * W), load(z + 3 * W)}; }

template <class T>
DISTILL_INLINE Group load_group(const T* z, Marks marks) {
  Group g = load_group(z);
  if (__builtin_expect(marks != 0, 0))
    for (int j = 0; j < 4; ++j) g.at[j] = hidden(g.at[j], uint32_t(marks >> (j * W)) & ((1u << W) - 1));
  return g;
}

// The first n < G columns, the others `fill`.
template <class T>
DISTILL_INLINE Group load_group_part(const T* z, int64_t n, float fill) {
  Group g = group_of(fill);
  for (int64_t j = 0; j < 4 && j * W < n; ++j)
    g.at[j] = n - j * W >= W ? load(z + j * W) : load_part(z + j * W, n - j * W, fill);
  return g;
}

template <class T>
DISTILL_INLINE void store_group(T* p, const Group& g, int64_t n) {
  if (n == G) {
    for (int j = 0; j < 4; ++j) store(p + j * W, g.at[j]);
    return;
  }
  for (int64_t j = 0; j < 4 && j * W < n; ++j) {
    if (n - j * W >= W) store(p + j * W, g.at[j]);
    else store_part(p + j * W, n - j * W, g.at[j]);
  }
}

// f(first column, group, columns in it) over a block; marked columns and those behind the end read -inf.
template <class T, class F>
DISTILL_INLINE void each_group(const T* z, int64_t n, const uint8_t* marks, F f) {
  int64_t i = 0;
  for (; i + G <= n; i += G) f(i, load_group(z + i, marks_at(marks, i)), int64_t(G));
  if (i < n) {
    Group g = load_group_part(z + i, n - i, -INFINITY);
    const Marks m = marks_at(marks, i);
    for (int j = 0; j < 4; ++j) g.at[j] = hidden(g.at[j], uint32_t(m >> (j * W)) & ((1u << W) - 1));
    f(i, g, n - i);
  }
}

DISTILL_INLINE float highest(const Group& g) { return highest(larger(larger(g.at[0], g.at[1]), larger(g.at[2], g.at[3]))); }
DISTILL_INLINE float total(const Group& g) { return total((g.at[0] + g.at[1]) + (g.at[2] + g.at[3])); }

template <class T>
DISTILL_INLINE float block_top(const T* z, int64_t n, const uint8_t* marks) {
  Group top = group_of(-INFINITY);
  each_group(z, n, marks, [&](int64_t, const Group& g, int64_t) __attribute__((always_inline)) {
    for (int j = 0; j < 4; ++j) top.at[j] = larger(g.at[j], top.at[j]);
  });
  return highest(top);
}

// Sum of exp(x - reference), where `weighted` also of exp(x - reference) (x - reference).
template <bool weighted, class T>
DISTILL_INLINE void block_sums(const T* z, int64_t n, const uint8_t* marks, float inverse_t, float reference,
                               float* exponentials, float* sum, float* sum_weighted) {
  constexpr int64_t line = 64 / int64_t(sizeof(T));
  Group s = group_of(0.f), w = group_of(0.f);
  each_group(z, n, marks, [&](int64_t i, const Group& g, int64_t count) __attribute__((always_inline)) {
    Group e;
    // The next block comes while this one is computed: `block_top` would wait for it.
    for (int64_t c = 0; c < G; c += line) __builtin_prefetch(z + i + block_columns + c);
    for (int j = 0; j < 4; ++j) {
      const Lanes x = g.at[j] * inverse_t - reference;
      e.at[j] = exponential(x);
      s.at[j] += e.at[j];
      if (weighted) w.at[j] += e.at[j] * larger(all(-88.f), x);
    }
    if (exponentials) store_group(exponentials + i, e, count);
  });
  *sum = total(s);
  *sum_weighted = weighted ? total(w) : 0.f;
}

template <bool weighted, class T>
DISTILL_INLINE void row_sums_any(const T* z, int64_t columns, const uint8_t* marks, float inverse_t,
                                 float* exponentials, float* weights, RowSums* out) {
  double top = -INFINITY, sum = 0, sum_weighted = 0;
  for (int64_t b = 0; b * block_columns < columns; ++b) {
    const int64_t first = b * block_columns;
    const int64_t n = columns - first < block_columns ? columns - first : block_columns;
    const uint8_t* const m = marks + first / 8;
    float reference = block_top(z + first, n, m) * inverse_t, s, w;
    if (reference == -INFINITY) reference = 0;  // nothing possible here, or NaN alone
    float* const e = exponentials ? exponentials + first : nullptr;
    if (e) block_sums<weighted>(z + first, n, m, inverse_t, reference, e, &s, &w);
    else block_sums<weighted>(z + first, n, m, inverse_t, reference, nullptr, &s, &w);
    weights[b] = s == 0 ? -INFINITY : reference;
    if (s == 0) continue;
    if (reference > top) {
      const double shift = top - reference, factor = ::exp(shift);
      sum_weighted = (sum == 0 ? 0 : factor * (sum_weighted + sum * shift)) + w;
      sum = sum * factor + s;
      top = reference;
    } else {
      const double shift = reference - top, factor = ::exp(shift);
      sum_weighted += factor * (w + s * shift);
      sum += s * factor;
    }
  }
  if (exponentials)
    for (int64_t b = 0; b * block_columns < columns; ++b)
      weights[b] = sum == 0 ? 0.f : float(::exp(weights[b] - top) / sum);
  *out = {top, sum, sum_weighted};
}

template <class T>
DISTILL_INLINE void row_mean_any(const T* z, int64_t columns, float* out) {
  double sum = 0;
  for (int64_t first = 0; first < columns; first += block_columns) {
    const int64_t n = columns - first < block_columns ? columns - first : block_columns;
    Group s = group_of(0.f);
    int64_t i = 0;
    for (; i + G <= n; i += G) {
      const Group g = load_group(z + first + i);
      for (int j = 0; j < 4; ++j) s.at[j] += g.at[j];
    }
    if (i < n) {
      const Group g = load_group_part(z + first + i, n - i, 0.f);
      for (int j = 0; j < 4; ++j) s.at[j] += g.at[j];
    }
    sum += total(s);
  }
  *out = float(sum / double(columns));
}

// The lowest column among those with the largest entry; the first NaN counts as the largest, as in torch.argmax.
template <class T>
DISTILL_INLINE void row_top1_any(const T* z, int64_t columns, int64_t* out) {
  float best = -INFINITY;
  int64_t at = 0;
  for (int64_t first = 0; first < columns; first += W) {
    const int64_t n = columns - first < W ? columns - first : W;
    const Lanes x = n == W ? load(z + first) : load_part(z + first, n, -INFINITY);
    const Ints ahead = (x > best) | (x != x);
    int any = 0;
    for (int i = 0; i < W; ++i) any |= ahead[i];
    if (__builtin_expect(any != 0, 0))
      for (int64_t i = 0; i < n; ++i) {
        if (x[i] > best) best = x[i], at = first + i;
        if (x[i] != x[i]) { *out = first + i; return; }
      }
  }
  *out = at;
}

#define DISTILL_DEFINE_ROW_SUMS(T)                                                                                    \
  void row_sums(const T* z, int64_t columns, const uint8_t* marks, float inverse_t, bool weighted, float* exponentials, \
                float* weights, RowSums* out) {                                                                       \
    if (weighted) row_sums_any<true>(z, columns, marks, inverse_t, exponentials, weights, out);                       \
    else row_sums_any<false>(z, columns, marks, inverse_t, exponentials, weights, out);                               \
  }                                                                                                                   \
  void row_mean(const T* z, int64_t columns, float* out) { row_mean_any(z, columns, out); }                           \
  void row_top1(const T* z, int64_t columns, int64_t* out) { row_top1_any(z, columns, out); }                         \
  void gather(const T* z, const int64_t* columns, int64_t n, float* into) {                                           \
    for (int64_t i = 0; i < n; ++i) into[i] = columns[i] < 0 ? -INFINITY : read(z + columns[i]);                      \
  }

DISTILL_DEFINE_ROW_SUMS(float)
DISTILL_DEFINE_ROW_SUMS(bf16)
DISTILL_DEFINE_ROW_SUMS(fp16)
#undef DISTILL_DEFINE_ROW_SUMS
