// Sampling a support. The mathematics is that of distill_core/ops/sample_support/reference.py; all that decides which
// entries are drawn is computed in fp64, in an order and with roundings that are the same for every instruction set: in
// eight partial sums whatever a register holds, and without fused multiply-adds.
#pragma GCC push_options
#pragma GCC optimize("fp-contract=off")

typedef double Doubles __attribute__((vector_size(W * 4)));
typedef uint64_t Longs __attribute__((vector_size(W * 4)));
constexpr int DOUBLES = W / 2;  // in a register

typedef float Singles __attribute__((vector_size(W * 2)));  // as many as Doubles

#if DISTILL_LANES == 16
DISTILL_INLINE Doubles at_least(double least, Doubles x) {
  return bits<Doubles>(_mm512_max_pd(bits<__m512d>(x), _mm512_set1_pd(least)));
}
#elif DISTILL_LANES == 8
DISTILL_INLINE Doubles at_least(double least, Doubles x) {
  return bits<Doubles>(_mm256_max_pd(bits<__m256d>(x), _mm256_set1_pd(least)));
}
#else
DISTILL_INLINE Doubles at_least(double least, Doubles x) { return x > least ? x : Doubles{} + least; }
#endif

// exp of x <= 0 within 2e-14; 0 below -708, where fp64 runs out of normal numbers. The polynomial after 1 + r is the one
// of its degree with the smallest relative error on |r| <= log(2) / 2.
DISTILL_INLINE Doubles exponential(Doubles x) {
  const double magic = 0x1.8p52;  // adding it rounds to an integer
  const Doubles a = at_least(-708., x);
  const Doubles shifted = a * 1.4426950408889634 + magic;
  const Doubles n = shifted - magic;
  const Doubles r = (a - n * 6.93147180369123816490e-01) - n * 1.90821492927058770002e-10;
  Doubles p = r * 2.7493081391409137e-06 + 2.4880811649877854e-05;
  p = p * r + 0.00019841539057455706;
  p = p * r + 0.001388881114054939;
  p = p * r + 0.008333333095106112;
  p = p * r + 0.04166666696227091;
  p = p * r + 0.1666666666726521;
  p = p * r + 0.4999999999966425;
  p = p * r + 1.;
  p = p * r + 1.;
  const Doubles y = bits<Doubles>(bits<Longs>(p) + (bits<Longs>(shifted) << 52));
  return x < -708. ? Doubles{} : y;
}

// SplitMix64's finaliser, as in counter_random.py.
DISTILL_INLINE uint64_t mix64(uint64_t x) {
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9u;
  x = (x ^ x >> 27) * 0x94D049BB133111EBu;
  return x ^ x >> 31;
}
constexpr uint64_t GOLDEN = 0x9E3779B97F4A7C15u;
// Draw j = 1, 2, ... of a row: 53 random bits.
DISTILL_INLINE uint64_t draw_bits(uint64_t seed, int64_t key, uint64_t j) {
  return mix64(mix64(mix64(seed + GOLDEN) + uint64_t(key) * GOLDEN) + j * GOLDEN) >> 11;
}

// The row as a line of masses exp((z - top) / t) in id order, where the largest entries have masses of their own.
struct MassLine {
  double* masses;       // [blocks * MASS_BLOCK] of the other entries, 0 for the largest and beyond the row
  double scale;         // what they are multiplied by
  const uint64_t* order;  // the largest entries by id: ~id in the upper half, rank in the lower
  int64_t count;
  const double* log_top;  // by rank
  int64_t certain;        // ranks below it have mass 0, the others exp(log_top - base)
  double base;
};

DISTILL_INLINE int64_t ordered_id(uint64_t o) { return int64_t(uint32_t(~uint32_t(o >> 32))); }

DISTILL_INLINE double own_mass(const MassLine& line, uint64_t order) {
  const int64_t rank = int64_t(uint32_t(order));
  return rank < line.certain ? 0. : std::exp(line.log_top[rank] - line.base);
}

// Adds numbers up in an order that does not depend on the width of a register: eight sums, a number to each in turn.
struct EightSums {
  Doubles parts[8 / DOUBLES] = {};

  void add(int j, Doubles m) { parts[j] += m; }
  double total() const {
    double sum[8];
    std::memcpy(sum, parts, sizeof sum);
    return ((sum[0] + sum[4]) + (sum[2] + sum[6])) + ((sum[1] + sum[5]) + (sum[3] + sum[7]));
  }
};

// n of them, a multiple of eight.
DISTILL_INLINE double sum_of(const double* masses, int64_t n) {
  EightSums sums;
  for (int64_t i = 0; i < n; i += 8)
    for (int j = 0; j < 8 / DOUBLES; ++j) {
      Doubles m;
      std::memcpy(&m, masses + i + j * DOUBLES, sizeof m);
      sums.add(j, m);
    }
  return sums.total();
}

