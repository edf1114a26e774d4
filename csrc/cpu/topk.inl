// Top-k of a row and the logsumexp of the rest, in one read.
//
// One sweep keeps each block's maximum and, per temperature, its sum of exp relative to a running reference. The k-th
// largest block maximum is a safe threshold: k blocks hold an entry at or above it, so only those k blocks are searched.
// The tail takes the sums of blocks that hold none of the k largest as they are and sums the others again without them,
// all relative to the largest entry of the rest: nothing is subtracted, so tails are exact however small.

// exp of x <= 88, within about 1 ulp; exp(-87) below -87, NaN stays NaN. Shorter than `exponential`: sums relative to
// their largest term do not notice what stands there in the place of 0.
DISTILL_INLINE Lanes exp_of_gap(Lanes x) {
  const float magic = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer
  const Lanes a = larger(all(-87.f), x);
  const Lanes shifted = a * 1.44269504f + magic;
  const Lanes n = shifted - magic;
  const Lanes r = (a - n * 0.693145752f) - n * 1.42860677e-6f;
  Lanes p = r * 1.3888889e-3f + 8.3333333e-3f;
  p = p * r + 4.1666667e-2f;
  p = p * r + 1.6666667e-1f;
  p = p * r + 0.5f;
  p = p * r + 1.f;
  p = p * r + 1.f;
  return bits<Lanes>(bits<Words>(p) + (bits<Words>(shifted) << 23));
}

// `highest` and `total` by halving in registers: the sweep calls them once per block.
typedef float Lanes4 __attribute__((vector_size(16)));
typedef float Lanes8 __attribute__((vector_size(32)));

template <class Op>
DISTILL_INLINE float fold(Lanes4 x, Op op) {
  x = op(x, __builtin_shufflevector(x, x, 2, 3, 0, 1));
  x = op(x, __builtin_shufflevector(x, x, 1, 0, 3, 2));
  return x[0];
}
template <class Op>
DISTILL_INLINE float fold(Lanes8 x, Op op) {
  return fold(op(__builtin_shufflevector(x, x, 0, 1, 2, 3), __builtin_shufflevector(x, x, 4, 5, 6, 7)), op);
}
#if DISTILL_LANES == 16
template <class Op>
DISTILL_INLINE float fold(Lanes x, Op op) {
  return fold(op(__builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7),
                 __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15)), op);
}
#endif
struct Larger {
  template <class V>
  inline __attribute__((always_inline)) V operator()(V a, V b) const { return a > b ? a : b; }
};
struct Plus {
  template <class V>
  inline __attribute__((always_inline)) V operator()(V a, V b) const { return a + b; }
};
DISTILL_INLINE float block_highest(Lanes x) { return fold(x, Larger{}); }
DISTILL_INLINE float block_total(Lanes x) { return fold(x, Plus{}); }

DISTILL_INLINE Ints counting_from(int64_t first) {
  static const int32_t up[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  Ints id;
  std::memcpy(&id, up, sizeof id);
  return id + int32_t(first);
}

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

// W entries from x + i of n; -inf beyond the end.
template <class T>
DISTILL_INLINE Lanes load_or_fill(const T* x, int64_t i, int64_t n) {
  return i + W <= n ? load(x + i) : load_part(x + i, n - i, -std::numeric_limits<float>::infinity());
}

// Maximum of x[0 .. n), NaN ignored, and sum of exp((x - ref) * inv). With `sums` false the second is x - x: NaN where
// an entry is NaN or infinite upwards, else 0.
template <bool sums, bool scaled, class T>
DISTILL_INLINE void sweep_block(const T* x, int64_t n, float ref, float inv, float& most, float& sum) {
  constexpr int64_t ahead = 4096 / int64_t(sizeof(T));
  const Lanes floor = all(-std::numeric_limits<float>::infinity()), lowest = all(-3e38f);
  Lanes m[4] = {floor, floor, floor, floor}, s[4] = {};
  const auto term = [&](Lanes v) __attribute__((always_inline)) {
    if constexpr (!sums) {
      const Lanes finite = larger(lowest, v);  // NaN passes
      return finite - finite;
    } else {
      return exp_of_gap(scaled ? (v - ref) * inv : v - ref);
    }
  };
  int64_t i = 0;
  for (; i + 4 * W <= n; i += 4 * W) {
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) {
      __builtin_prefetch(x + i + j * W + ahead);
      const Lanes v = load(x + i + j * W);
      m[j] = larger(v, m[j]);
      s[j] += term(v);
    }
  }
  for (; i < n; i += W) {
    const Lanes v = load_or_fill(x, i, n);
    m[0] = larger(v, m[0]);
    s[0] += term(v);
  }
  most = block_highest(larger(larger(m[0], m[1]), larger(m[2], m[3])));
  sum = block_total((s[0] + s[1]) + (s[2] + s[3]));
}

