// The first half of `topk_row`: each block's maximum and, per temperature, its sum of exp relative to a running reference.

// exp of x <= 88, within about 2 ulp; exp(-87) below -87, NaN stays NaN. Shorter than `exponential`: sums relative to
// their largest term do not notice what stands there in the place of 0.
DISTILL_INLINE Lanes exp_of_gap(Lanes x) {
  const float magic = 12582912.f;  // 1.5 * 2^23: adding it rounds to an integer
  const Lanes a = larger(all(-87.f), x);
  const Lanes shifted = a * 1.44269504f + magic;
  const Lanes n = shifted - magic;
  // Without fused products ln 2 comes in two parts, the first of which gives exact products.
  const Lanes r = W == 4 ? (a - n * 0.693145752f) - n * 1.42860677e-6f : a - n * 0.693147182f;
  // 1 + r + ...: the least largest error of this degree within ln(2) / 2, 1.05e-7.
  Lanes p = r * 8.31252057e-3f + 4.18901555e-2f;
  p = p * r + 0.166671142f;
  p = p * r + 0.499992311f;
  p = p * r + 1.f;
  p = p * r + 1.f;
  return bits<Lanes>(bits<Words>(p) + (bits<Words>(shifted) << 23));
}

typedef float Lanes4 __attribute__((vector_size(16)));
typedef float Lanes8 __attribute__((vector_size(32)));
struct Larger {
  template <class V>
  inline __attribute__((always_inline)) V operator()(V a, V b) const { return a > b ? a : b; }
};
struct Plus {
  template <class V>
  inline __attribute__((always_inline)) V operator()(V a, V b) const { return a + b; }
};

// W lanes to four, and four to one, by halving in registers.
template <class Op>
DISTILL_INLINE Lanes4 to_four(Lanes4 x, Op) { return x; }
template <class Op>
DISTILL_INLINE Lanes4 to_four(Lanes8 x, Op op) {
  return op(__builtin_shufflevector(x, x, 0, 1, 2, 3), __builtin_shufflevector(x, x, 4, 5, 6, 7));
}
#if DISTILL_LANES == 16
template <class Op>
DISTILL_INLINE Lanes4 to_four(Lanes x, Op op) {
  return to_four(op(__builtin_shufflevector(x, x, 0, 1, 2, 3, 4, 5, 6, 7),
                    __builtin_shufflevector(x, x, 8, 9, 10, 11, 12, 13, 14, 15)), op);
}
#endif
template <class Op>
DISTILL_INLINE float to_one(Lanes4 x, Op op) {
  x = op(x, __builtin_shufflevector(x, x, 2, 3, 0, 1));
  x = op(x, __builtin_shufflevector(x, x, 1, 0, 3, 2));
  return x[0];
}
DISTILL_INLINE float block_highest(Lanes x) { return to_one(to_four(x, Larger{}), Larger{}); }
DISTILL_INLINE float block_total(Lanes x) { return to_one(to_four(x, Plus{}), Plus{}); }

// Four registers to one number each.
template <class Op>
DISTILL_INLINE Lanes4 fold_four(const Lanes* x, Op op) {
  const Lanes4 a = to_four(x[0], op), b = to_four(x[1], op), c = to_four(x[2], op), d = to_four(x[3], op);
  const Lanes4 ab = op(__builtin_shufflevector(a, b, 0, 1, 4, 5), __builtin_shufflevector(a, b, 2, 3, 6, 7));
  const Lanes4 cd = op(__builtin_shufflevector(c, d, 0, 1, 4, 5), __builtin_shufflevector(c, d, 2, 3, 6, 7));
  return op(__builtin_shufflevector(ab, cd, 0, 2, 4, 6), __builtin_shufflevector(ab, cd, 1, 3, 5, 7));
}

// W entries from x + i of n; -inf beyond the end.
template <class T>
DISTILL_INLINE Lanes load_or_fill(const T* x, int64_t i, int64_t n) {
  return i + W <= n ? load(x + i) : load_part(x + i, n - i, -std::numeric_limits<float>::infinity());
}

// What an entry adds to its block's sum. Without sums: 0, but NaN for NaN and +inf.
template <bool sums, bool scaled>
DISTILL_INLINE Lanes term(Lanes v, float ref, float inv) {
  if constexpr (!sums) {
    const Lanes finite = larger(all(-3e38f), v);  // NaN passes
    return finite - finite;
  } else {
    return exp_of_gap(scaled ? (v - ref) * inv : v - ref);
  }
}