// The n entries of a block as fp32, with -inf behind the last.
template <class T>
DISTILL_INLINE const float* widened(const T* x, int64_t n, float* buffer) {
  for (int64_t i = 0; i < MASS_BLOCK; i += W)
    store(buffer + i, i < n ? load_or_fill(x, i, n) : all(-std::numeric_limits<float>::infinity()));
  return buffer;
}
DISTILL_INLINE const float* widened(const float* x, int64_t n, float* buffer) {
  return n == MASS_BLOCK ? x : widened<float>(x, n, buffer);
}

// Masses of a row, and those of its blocks into before[1 ..]; `top` is the largest of the other entries, not -inf.
template <class T>
static void measure(const T* z, const SampleTask& task, float top, const MassLine& line, double* before) {
  const double inv = 1 / task.temperature;
  const int64_t length = task.top.length;
  int64_t next = 0;
  for (int64_t b = 0, start = 0; b < task.blocks; ++b, start += MASS_BLOCK) {
    double* const masses = line.masses + start;
    float buffer[MASS_BLOCK];
    const float* const x = widened(z + start, length - start < MASS_BLOCK ? length - start : MASS_BLOCK, buffer);
    EightSums sums;
    for (int64_t i = 0; i < MASS_BLOCK; i += 8)
      for (int j = 0; j < 8 / DOUBLES; ++j) {
        Singles s;
        std::memcpy(&s, x + i + j * DOUBLES, sizeof s);
        const Doubles m = exponential((__builtin_convertvector(s, Doubles) - double(top)) * inv);
        std::memcpy(masses + i + j * DOUBLES, &m, sizeof m);
        sums.add(j, m);
      }
    before[b + 1] = sums.total();
    if (next == line.count || ordered_id(line.order[next]) >= start + MASS_BLOCK) continue;
    for (; next < line.count && ordered_id(line.order[next]) < start + MASS_BLOCK; ++next)
      masses[ordered_id(line.order[next]) - start] = 0;
    before[b + 1] = sum_of(masses, MASS_BLOCK);
  }
}

// Entries hit by increasing points on a line whose blocks begin at before[0 .. blocks].
struct Walk {
  const MassLine& line;
  const double* before;
  double factor;      // what the line is stretched by
  int64_t last;       // last block with mass
  int64_t block = 0, filled = -1, next = 0, part = 0, at = 0;
  double sum = 0;     // of all masses up to `at`
  double masses[MASS_BLOCK], ends[MASS_BLOCK / MASS_PART];  // of the block; the mass up to the end of each part

  void fill() {
    const int64_t start = block * MASS_BLOCK;
    const double* const from = line.masses + start;
    for (int64_t i = 0; i < MASS_BLOCK; ++i) masses[i] = from[i] * line.scale;
    while (next < line.count && ordered_id(line.order[next]) < start) ++next;
    for (; next < line.count && ordered_id(line.order[next]) < start + MASS_BLOCK; ++next)
      masses[ordered_id(line.order[next]) - start] = own_mass(line, line.order[next]);
    double end = before[block];
    for (int64_t p = 0; p < MASS_BLOCK / MASS_PART; ++p) ends[p] = end += sum_of(masses + p * MASS_PART, MASS_PART);
    filled = block;
    enter(0);
  }

  void enter(int64_t p) {
    part = p;
    at = p * MASS_PART;
    sum = (p ? ends[p - 1] : before[block]) + masses[at];
  }

  // The entry that holds `point`. Where rounding leaves the end of a block or part a hair below the point, its last
  // entry with mass.
  int64_t hit(double point) {
    while (block < last && !(before[block + 1] * factor > point)) ++block;
    if (filled != block) fill();
    int64_t p = part;
    while (p + 1 < MASS_BLOCK / MASS_PART && !(ends[p] * factor > point)) ++p;
    if (p != part) enter(p);
    const int64_t end = (part + 1) * MASS_PART - 1;
    while (!(sum * factor > point) && at < end) sum += masses[++at];
    if (!(sum * factor > point))
      while (at > 0 && masses[at] == 0) --at;
    return block * MASS_BLOCK + at;
  }
};

DISTILL_INLINE Walk walk_along(const MassLine& line, const SampleTask& task, const double* before, double factor) {
  int64_t last = task.blocks - 1;
  while (last > 0 && !(before[last + 1] > before[last])) --last;
  return Walk{line, before, factor, last};
}

// Turns masses of blocks into the mass before each; returns the whole.
DISTILL_INLINE double add_up(double* before, int64_t blocks) {
  before[0] = 0;
  for (int64_t b = 0; b < blocks; ++b) before[b + 1] += before[b];
  return before[blocks];
}

DISTILL_INLINE double log_add(double a, double b) {
  const double high = a > b ? a : b, low = a > b ? b : a;
  return high == -std::numeric_limits<double>::infinity() ? high : high + std::log1p(std::exp(low - high));
}