template <class T>
DISTILL_INLINE void sweep_at(const T* x, int64_t n, float ref, double t, float& most, float& sum) {
  if (t == 1.0) return sweep_block<true, false>(x, n, ref, 1.f, most, sum);
  sweep_block<true, true>(x, n, ref, float(1 / t), most, sum);
}

// The sweep. False: the row holds NaN or +inf, and the sums are of no use.
template <class T>
static bool sweep_row(const T* z, const TopkTask& task, const TopkScratch& s) {
  double coldest = std::numeric_limits<double>::infinity();
  for (int64_t t = 0; t < task.temperatures; ++t) coldest = task.temperature[t] < coldest ? task.temperature[t] : coldest;
  const float most_ahead = float(40 * coldest);  // exp may be that far above the reference: 256 exp(40) fits easily
  float ref = -1e30f;  // the first block sets it
  double check = 0;
  for (int64_t b = 0; b < task.blocks; ++b) {
    const T* x = z + b * task.block;
    const int64_t n = b + 1 < task.blocks ? task.block : task.length - b * task.block;
    float most, sum, unused;
    if (task.temperatures == 0) {
      sweep_block<false, false>(x, n, 0.f, 1.f, most, sum);
      check += sum;
    } else {
      sweep_at(x, n, ref, task.temperature[0], most, sum);
      if (most - ref > most_ahead) {
        ref = most;
        sweep_at(x, n, ref, task.temperature[0], most, sum);
      }
      s.block_sum[b] = sum;
      check += sum;
      for (int64_t t = 1; t < task.temperatures; ++t)
        sweep_at(x, n, ref, task.temperature[t], unused, s.block_sum[t * task.blocks + b]);
    }
    s.block_ref[b] = ref;
    s.block_max[b] = most;
    ref = most > ref ? most : ref;
  }
  return check == check;
}

// Cuts the candidates back to the k largest and returns the smallest of them.
static uint64_t cut_back(uint64_t* keys, int64_t count, int64_t k) {
  select_largest(keys, count, k);
  uint64_t least = keys[0];
  for (int64_t i = 1; i < k; ++i) least = keys[i] < least ? keys[i] : least;
  return least;
}

// The k largest keys of the row into s.keys, largest first. Every block has its maximum; the row is free of NaN.
template <class T>
static void find_largest(const T* z, const TopkTask& task, const TopkScratch& s) {
  int64_t count = 0;
  if (task.k > task.blocks) {
    for (; count < task.length; ++count) s.keys[count] = key_of(read(z + count), count);
  } else {
    for (int64_t b = 0; b < task.blocks; ++b) s.block_keys[b] = key_of(s.block_max[b], b * task.block);
    select_largest(s.block_keys, task.blocks, task.k);
    sort_descending(s.block_keys, s.spare, task.k);
    // An entry equal to the k-th block maximum in a block that is not searched comes after k better ones.
    uint64_t threshold = s.block_keys[task.k - 1] & ~uint64_t(0xffffffffu);
    for (int64_t j = 0; j < task.k && s.block_keys[j] >= threshold; ++j) {
      const int64_t start = id_of(s.block_keys[j]);
      const int64_t stop = start + task.block < task.length ? start + task.block : task.length;
      const float least = value_of(threshold);
      const auto offer = [&](int64_t id, float value) __attribute__((always_inline)) {
        const uint64_t key = key_of(value, id);
        s.keys[count] = key;
        count += key >= threshold;
      };
      int64_t i = start;
      for (; i + W <= stop; i += W) {
        const Lanes v = load(z + i);
        for (uint32_t set = lanes_set(v >= all(least)); set; set &= set - 1) {
          const int lane = __builtin_ctz(set);
          offer(i + lane, v[lane]);
        }
      }
      for (; i < stop; ++i) offer(i, read(z + i));
      if (count >= 2 * task.k + 64) {
        threshold = cut_back(s.keys, count, task.k);
        count = task.k;
      }
    }
  }
  select_largest(s.keys, count, task.k);
  sort_descending(s.keys, s.spare, task.k);
}

// Which entries of a block are left: those after the k-th in order. Entries beyond the row, -inf, may be among them.
struct Rest {
  float last_value;
  int32_t last_id;
};

DISTILL_INLINE Ints is_left(Rest rest, Lanes v, int64_t first_id) {
  const Ints id = counting_from(first_id);
  return (v < rest.last_value) | ((v == rest.last_value) & (id > rest.last_id));
}

template <class T>
static float highest_left(const T* z, int64_t start, int64_t n, Rest rest) {
  const Lanes none = all(-std::numeric_limits<float>::infinity());
  Lanes m = none;
  for (int64_t i = 0; i < n; i += W) {
    const Lanes v = load_or_fill(z + start, i, n);
    m = larger(is_left(rest, v, start + i) ? v : none, m);
  }
  return block_highest(m);
}

template <class T>
static float sum_left(const T* z, int64_t start, int64_t n, Rest rest, float ref, float inv) {
  Lanes s = {};
  for (int64_t i = 0; i < n; i += W) {
    const Lanes v = load_or_fill(z + start, i, n);
    s += is_left(rest, v, start + i) ? exp_of_gap((v - ref) * inv) : Lanes{};
  }
  return block_total(s);
}

