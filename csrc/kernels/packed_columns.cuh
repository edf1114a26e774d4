// Columns of a store's shard in device memory, read by a block: fixed widths, unary, Rice and octave codes. The format is
// that of distill_core/store/bits.py, octaves.py and coding.py.
//
// Nothing is read outside a column, whatever its bytes say: bits behind its last byte are 0. What no writer writes is
// refused by the value false or REFUSED, the same for all threads of the block.
#pragma once

#include "block_scan.cuh"

namespace distill_cuda {

constexpr int64_t REFUSED = -1;
constexpr int64_t MAX_RICE = int64_t(1) << 40;
constexpr int MAX_RICE_BITS = 31;

struct Column {
  const uint64_t* words;  // zeros fill the last one
  int64_t n_bytes;
};

__device__ inline uint64_t word_at(Column c, int64_t index) { return index < (c.n_bytes + 7) / 8 ? c.words[index] : 0; }

// `width` (0 to 32) bits from bit `place` on.
__device__ inline uint32_t bits_at(Column c, int64_t place, int width) {
  const int shift = int(place % 64);
  uint64_t bits = word_at(c, place / 64) >> shift;
  if (shift + width > 64) bits |= word_at(c, place / 64 + 1) << (64 - shift);
  return uint32_t(bits & ((uint64_t(1) << width) - 1));
}

__device__ inline int byte_at(Column c, int64_t index) { return int(bits_at(c, 8 * index, 8)); }

// Integers of a fixed width above a smallest one: each is read by itself.
struct Offsets {
  Column column;
  int64_t first_bit, low, end;  // end: the byte behind, or REFUSED
  int width;
  __device__ int64_t operator[](int64_t i) const { return low + bits_at(column, first_bit + i * width, width); }
};

__device__ inline Offsets offsets_at(Column c, int64_t first, int64_t count) {
  if (count == 0) return {c, 8 * first, 0, first, 0};
  if (first < 0 || c.n_bytes - first < 5) return {c, 0, 0, REFUSED, 0};
  const int width = byte_at(c, first);
  const int64_t low = int32_t(bits_at(c, 8 * first + 8, 32));
  const int64_t end = first + 5 + (width * count + 7) / 8;
  if (width > 32 || end > c.n_bytes) return {c, 0, 0, REFUSED, 0};
  return {c, 8 * (first + 5), low, end, width};
}

// Which row holds the i-th of the entries that lie one row after the other.
struct Rows {
  const int64_t* starts;  // entries of all rows before
  int64_t n;
  int64_t row;

  __device__ void find(int64_t entry) {
    int64_t low = 0, high = n;
    while (high - low > 1) {
      const int64_t middle = (low + high) / 2;
      if (starts[middle] <= entry) low = middle; else high = middle;
    }
    row = low;
  }
  __device__ void go_on_to(int64_t entry) {
    while (row + 1 < n && starts[row + 1] <= entry) ++row;
  }
  __device__ int64_t place(int64_t entry) const { return entry - starts[row]; }
};

// starts[row] = entries of the rows before, by `count(row)`; returns the entries of all.
template <class Count>
__device__ inline int64_t count_rows(int64_t n, int64_t* starts, Count count) {
  int64_t total = 0;
  for (int64_t base = 0; base < n; base += SCAN_THREADS) {
    const int64_t row = base + threadIdx.x;
    const Scanned entries = block_scan(row < n ? count(row) : 0, 0, Add());
    if (row < n) starts[row] = total + entries.before;
    total += entries.all;
  }
  __syncthreads();
  return total;
}

// `count` integers in unary from byte `first` on: at(row, place in the row, entry, value). Returns the byte behind.
template <class At>
__device__ inline int64_t read_unary(Column c, int64_t first, int64_t count, Rows rows, At at) {
  DISTILL_SHARED(int64_t, behind, );
  if (count == 0) return first;
  const int64_t n_bits = 8 * (c.n_bytes - first);
  int64_t found = 0, last_one = -1;
  for (int64_t base = 0; base < n_bits && found < count; base += 32 * SCAN_THREADS) {
    const int64_t start = base + 32 * int64_t(threadIdx.x);
    uint32_t ones = start < n_bits ? bits_at(c, 8 * first + start, 32) : 0;
    const Scanned before = block_scan(__popc(ones), 0, Add());
    const Scanned latest = block_scan(ones ? start + 31 - __clz(int(ones)) : -1, -1, Larger());
    int64_t entry = found + before.before;
    int64_t previous = latest.before > last_one ? latest.before : last_one;
    if (ones && entry < count) rows.find(entry);
    for (; ones && entry < count; ones &= ones - 1, ++entry) {
      const int64_t one = start + __ffs(int(ones)) - 1;
      rows.go_on_to(entry);
      at(rows.row, rows.place(entry), entry, one - previous - 1);
      if (entry == count - 1) behind = first + one / 8 + 1;
      previous = one;
    }
    found += before.all;
    if (latest.all > last_one) last_one = latest.all;
  }
  __syncthreads();
  const int64_t end = found < count ? REFUSED : behind;
  __syncthreads();
  return end;
}

// The same for a Rice code.
template <class At>
__device__ inline int64_t read_rice(Column c, int64_t first, int64_t count, Rows rows, At at) {
  if (count == 0) return first;
  const int low_bits = first < c.n_bytes ? byte_at(c, first) : MAX_RICE_BITS + 1;
  const int64_t low_first = 8 * (first + 1), high_first = first + 1 + (low_bits * count + 7) / 8;
  if (low_bits > MAX_RICE_BITS || high_first > c.n_bytes) return REFUSED;
  bool too_large = false;
  const int64_t end = read_unary(c, high_first, count, rows, [&](int64_t row, int64_t place, int64_t i, int64_t high) {
    too_large |= high >= MAX_RICE >> low_bits;
    at(row, place, high << low_bits | bits_at(c, low_first + i * low_bits, low_bits));
  });
  return __syncthreads_or(too_large) ? REFUSED : end;
}

}  // namespace distill_cuda