template <class T>
static void threshold_row(const T* z, const SampleTask& task, const SampleScratch& s, float top, double u, int64_t* ids,
                          float* weights) {
  const double none = -std::numeric_limits<double>::infinity();
  const int64_t k = task.top.k;
  for (int64_t j = 0; j < k; ++j) {
    const int64_t id = id_of(s.top.keys[j]);
    s.log_top[j] = double(read(z + id)) / task.temperature;
    s.order[j] = uint64_t(uint32_t(~uint32_t(id))) << 32 | uint64_t(j);
  }
  sort_descending(s.order, s.spare, k);
  // First without the k largest: what is left gives the threshold.
  MassLine line{s.masses, 1., s.order, k, s.log_top, k, 0.};
  double rest = 0;
  if (top != -std::numeric_limits<float>::infinity()) {
    measure(z, task, top, line, s.line);
    for (int64_t b = 1; b <= task.blocks; ++b) rest += s.line[b];
  } else {
    top = 0;  // every mass is 0
    for (int64_t i = 0; i < task.blocks * MASS_BLOCK; ++i) s.masses[i] = 0;
    for (int64_t b = 1; b <= task.blocks; ++b) s.line[b] = 0;
  }
  s.left[k] = rest > 0 ? std::log(rest) + double(top) / task.temperature : none;
  for (int64_t j = k; j--;) s.left[j] = log_add(s.left[j + 1], s.log_top[j]);
  int64_t certain = 0;
  while (certain < k && s.log_top[certain] != none &&
         s.log_top[certain] >= s.left[certain] - std::log(double(k - certain)) - 1e-9)
    ++certain;
  const double left = s.left[certain];
  const int64_t drawn = left == none ? 0 : k - certain;
  for (int64_t j = 0; j < certain; ++j) {
    ids[j] = id_of(s.top.keys[j]);
    weights[j] = float(std::exp(s.log_top[j] - s.left[0]));
  }
  if (drawn == 0) return;
  const float weight = float(std::exp(left - s.left[0] - std::log(double(drawn))));
  line.certain = certain;
  line.base = s.log_top[certain];  // the largest of what is drawn
  line.scale = std::exp(double(top) / task.temperature - line.base);
  for (int64_t b = 0, next = 0; b < task.blocks; ++b) {
    s.line[b + 1] *= line.scale;
    for (; next < k && ordered_id(s.order[next]) < (b + 1) * MASS_BLOCK; ++next)
      s.line[b + 1] += own_mass(line, s.order[next]);
  }
  const double end = add_up(s.line, task.blocks);
  Walk walk = walk_along(line, task, s.line, drawn / end);
  for (int64_t j = 0; j < drawn; ++j) {
    ids[certain + j] = walk.hit(u + double(j));
    weights[certain + j] = weight;
  }
}

template <class T>
static void multinomial_row(const T* z, const SampleTask& task, const SampleScratch& s, float top, int64_t key,
                            int64_t* ids, float* weights) {
  const MassLine line{s.masses, 1., nullptr, 0, nullptr, 0, 0.};
  measure(z, task, top, line, s.line);
  const double end = add_up(s.line, task.blocks);
  for (int64_t j = 0; j < task.k; ++j) s.order[j] = draw_bits(task.seed, key, uint64_t(j) + 1);
  sort_descending(s.order, s.spare, task.k);
  Walk walk = walk_along(line, task, s.line, 1.);
  int64_t found = 0, times = 0;
  for (int64_t j = task.k; j--;) {
    const int64_t id = walk.hit(double(s.order[j]) * 0x1p-53 * end);
    if (times && ids[found] != id) ++found, times = 0;
    ids[found] = id;
    weights[found] = float(++times) / float(task.k);
  }
}

template <class T>
DISTILL_INLINE void sample_any(const T* z, const SampleTask& task, const SampleScratch& s, int64_t key, int64_t* ids,
                               float* weights) {
  for (int64_t j = 0; j < task.k; ++j) ids[j] = -1, weights[j] = 0;
  if (!sweep_row(z, task.top, s.top)) {  // NaN or +inf: no distribution
    int64_t first = 0;
    while (read(z + first) < std::numeric_limits<float>::infinity()) ++first;
    ids[0] = first;
    weights[0] = std::numeric_limits<float>::quiet_NaN();
    return;
  }
  if (task.top.k) find_largest(z, task.top, s.top);
  Rest rest;
  const float top = mark_and_find_rest(z, task.top, s.top, rest);
  if (task.threshold) {
    threshold_row(z, task, s, top, double(draw_bits(task.seed, key, 1)) * 0x1p-53, ids, weights);
  } else if (top != -std::numeric_limits<float>::infinity()) {
    multinomial_row(z, task, s, top, key, ids, weights);
  }
}

#define DISTILL_SAMPLE_ROW(T)                                                                                   \
  void sample_row(const T* z, const SampleTask& task, const SampleScratch& s, int64_t key, int64_t* ids, float* weights) { \
    sample_any(z, task, s, key, ids, weights);                                                                  \
  }
DISTILL_SAMPLE_ROW(float)
DISTILL_SAMPLE_ROW(bf16)
DISTILL_SAMPLE_ROW(fp16)
#undef DISTILL_SAMPLE_ROW
#pragma GCC pop_options