// Marks the blocks of the k largest (s.keys) and returns the largest entry of the rest, -inf if there is none.
template <class T>
static float mark_and_find_rest(const T* z, const TopkTask& task, const TopkScratch& s, Rest& rest) {
  std::memset(s.holds, 0, task.blocks);
  for (int64_t i = 0; i < task.k; ++i) s.holds[id_of(s.keys[i]) / task.block] = 1;
  rest = {std::numeric_limits<float>::infinity(), -1};
  if (task.k) rest = {value_of(s.keys[task.k - 1]), int32_t(id_of(s.keys[task.k - 1]))};
  float highest_rest = -std::numeric_limits<float>::infinity();
  for (int64_t b = 0; b < task.blocks; ++b) {
    float own = s.block_max[b];
    if (s.holds[b]) {
      const int64_t start = b * task.block, room = task.length - start;
      own = highest_left(z, start, room < task.block ? room : task.block, rest);
    }
    highest_rest = own > highest_rest ? own : highest_rest;
  }
  return highest_rest;
}

// logsumexp of (z / t) over the rest, whose largest entry is `top`.
template <class T>
static float tail_of(const T* z, const TopkTask& task, const TopkScratch& s, int64_t t, Rest rest, float top) {
  if (top == -std::numeric_limits<float>::infinity()) return top;
  const double temperature = task.temperature[t];
  const float inv = float(1 / temperature);
  double sum = 0, factor = 1;
  float factor_of = top;
  for (int64_t b = 0; b < task.blocks; ++b) {
    const int64_t start = b * task.block, room = task.length - start;
    const int64_t n = room < task.block ? room : task.block;
    if (s.holds[b]) {
      sum += sum_left(z, start, n, rest, top, inv);
      continue;
    }
    // Sums relative to something far above the rest have lost it; what lies far below its largest entry is nothing.
    const double above = (double(s.block_ref[b]) - top) / temperature;
    if (above > 40) {
      if ((double(s.block_max[b]) - top) / temperature > -80) sum += sum_left(z, start, n, rest, top, inv);
      continue;
    }
    if (s.block_ref[b] != factor_of) {
      factor_of = s.block_ref[b];
      factor = std::exp(above);
    }
    sum += factor * s.block_sum[t * task.blocks + b];
  }
  return float(double(top) / temperature + std::log(sum));
}

// A row with NaN or +inf: NaN sorts above everything, and a tail that holds one is NaN, one that holds +inf is +inf.
template <class T>
static void strange_row(const T* z, const TopkTask& task, const TopkScratch& s, float* tails) {
  for (int64_t i = 0; i < task.length; ++i) s.keys[i] = key_of(read(z + i), i);
  select_largest(s.keys, task.length, task.k);
  sort_descending(s.keys, s.spare, task.k);
  const uint64_t last = task.k ? s.keys[task.k - 1] : ~uint64_t(0);
  for (int64_t t = 0; t < task.temperatures; ++t) {
    double sum = 0, top = -std::numeric_limits<double>::infinity();
    bool nan = false;
    for (int64_t i = 0; i < task.length; ++i) {
      const double x = read(z + i);
      if (task.k && key_of(float(x), i) >= last) continue;
      nan |= x != x;
      top = x > top ? x : top;
    }
    const bool finite = top - top == 0;
    for (int64_t i = 0; i < task.length && finite && !nan; ++i)
      if (!task.k || key_of(read(z + i), i) < last) sum += std::exp((read(z + i) - top) / task.temperature[t]);
    const double tail = finite ? top / task.temperature[t] + std::log(sum) : top;
    tails[t] = nan ? std::numeric_limits<float>::quiet_NaN() : float(tail);
  }
}

template <class T>
DISTILL_INLINE void topk_any(const T* z, const TopkTask& task, const TopkScratch& s, int64_t* ids, float* values,
                             float* tails) {
  if (sweep_row(z, task, s)) {
    if (task.k) find_largest(z, task, s);
    Rest rest;
    const float top = mark_and_find_rest(z, task, s, rest);
    for (int64_t t = 0; t < task.temperatures; ++t) tails[t] = tail_of(z, task, s, t, rest, top);
  } else {
    strange_row(z, task, s, tails);
  }
  for (int64_t i = 0; i < task.k; ++i) {
    ids[i] = id_of(s.keys[i]);
    values[i] = read(z + ids[i]);
  }
}

#define DISTILL_TOPK_ROW(T)                                                                                      \
  void topk_row(const T* z, const TopkTask& task, const TopkScratch& s, int64_t* ids, float* values, float* tails) { \
    topk_any(z, task, s, ids, values, tails);                                                                    \
  }
DISTILL_TOPK_ROW(float)
DISTILL_TOPK_ROW(bf16)
DISTILL_TOPK_ROW(fp16)
#undef DISTILL_TOPK_ROW
