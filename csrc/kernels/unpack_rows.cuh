// Rows of a store from the packed columns of their sequences: distill_core/store/topk_codec.py and sampled_codec.py on the
// device. Two launches. In the first, a block reads one column of one sequence: codes follow on each other, so a column
// is read from its start, by all threads together. In the second, a warp makes one row of what was read.
#pragma once

#include "octave_codes.cuh"
#include "warp_sum.cuh"

namespace distill_cuda {

constexpr int UNPACK_THREADS = SCAN_THREADS;
constexpr int UNPACK_WARPS = UNPACK_THREADS / 32;
constexpr int READERS = 3;  // blocks per sequence: ids by octave, sorted ids, values
constexpr double STEP_NAT = 1.0 / 128, ENTROPY_STEP_NAT = 1.0 / 1024, FLOOR_NAT = 700;
constexpr double ABOVE = 1.0 + 1.0 / (1 << 20);
constexpr int64_t IMPOSSIBLE = -(int64_t(1) << 24);

enum Method : int32_t { TOPK = 0, THRESHOLD = 1, MULTINOMIAL = 2 };
enum ColumnName { COUNTS, IDS, IDS_SORTED, VALUES, TAIL, ENTROPY, N_COLUMNS };

// A sequence as it lies in the table: 16 int64. Column i begins at word first_word[i].
struct PackedSequence {
  int64_t first_row, n_rows;
  int64_t first_word[N_COLUMNS];
  int64_t n_bytes[N_COLUMNS];
  int64_t unused[2];
};

struct Unpacking {
  const uint64_t* words;
  int64_t n_words;
  const PackedSequence* table;
  int64_t sequences, rows, k, vocabulary;
  int32_t method, n_temperatures;
  const double* temperatures;  // the first is the one that logits are multiplied by
  double value_step;
  int64_t* ids;      // [rows, k]
  float* values;     // [rows, k]
  float* tail;       // [rows, n_temperatures]; threshold: [rows, 1]
  float* entropy;    // [rows] or null
  int64_t* gaps;     // [rows, k], scratch
  int64_t* starts;   // [READERS, rows], scratch
  int32_t* status;   // [sequences, READERS + 1]: 1 << the column that a reader, or a row, refused; 1 << N_COLUMNS: the table
};

__device__ inline Column column_of(const Unpacking& u, const PackedSequence& s, int name) {
  return {u.words + s.first_word[name], s.n_bytes[name]};
}

__device__ inline bool fits(const Unpacking& u, const PackedSequence& s) {
  bool inside = s.first_row >= 0 && s.n_rows >= 0 && s.first_row <= u.rows - s.n_rows;
  for (int name = 0; name < N_COLUMNS; ++name)
    inside &= s.first_word[name] >= 0 && s.first_word[name] <= u.n_words && s.n_bytes[name] >= 0 &&
              s.n_bytes[name] <= 8 * (u.n_words - s.first_word[name]);
  return inside;
}

// Entries of a row: `all` of them, the first `head` with a value (multinomial: none).
struct Counts {
  Offsets all, head;
  bool both;
  __device__ int64_t entries(int64_t row) const { return all[row]; }
  __device__ int64_t valued(int64_t row) const { return both ? head[row] : 0; }
};

__device__ inline Counts counts_of(const Unpacking& u, const PackedSequence& s) {
  const Column c = column_of(u, s, COUNTS);
  const bool both = u.method != MULTINOMIAL;
  const Offsets all = offsets_at(c, 0, s.n_rows);
  return {all, both ? offsets_at(c, all.end, s.n_rows) : all, both};
}

__device__ inline bool right_counts(const Unpacking& u, const PackedSequence& s, const Counts& counts) {
  if (counts.all.end == REFUSED || counts.head.end != s.n_bytes[COUNTS]) return false;
  bool wrong = false;
  for (int64_t row = threadIdx.x; row < s.n_rows; row += UNPACK_THREADS) {
    const int64_t entries = counts.entries(row), valued = counts.valued(row);
    wrong |= valued < 0 || valued > entries || entries > u.k;
  }
  return !__syncthreads_or(wrong);
}

__device__ inline int64_t between(int64_t low, int64_t x, int64_t high) { return x < low ? low : x > high ? high : x; }

// Ids by octave: the entries with a value (threshold), or all (top-k).
__device__ inline bool read_ids(const Unpacking& u, const PackedSequence& s, const Counts& counts, int64_t* starts) {
  const bool all = u.method == TOPK;
  const int64_t count = count_rows(s.n_rows, starts, [&](int64_t row) {
    return all ? counts.entries(row) : counts.valued(row);
  });
  bool beyond = false;
  const bool right = read_octaves(column_of(u, s, IDS), count, {starts, s.n_rows, 0},
                                  [&](int64_t row, int64_t place, int64_t id) {
    beyond |= id >= u.vocabulary;
    u.ids[(s.first_row + row) * u.k + place] = id;
  });
  return !__syncthreads_or(beyond) && right;
}

// Gaps of the ids that are sorted, in groups by how many are to come; they are left where the ids will be.
__device__ inline bool read_sorted_ids(const Unpacking& u, const PackedSequence& s, const Counts& counts,
                                       int64_t* starts) {
  const Column c = column_of(u, s, IDS_SORTED);
  int64_t at = 0;
  bool beyond = false;
  for (int64_t least = 1; least <= u.k && at != REFUSED; least *= 2) {  // least <= to come < 2 least
    const int64_t count = count_rows(s.n_rows, starts, [&](int64_t row) {
      return between(0, counts.entries(row) - counts.valued(row) - least + 1, least);
    });
    at = read_rice(c, at, count, {starts, s.n_rows, 0}, [&](int64_t row, int64_t place, int64_t gap) {
      const int64_t entries = counts.entries(row), sorted = entries - counts.valued(row);
      const int64_t to_come = (sorted < 2 * least ? sorted : 2 * least - 1) - place;
      beyond |= gap >= u.vocabulary;
      u.ids[(s.first_row + row) * u.k + entries - to_come] = gap;
    });
  }
  return !__syncthreads_or(beyond) && at == s.n_bytes[IDS_SORTED];
}

// Gaps of the grid values, in groups by rank (the first of a row has none), or how often each id was drawn, less 1.
__device__ inline bool read_values(const Unpacking& u, const PackedSequence& s, const Counts& counts, int64_t* starts) {
  const Column c = column_of(u, s, VALUES);
  int64_t* gaps = u.gaps + s.first_row * u.k;
  if (u.method == MULTINOMIAL) {
    const int64_t count = count_rows(s.n_rows, starts, [&](int64_t row) { return counts.entries(row); });
    return read_unary(c, 0, count, {starts, s.n_rows, 0}, [&](int64_t row, int64_t place, int64_t, int64_t more) {
      gaps[row * u.k + place] = more;
    }) == s.n_bytes[VALUES];
  }
  int64_t at = 0;
  for (int64_t least = 1; least < u.k && at != REFUSED; least *= 2) {  // least <= rank < 2 least
    const int64_t count = count_rows(s.n_rows, starts, [&](int64_t row) {
      return between(0, counts.valued(row) - least, least);
    });
    at = read_rice(c, at, count, {starts, s.n_rows, 0}, [&](int64_t row, int64_t place, int64_t gap) {
      gaps[row * u.k + least + place] = gap;
    });
  }
  return at == s.n_bytes[VALUES];
}

// The column that is no array of `count` offsets, as a bit; 0 if it is one.
__device__ inline int wrong_offsets(const Unpacking& u, const PackedSequence& s, int name, int64_t count) {
  return offsets_at(column_of(u, s, name), 0, count).end == s.n_bytes[name] ? 0 : 1 << name;
}

__device__ inline int wrong_tail_or_entropy(const Unpacking& u, const PackedSequence& s) {
  int wrong = u.entropy ? wrong_offsets(u, s, ENTROPY, s.n_rows) : 0;
  if (u.method == MULTINOMIAL) return wrong;
  wrong |= wrong_offsets(u, s, TAIL, s.n_rows * u.n_temperatures);
  if (u.method == TOPK || (wrong & 1 << TAIL)) return wrong;
  const Offsets tail = offsets_at(column_of(u, s, TAIL), 0, s.n_rows);
  bool too_large = false;
  for (int64_t row = threadIdx.x; row < s.n_rows; row += UNPACK_THREADS)
    too_large |= double(tail[row]) * STEP_NAT > FLOOR_NAT;
  return wrong | (__syncthreads_or(too_large) ? 1 << TAIL : 0);
}

// Block b reads column b % READERS of sequence b / READERS.
static __global__ void __launch_bounds__(UNPACK_THREADS) unpack_columns(Unpacking u) {
  const int reader = int(blockIdx.x % READERS);
  const int64_t sequence = blockIdx.x / READERS;
  const PackedSequence& s = u.table[sequence];
  int wrong = 0;
  if (!fits(u, s)) {
    wrong = 1 << N_COLUMNS;
  } else {
    const Counts counts = counts_of(u, s);
    int64_t* starts = u.starts + reader * u.rows + s.first_row;
    if (!right_counts(u, s, counts)) wrong = 1 << COUNTS;
    else if (reader == 0 && u.method != MULTINOMIAL) wrong = read_ids(u, s, counts, starts) ? 0 : 1 << IDS;
    else if (reader == 1 && u.method != TOPK) wrong = read_sorted_ids(u, s, counts, starts) ? 0 : 1 << IDS_SORTED;
    else if (reader == 2)
      wrong = wrong_tail_or_entropy(u, s) | (read_values(u, s, counts, starts) ? 0 : 1 << VALUES);
  }
  if (threadIdx.x == 0) {
    int32_t* status = u.status + sequence * (READERS + 1);
    status[reader] = wrong;
    if (reader == 0) status[READERS] = 0;
  }
}

__device__ inline int64_t warp_prefix_sum(int64_t x) {
  for (int step = 1; step < 32; step *= 2) {
    const int64_t before = __shfl_up_sync(EVERY_LANE, x, step);
    if (int(threadIdx.x % 32) >= step) x += before;
  }
  return x;
}

// at(i, sum of the first i + 1 of n numbers), a lane for each i. The numbers are replaced by the sums, plus `more`.
template <class At>
__device__ inline void running_sums(int64_t* numbers, int64_t n, int64_t each, int64_t more, At at) {
  const int lane = threadIdx.x % 32;
  int64_t before = more;
  for (int64_t base = 0; base < n; base += 32) {
    const int64_t i = base + lane;
    const int64_t sum = before + warp_prefix_sum(i < n ? numbers[i] + each : 0);
    if (i < n) { numbers[i] = sum; at(i, sum); }
    before = __shfl_sync(EVERY_LANE, sum, 31);
  }
}

// The product, rounded by itself: a compiler that joins it to a sum gives other bits than the host.
__device__ inline double product(double x, double y) {
#if defined(__CUDA_ARCH__)
  return __dmul_rn(x, y);
#else
  return x * y;
#endif
}

__device__ inline double warp_total(double x) { return __shfl_sync(EVERY_LANE, warp_sum(x), 0); }

// Log-odds to the largest entry become T0 log p, with tails to match.
__device__ inline void make_exact(const Unpacking& u, int64_t row, const Offsets& tail, int64_t in_sequence,
                                  int64_t valued) {
  const int lane = threadIdx.x % 32;
  int64_t* grid = u.gaps + row * u.k;
  if (lane == 0 && valued > 0) grid[0] = 0;
  __syncwarp();
  const auto tail_at = [&](int64_t t) {
    const int64_t at = tail[in_sequence * u.n_temperatures + t];
    return at == IMPOSSIBLE ? -double(INFINITY) : product(double(at), STEP_NAT);
  };
  const double first = u.temperatures[0], of_tail = tail_at(0);
  const bool entry_on_top = valued > 0 && 0 >= of_tail;
  const double top = entry_on_top ? 0 : of_tail;
  double others = lane == 0 && entry_on_top ? exp(of_tail - top) : 0;
  running_sums(grid, valued, 0, 0, [&](int64_t i, int64_t sum) {
    if (i > 0 || !entry_on_top) others += exp(-product(double(sum), u.value_step) / first - top);
  });
  const double nothing = top - top;  // NaN for a row of probability 0
  const double total = product(first, top + log1p(warp_total(others) + nothing));
  for (int64_t i = lane; i < u.k; i += 32)
    u.values[row * u.k + i] =
        float((i < valued ? -product(double(grid[i]), u.value_step) : -double(INFINITY)) - total);
  for (int64_t t = lane; t < u.n_temperatures; t += 32)
    u.tail[row * u.n_temperatures + t] = float(tail_at(t) - total / u.temperatures[t]);
}

// The head's odds and the mass of the sampled become weights that sum to 1; tail: the weight of a sampled entry.
__device__ inline void make_threshold(const Unpacking& u, int64_t row, int64_t tail, int64_t valued, int64_t entries) {
  const int lane = threadIdx.x % 32;
  const int64_t sampled = entries - valued;
  const double mass = sampled > 0 ? exp(product(double(tail), STEP_NAT)) : 0;
  const double each = mass / double(sampled > 1 ? sampled : 1), least = product(each, ABOVE);
  int64_t* grid = u.gaps + row * u.k;
  if (lane == 0 && valued > 0) grid[0] = 0;
  __syncwarp();
  double head = 0;
  const auto odds = [&](int64_t sum) { return fmax(exp(product(-double(sum), STEP_NAT)), least); };
  running_sums(grid, valued, 0, 0, [&](int64_t, int64_t sum) { head += odds(sum); });
  double total = warp_total(head) + mass;
  if (total == 0) total = 1;
  for (int64_t i = lane; i < u.k; i += 32)
    u.values[row * u.k + i] = float(i < valued ? odds(grid[i]) / total : i < entries ? each / total : 0.0);
  if (lane == 0) u.tail[row] = float(each / total);
}

// Nothing: where a sequence is refused.
__device__ inline void make_empty(const Unpacking& u, int64_t row) {
  const int lane = threadIdx.x % 32, columns = u.method == MULTINOMIAL ? 0 : u.n_temperatures;
  for (int64_t i = lane; i < u.k; i += 32) { u.ids[row * u.k + i] = -1; u.values[row * u.k + i] = 0; }
  for (int64_t t = lane; t < columns; t += 32) u.tail[row * columns + t] = 0;
  if (lane == 0 && u.entropy) u.entropy[row] = 0;
}

__device__ inline int64_t sequence_of(const Unpacking& u, int64_t row) {
  int64_t low = 0, high = u.sequences;
  while (high - low > 1) {
    const int64_t middle = (low + high) / 2;
    if (u.table[middle].first_row <= row) low = middle; else high = middle;
  }
  return low;
}

// A warp per row.
static __global__ void __launch_bounds__(UNPACK_THREADS) make_rows(Unpacking u) {
  const int64_t row = int64_t(blockIdx.x) * UNPACK_WARPS + threadIdx.x / 32;
  if (row >= u.rows) return;
  const int lane = threadIdx.x % 32;
  const int64_t sequence = sequence_of(u, row);
  const PackedSequence& s = u.table[sequence];
  const int64_t in_sequence = row - s.first_row;
  int32_t* status = u.status + sequence * (READERS + 1);
  if (status[0] || status[1] || status[2] || in_sequence < 0 || in_sequence >= s.n_rows) return make_empty(u, row);
  const Counts counts = counts_of(u, s);
  const int64_t entries = counts.entries(in_sequence), valued = counts.valued(in_sequence);
  int64_t* ids = u.ids + row * u.k;
  if (u.method != TOPK) {
    bool beyond = false;
    running_sums(ids + valued, entries - valued, 1, -1, [&](int64_t, int64_t id) { beyond |= id >= u.vocabulary; });
    if (beyond) atomicOr(&status[READERS], 1 << IDS_SORTED);
  }
  for (int64_t i = entries + lane; i < u.k; i += 32) ids[i] = -1;
  if (u.method == MULTINOMIAL) {
    for (int64_t i = lane; i < u.k; i += 32)
      u.values[row * u.k + i] = float(i < entries ? double(u.gaps[row * u.k + i] + 1) / double(u.k) : 0.0);
  } else {
    const Offsets tail = offsets_at(column_of(u, s, TAIL), 0, s.n_rows * u.n_temperatures);
    if (u.method == TOPK) make_exact(u, row, tail, in_sequence, valued);
    else make_threshold(u, row, tail[in_sequence], valued, entries);
  }
  if (lane == 0 && u.entropy) {
    const int64_t at = offsets_at(column_of(u, s, ENTROPY), 0, s.n_rows)[in_sequence];
    u.entropy[row] = float(at == IMPOSSIBLE ? -double(INFINITY) : double(at) * ENTROPY_STEP_NAT);
  }
}

}  // namespace distill_cuda
