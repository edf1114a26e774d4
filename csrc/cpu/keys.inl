// Entries of a row as keys that can be selected and sorted.
//
// An entry is a 64-bit key: the order of its value, then the lowest id first. Keys differ, so there are no ties.

DISTILL_INLINE uint64_t key_of(float value, int64_t id) {
  const uint32_t u = bits<uint32_t>(value + 0.f);  // -0 equals +0
  const uint32_t order = value != value ? ~0u : (u >> 31 ? ~u : u | 0x80000000u);  // NaN above everything
  return uint64_t(order) << 32 | uint32_t(~uint32_t(id));
}
DISTILL_INLINE int64_t id_of(uint64_t key) { return int64_t(uint32_t(~uint32_t(key))); }
DISTILL_INLINE float value_of(uint64_t key) {
  const uint32_t order = uint32_t(key >> 32);
  return bits<float>(order >> 31 ? order & 0x7fffffffu : ~order);
}

// Moves the k largest of n different keys to the front, in any order: radix selection, linear in n whatever the keys.
static void select_largest(uint64_t* keys, int64_t n, int64_t k) {
  if (k <= 0 || k >= n) return;
  uint64_t any = 0, every = ~uint64_t(0);
  for (int64_t i = 0; i < n; ++i) any |= keys[i], every &= keys[i];
  const int highest_bit = 63 - __builtin_clzll(any ^ every);  // two keys differ, as they are different
  int64_t from = 0;
  for (int shift = highest_bit > 7 ? highest_bit - 7 : 0;; shift = shift > 8 ? shift - 8 : 0) {
    int64_t count[256] = {};
    for (int64_t i = from; i < n; ++i) ++count[keys[i] >> shift & 255];
    int64_t digit = 255, above = 0;
    while (above + count[digit] < k - from) above += count[digit--];
    int64_t next = from, end = n, i = from;  // [from, next) above the digit, [next, i) equal, [end, n) below
    while (i < end) {
      const uint64_t key = keys[i];
      const int64_t own = int64_t(key >> shift & 255);
      if (own > digit) {
        keys[i++] = keys[next];
        keys[next++] = key;
      } else if (own == digit) {
        ++i;
      } else {
        keys[i] = keys[--end];
        keys[end] = key;
      }
    }
    from = next;
    n = end;
    if (n == k || from == k) return;
  }
}

// Sorts n different keys, largest first, by counting the larger ones of each: n^2 comparisons without a branch.
static void sort_few(uint64_t* keys, uint64_t* spare, int64_t n) {
  constexpr int64_t each = W / 2;
  typedef uint64_t Keys __attribute__((vector_size(each * 8)));
  for (int64_t i = 0; i < n; i += each) {
    const int64_t m = n - i < each ? n - i : each;
    Keys own = {}, rank = {};
    if (m == each) std::memcpy(&own, keys + i, sizeof own);
    else std::memcpy(&own, keys + i, m * sizeof(uint64_t));
    for (int64_t j = 0; j < n; ++j) rank -= bits<Keys>(keys[j] - Keys{} > own);
    for (int64_t j = 0; j < m; ++j) spare[rank[j]] = keys[i + j];
  }
  std::memcpy(keys, spare, n * sizeof(uint64_t));
}

// Sorts n keys, largest first, by merging.
static void sort_by_merging(uint64_t* keys, uint64_t* spare, int64_t n) {
  constexpr int64_t run = 8;
  for (int64_t start = 0; start < n; start += run) {
    const int64_t stop = start + run < n ? start + run : n;
    for (int64_t i = start + 1; i < stop; ++i) {
      const uint64_t key = keys[i];
      int64_t j = i;
      for (; j > start && keys[j - 1] < key; --j) keys[j] = keys[j - 1];
      keys[j] = key;
    }
  }
  uint64_t *from = keys, *to = spare;
  for (int64_t width = run; width < n; width *= 2) {
    for (int64_t start = 0; start < n; start += 2 * width) {
      int64_t a = start, b = start + width < n ? start + width : n, o = start;
      const int64_t a_stop = b, b_stop = b + width < n ? b + width : n;
      while (a < a_stop && b < b_stop) {
        const bool first = from[a] > from[b];
        to[o++] = first ? from[a] : from[b];
        a += first;
        b += !first;
      }
      while (a < a_stop) to[o++] = from[a++];
      while (b < b_stop) to[o++] = from[b++];
    }
    uint64_t* swap = from;
    from = to;
    to = swap;
  }
  if (from != keys) std::memcpy(keys, from, n * sizeof(uint64_t));
}

// Sorts n keys, largest first, byte by byte from bit `first` on; bytes that all keys share are left out. Keys that are
// equal from there on stay in their order.
static void sort_by_bytes(uint64_t* keys, uint64_t* spare, int64_t n, int first) {
  uint64_t any = 0, every = ~uint64_t(0);
  for (int64_t i = 0; i < n; ++i) any |= keys[i], every &= keys[i];
  uint64_t *from = keys, *to = spare;
  for (int shift = first; shift < 64; shift += 8) {
    if (!((any ^ every) >> shift & 255)) continue;
    int64_t place[256] = {};
    for (int64_t i = 0; i < n; ++i) ++place[from[i] >> shift & 255];
    for (int64_t digit = 256, before = 0; digit--;) {
      const int64_t own = place[digit];
      place[digit] = before;
      before += own;
    }
    for (int64_t i = 0; i < n; ++i) to[place[from[i] >> shift & 255]++] = from[i];
    uint64_t* swap = from;
    from = to;
    to = swap;
  }
  if (from != keys) std::memcpy(keys, from, n * sizeof(uint64_t));
}

// Sorts n keys, largest first; `spare` holds n more.
static void sort_descending(uint64_t* keys, uint64_t* spare, int64_t n) {
  if (n < 512) sort_by_merging(keys, spare, n);
  else sort_by_bytes(keys, spare, n, 0);
}

// Sorts n different keys, lowest id first before, largest first; `spare` holds n more.
static void sort_taken(uint64_t* keys, uint64_t* spare, int64_t n) {
  if (n < 512) sort_descending(keys, spare, n);
  else sort_by_bytes(keys, spare, n, 32);
}

// The k largest of n different keys, largest first; `spare` holds max(k, FEW_KEYS) more.
static void sort_largest(uint64_t* keys, uint64_t* spare, int64_t n, int64_t k) {
  if (n <= FEW_KEYS) return sort_few(keys, spare, n);
  select_largest(keys, n, k);
  sort_descending(keys, spare, k);
}
