// Top-k of a row and the logsumexp of the rest, in one read.
//
// One sweep (topk_sweep.inl) keeps each block's maximum and, per temperature, its sum of exp relative to a running
// reference. The k-th largest block maximum is a safe threshold: k blocks hold an entry at or above it, so only those k
// blocks are searched. Where k is large the row itself is cut at a threshold (topk_select.inl).
// The tail takes the sums of blocks that hold none of the k largest as they are and sums the others again without them,
// all relative to the largest entry of the rest: nothing is subtracted, so tails are exact however small.

// Cuts the candidates back to the k largest and returns the smallest of them.
static uint64_t cut_back(uint64_t* keys, int64_t count, int64_t k) {
  select_largest(keys, count, k);
  uint64_t least = keys[0];
  for (int64_t i = 1; i < k; ++i) least = keys[i] < least ? keys[i] : least;
  return least;
}

static float highest_of(const float* x, int64_t n) {
  Lanes m = all(-std::numeric_limits<float>::infinity());
  for (int64_t i = 0; i < n; i += W) m = larger(load_or_fill(x, i, n), m);
  return block_highest(m);
}

DISTILL_INLINE int64_t block_end(const TopkTask& task, int64_t start) {
  return start + task.block < task.length ? start + task.block : task.length;
}

// Appends the entries of [start, stop) with keys from `threshold` on.
template <class T>
DISTILL_INLINE int64_t search_block(const T* z, int64_t start, int64_t stop, uint64_t threshold, uint64_t* keys,
                                    int64_t count) {
  const Lanes least = all(value_of(threshold));
  const auto offer = [&](int64_t id) __attribute__((always_inline)) {
    const uint64_t key = key_of(read(z + id), id);
    keys[count] = key;
    count += key >= threshold;
  };
  int64_t i = start;
  for (; i + 4 * W <= stop; i += 4 * W) {
    uint64_t set = 0;
#pragma GCC unroll 4
    for (int j = 0; j < 4; ++j) set |= uint64_t(lanes_set(load(z + i + j * W) >= least)) << (j * W);
    for (; set; set &= set - 1) offer(i + __builtin_ctzll(set));
  }
  for (; i < stop; ++i) offer(i);
  return count;
}

static float lowest_of(const float* x, int64_t n) {
  Lanes m = all(x[0]);
  int64_t i = 0;
  for (; i + W <= n; i += W) m = smaller(load(x + i), m);
  float least = -block_highest(-m);
  for (; i < n; ++i) least = x[i] < least ? x[i] : least;
  return least;
}

// The k largest keys of the row into s.keys, largest first. Every block has its maximum; the row is free of NaN.
template <class T>
static void find_largest(const T* z, const TopkTask& task, const TopkScratch& s) {
  const float most = highest_of(s.block_max, task.blocks);
  if (!task.by_blocks) {
    const Cut cut = find_cut(z, task.length, task.k, cut_slack(task.k), -std::numeric_limits<float>::infinity(), most);
    take(z, task.length, 1, cut, s.keys);
    return sort_taken(s.keys, s.spare, cut.count);
  }
  const Cut cut = find_cut(s.block_max, task.blocks, task.k, task.k / 8 + 8, lowest_of(s.block_max, task.blocks), most);
  take(s.block_max, task.blocks, task.block, cut, s.block_keys);
  sort_largest(s.block_keys, s.spare, cut.count, task.k);
  // An entry equal to the k-th block maximum in a block that is not searched comes after k better ones.
  uint64_t threshold = s.block_keys[task.k - 1] & ~uint64_t(0xffffffffu);
  int64_t count = 0;
  for (int64_t j = 0; j < task.k && s.block_keys[j] >= threshold; ++j) {
    const int64_t start = id_of(s.block_keys[j]);
    count = search_block(z, start, block_end(task, start), threshold, s.keys, count);
    if (count >= 2 * task.k + 64) {
      threshold = cut_back(s.keys, count, task.k);
      count = task.k;
    }
  }
  sort_largest(s.keys, s.spare, count, task.k);
}

// Which entries of a block are left: those after the k-th in order. Entries beyond the row, -inf, may be among them.
struct Rest {
  float last_value;
  int32_t last_id;
};

