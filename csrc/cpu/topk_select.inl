// The k largest of many numbers by halving an interval of thresholds: passes that compare and count, no branches.

DISTILL_INLINE uint32_t order_of(float x) { return uint32_t(key_of(x, 0) >> 32); }
DISTILL_INLINE float value_at(uint32_t order) { return value_of(uint64_t(order) << 32); }

// One bit per lane of a comparison.
DISTILL_INLINE uint32_t lanes_set(Ints mask) {
#if DISTILL_LANES == 16
  return _mm512_movepi32_mask(bits<__m512i>(mask));
#elif DISTILL_LANES == 8
  return uint32_t(_mm256_movemask_ps(bits<__m256>(mask)));
#elif defined(__SSE2__)
  return uint32_t(_mm_movemask_ps(bits<__m128>(mask)));
#else
  uint32_t set = 0;
  for (int i = 0; i < W; ++i) set |= uint32_t(mask[i] != 0) << i;
  return set;
#endif
}

// How many of x[0 .. n) are at least `least`, which is above -inf; n is below 2^31.
template <class T>
static int64_t count_from(const T* x, int64_t n, float least) {
  Ints c[4] = {};
  int64_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W)
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) c[j] += load(x + i + j * W) >= all(least);
  for (; i < n; i += W) c[0] += load_or_fill(x, i, n) >= all(least);
  c[0] += c[1] + (c[2] + c[3]);
  int64_t count = 0;
  for (int j = 0; j < W; ++j) count -= c[0][j];
  return count;
}

// A threshold, and how many entries come with it.
struct Cut {
  float least;
  int64_t count;  // entries to take, at least k
  int64_t equal;  // of them, how many may equal `least`
};

// A cut that takes from k to k + slack of x[0 .. n), which lie between `least` and `most`: all from a threshold on, or of many equal ones as few as needed.
template <class T>
static Cut find_cut(const T* x, int64_t n, int64_t k, int64_t slack, float least, float most) {
  // `low` takes k or more, `high` fewer.
  uint32_t low = order_of(least), high = order_of(most) + 1;
  int64_t count = n, above = 0;
  while (count > k + slack) {
    if (high - low == 1) return {value_at(low), k, k - above};
    const uint32_t middle = low + (high - low) / 2;
    const int64_t found = count_from(x, n, value_at(middle));
    if (found >= k) low = middle, count = found;
    else high = middle, above = found;
  }
  return {value_at(low), count, count};
}

// Takes what a cut says of x[0 .. n), lowest ids first; the id of x[i] is i * step.
template <class T>
static void take(const T* x, int64_t n, int64_t step, Cut cut, uint64_t* keys) {
  int64_t count = 0, equal = cut.equal;
  const auto offer = [&](int64_t i) __attribute__((always_inline)) {
    const float value = read(x + i);
    if (!(value >= cut.least) || (value == cut.least && equal-- <= 0)) return;
    keys[count++] = key_of(value, i * step);
  };
  int64_t i = 0;
  for (; i + W <= n && count < cut.count; i += W) {
    const Lanes v = load(x + i);
    const uint32_t wanted = lanes_set(equal > 0 ? v >= all(cut.least) : v > all(cut.least));
    for (uint32_t set = wanted; set; set &= set - 1) offer(i + __builtin_ctz(set));
  }
  for (; i < n && count < cut.count; ++i) offer(i);
}