struct Swept {
  Lanes4 most, sum;  // of up to four blocks; NaN is ignored in `most`
};

// Four blocks of `block` entries, a multiple of 4 W.
template <bool sums, bool scaled, class T>
DISTILL_INLINE Swept sweep_four(const T* x, int64_t block, float ref, float inv) {
  constexpr int64_t ahead = 4096 / int64_t(sizeof(T));
  Lanes m[4], s[4];
#pragma GCC unroll 4
  for (int b = 0; b < 4; ++b) {
    m[b] = all(-std::numeric_limits<float>::infinity());
    s[b] = Lanes{};
    for (int64_t i = 0; i < block; i += 4 * W, x += 4 * W) {
#pragma GCC unroll 4
      for (int j = 0; j < 4; ++j) {
        __builtin_prefetch(x + j * W + ahead);
        const Lanes v = load(x + j * W);
        m[b] = larger(v, m[b]);
        s[b] += term<sums, scaled>(v, ref, inv);
      }
    }
  }
  return {fold_four(m, Larger{}), fold_four(s, Plus{})};
}

// One block of n entries, perhaps fewer than the others have.
template <bool sums, bool scaled, class T>
DISTILL_INLINE Swept sweep_one(const T* x, int64_t n, float ref, float inv) {
  const float none = -std::numeric_limits<float>::infinity();
  Lanes m = all(none), s = {};
  for (int64_t i = 0; i < n; i += W) {
    const Lanes v = load_or_fill(x, i, n);
    m = larger(v, m);
    s += term<sums, scaled>(v, ref, inv);
  }
  return {Lanes4{block_highest(m), none, none, none}, Lanes4{block_total(s)}};
}

// `width` blocks from block b on, four or one, at temperature t; with t = 0 maxima only.
template <class T>
DISTILL_INLINE Swept sweep_blocks(const T* z, const TopkTask& task, int64_t b, int64_t width, float ref, double t) {
  const T* x = z + b * task.block;
  const int64_t left = task.length - b * task.block, n = left < task.block ? left : task.block;
  const float inv = float(1 / t);
  if (width == 4) {
    if (t == 0) return sweep_four<false, false>(x, n, ref, inv);
    return t == 1 ? sweep_four<true, false>(x, n, ref, inv) : sweep_four<true, true>(x, n, ref, inv);
  }
  if (t == 0) return sweep_one<false, false>(x, n, ref, inv);
  return t == 1 ? sweep_one<true, false>(x, n, ref, inv) : sweep_one<true, true>(x, n, ref, inv);
}

DISTILL_INLINE void put(float* to, Lanes4 x, int64_t width) {
  if (width == 4) std::memcpy(to, &x, sizeof x);
  else *to = x[0];
}

// The sweep. False: the row holds NaN or +inf, and the sums are of no use.
template <class T>
static bool sweep_row(const T* z, const TopkTask& task, const TopkScratch& s) {
  const int64_t count = task.by_blocks ? task.temperatures : 0;
  double coldest = std::numeric_limits<double>::infinity();
  for (int64_t t = 0; t < count; ++t) coldest = task.temperature[t] < coldest ? task.temperature[t] : coldest;
  const float most_ahead = float(40 * coldest);  // exp may be that far above the reference: 256 exp(40) fits easily
  const double first = count ? task.temperature[0] : 0;
  float ref = -1e30f;  // the first block sets it
  Lanes4 check = {};
  for (int64_t b = 0, width; b < task.blocks; b += width) {
    width = (b + 4) * task.block <= task.length ? 4 : 1;
    Swept found = sweep_blocks(z, task, b, width, ref, first);
    const float most = to_one(found.most, Larger{});
    if (most - ref > most_ahead) {
      ref = most;
      found = sweep_blocks(z, task, b, width, ref, first);
    }
    check += found.sum;
    put(s.block_max + b, found.most, width);
    if (count == 0) continue;
    put(s.block_sum + b, found.sum, width);
    put(s.block_ref + b, Lanes4{} + ref, width);
    for (int64_t t = 1; t < count; ++t)
      put(s.block_sum + t * task.blocks + b, sweep_blocks(z, task, b, width, ref, task.temperature[t]).sum, width);
    ref = most > ref ? most : ref;
  }
  const float all_four = to_one(check, Plus{});
  return all_four == all_four;
}