DISTILL_INLINE Ints counting_from(int64_t first) {
  static const int32_t up[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
  Ints id;
  std::memcpy(&id, up, sizeof id);
  return id + int32_t(first);
}

// Calls f(entries, which of them are left) over the n entries from `start` on. Ids are compared in one block only.
template <class T, class F>
DISTILL_INLINE void each_left(const T* z, int64_t start, int64_t n, Rest rest, F f) {
  const Lanes last = all(rest.last_value);
  const auto over = [&](auto is_left) __attribute__((always_inline)) {
    int64_t i = start;
    for (; i + W <= start + n; i += W) {
      const Lanes v = load(z + i);
      f(v, is_left(v, i));
    }
    if (i == start + n) return;
    const Lanes v = load_or_fill(z, i, start + n);
    f(v, is_left(v, i));
  };
  if (start > rest.last_id) {
    over([&](Lanes v, int64_t) { return v <= last; });
  } else if (start + n <= rest.last_id) {
    over([&](Lanes v, int64_t) { return v < last; });
  } else {
    over([&](Lanes v, int64_t i) { return (v < last) | ((v == last) & (counting_from(i) > rest.last_id)); });
  }
}

template <class T>
static float highest_left(const T* z, int64_t start, int64_t n, Rest rest) {
  const Lanes none = all(-std::numeric_limits<float>::infinity());
  Lanes m = none;
  each_left(z, start, n, rest, [&](Lanes v, Ints left) __attribute__((always_inline)) { m = larger(left ? v : none, m); });
  return block_highest(m);
}

template <class T>
static float sum_left(const T* z, int64_t start, int64_t n, Rest rest, float ref, float inv) {
  Lanes s = {};
  each_left(z, start, n, rest, [&](Lanes v, Ints left) __attribute__((always_inline)) {
    s += left ? exp_of_gap((v - ref) * inv) : Lanes{};
  });
  return block_total(s);
}

// Lists the blocks of the k largest (s.keys), whose sums are void, and returns the largest entry of the rest, -inf if
// there is none. The maxima of those blocks become those of what is left in them.
template <class T>
static float mark_and_find_rest(const T* z, const TopkTask& task, const TopkScratch& s, Rest& rest) {
  rest = {std::numeric_limits<float>::infinity(), -1};
  if (task.k) rest = {value_of(s.keys[task.k - 1]), int32_t(id_of(s.keys[task.k - 1]))};
  std::memset(s.holds, !task.by_blocks, task.blocks);
  int64_t held = 0;
  if (!task.by_blocks)
    for (; held < task.blocks; ++held) s.block_keys[held] = held;
  for (int64_t i = 0; i < task.k && task.by_blocks; ++i) {
    const int64_t b = id_of(s.keys[i]) / task.block;
    s.block_keys[held] = b;
    held += !s.holds[b];
    s.holds[b] = 1;
  }
  *s.held = held;
  for (int64_t i = 0; i < held; ++i) {
    const int64_t b = s.block_keys[i], start = b * task.block;
    s.block_max[b] = highest_left(z, start, block_end(task, start) - start, rest);
  }
  return highest_of(s.block_max, task.blocks);
}

// In a fixed order, four at a time.
static double total_of(const float* x, int64_t n) {
  double part[4] = {};
  int64_t i = 0;
  for (; i + 4 <= n; i += 4)
    for (int j = 0; j < 4; ++j) part[j] += x[i + j];
  for (; i < n; ++i) part[0] += x[i];
  return (part[0] + part[2]) + (part[1] + part[3]);
}

// logsumexp of (z / t) over the rest, whose largest entry is `top`.
template <class T>
static float tail_of(const T* z, const TopkTask& task, const TopkScratch& s, int64_t t, Rest rest, float top) {
  if (top == -std::numeric_limits<float>::infinity()) return top;
  const double temperature = task.temperature[t];
  float* const sums = s.block_sum + t * task.blocks;
  double sum = 0;
  const auto again = [&](int64_t b) {
    const int64_t start = b * task.block;
    if ((double(s.block_max[b]) - top) / temperature > -80)  // e^-80 per entry is nothing
      sum += sum_left(z, start, block_end(task, start) - start, rest, top, float(1 / temperature));
  };
  for (int64_t i = 0; i < *s.held; ++i) again(s.block_keys[i]), sums[s.block_keys[i]] = 0;
  for (int64_t b = 0, stop; b < task.blocks && task.by_blocks; b = stop) {
    for (stop = b + 1; stop < task.blocks && s.block_ref[stop] == s.block_ref[b];) ++stop;
    const double above = (double(s.block_ref[b]) - top) / temperature;
    if (above <= 40) {
      sum += std::exp(above) * total_of(sums + b, stop - b);
      continue;
    }
    for (; b < stop; ++b)  // sums relative to something far above the rest have lost it
      if (!s.holds[b]) again(b);
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
    const float value = value_of(s.keys[i]);
    ids[i] = id_of(s.keys[i]);
    values[i] = value == value && value != 0 ? value : read(z + ids[i]);  // keys know no -0
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
