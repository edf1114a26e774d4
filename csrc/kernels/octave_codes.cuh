// Huffman-coded octaves, decoded by all threads of a block at once: each thread starts somewhere, right or wrong, and
// starts again where the thread before it ended until nobody moves. A prefix code finds its beat within a few codes, so
// that takes two or three rounds; the result is that of decoding from the start, in any case.
#pragma once

#include "packed_columns.cuh"

namespace distill_cuda {

constexpr int MAX_CLASSES = 124;
constexpr int MAX_CODE_BITS = 12;
constexpr int TABLE_SIZE = 1 << MAX_CODE_BITS;
constexpr int SPAN_BITS = 128;                     // a thread's share of the codes, per step
constexpr int64_t NOWHERE = int64_t(1) << 60;      // behind a string of bits that is no code

__device__ inline int shift_of_class(int number) { return number < 8 ? 0 : (number >> 2) - 1; }

// Class, and length of its code << 8, by the next 12 bits; 0: no code. False for lengths that make no prefix code.
__device__ inline bool decoding_table(Column c, int n_classes, uint16_t* table) {
  DISTILL_SHARED(int, of_length, [16]);
  DISTILL_SHARED(uint8_t, length_of, [MAX_CLASSES]);
  for (int i = threadIdx.x; i < TABLE_SIZE; i += SCAN_THREADS) table[i] = 0;
  if (threadIdx.x < 16) of_length[threadIdx.x] = 0;
  __syncthreads();
  const int mine = int(threadIdx.x), length = mine < n_classes ? int(bits_at(c, 8 + 4 * mine, 4)) : 0;
  if (mine < n_classes) length_of[mine] = uint8_t(length);
  if (length > 0) atomicAdd(&of_length[length], 1);
  __syncthreads();
  int kraft = 0, used = 0, first = 0;  // first: the first code of this thread's length
  for (int l = 1; l < 16; ++l) {
    used += of_length[l];
    if (l <= MAX_CODE_BITS) kraft += of_length[l] * (TABLE_SIZE >> l);
    if (l <= length) first = (first + (l > 1 ? of_length[l - 1] : 0)) << 1;
  }
  const bool too_long = of_length[13] + of_length[14] + of_length[15] > 0;
  const bool lone = used == 1 && of_length[1] == 1;
  if (too_long || !(lone || kraft == TABLE_SIZE)) return false;
  if (length > 0) {
    int code = first, reversed = 0;
    for (int other = 0; other < mine; ++other) code += length_of[other] == length;
    for (int bit = 0; bit < length; ++bit) reversed |= (code >> bit & 1) << (length - 1 - bit);
    for (int i = reversed; i < TABLE_SIZE; i += 1 << length) table[i] = uint16_t(mine | length << 8);
  }
  __syncthreads();
  return true;
}

struct Span { int64_t end, count, low_bits; };

// The codes that begin in [place, until): at(class, bit behind the code) for each.
template <class At>
__device__ inline Span read_span(Column c, int64_t codes, int64_t place, int64_t until, const uint16_t* table, At at) {
  Span span{place, 0, 0};
  while (span.end < until) {
    const int entry = table[bits_at(c, codes + span.end, MAX_CODE_BITS)];
    if (entry == 0) { span.end = NOWHERE; break; }
    span.end += entry >> 8;
    at(entry & 0xff, span.end);
    ++span.count;
    span.low_bits += shift_of_class(entry & 0xff);
  }
  return span;
}

// Where this thread's codes begin, guessed to be at `from`: behind those of the thread before it, thread 0's at `start`.
// `span` are the codes from there to `until`; `next` becomes where the last thread's end.
__device__ inline int64_t settle(Column c, int64_t codes, int64_t start, int64_t from, int64_t until,
                                 const uint16_t* table, Span& span, int64_t& next) {
  DISTILL_SHARED(int64_t, ends, [SCAN_THREADS]);
  const auto nothing = [](int, int64_t) {};
  if (threadIdx.x == 0) from = start;
  span = read_span(c, codes, from, until, table, nothing);
  for (;;) {
    ends[threadIdx.x] = span.end;
    __syncthreads();
    const int64_t right = threadIdx.x == 0 ? start : ends[threadIdx.x - 1];
    next = ends[SCAN_THREADS - 1];
    if (!__syncthreads_or(right != from)) return from;
    if (right != from) {
      from = right;
      span = read_span(c, codes, from, until, table, nothing);
    }
  }
}

// A whole column of `count` integers by octave: at(row, place in the row, value). False where it is refused.
template <class At>
__device__ inline bool read_octaves(Column c, int64_t count, Rows rows, At at) {
  DISTILL_SHARED(uint16_t, table, [TABLE_SIZE]);
  DISTILL_SHARED(int64_t, behind, [2]);  // bits of codes and of lower bits up to the last integer
  if (count == 0) return c.n_bytes == 0;
  const int n_classes = byte_at(c, 0);
  const int64_t header = 1 + (n_classes + 1) / 2 + 4;
  if (n_classes < 1 || n_classes > MAX_CLASSES || c.n_bytes < header) return false;
  const int64_t code_bytes = bits_at(c, 8 * (header - 4), 32), codes = 8 * header, low = codes + 8 * code_bytes;
  if (c.n_bytes - header < code_bytes || !decoding_table(c, n_classes, table)) return false;
  int64_t found = 0, low_found = 0, start = 0;
  for (int64_t step = 0; step < 8 * code_bytes && found < count; step += SPAN_BITS * SCAN_THREADS) {
    const int64_t guess = step + SPAN_BITS * int64_t(threadIdx.x);
    const int64_t until = guess + SPAN_BITS < 8 * code_bytes ? guess + SPAN_BITS : 8 * code_bytes;
    Span span;
    const int64_t from = settle(c, codes, start, guess, until, table, span, start);
    const Scanned before = block_scan(span.count, 0, Add()), low_before = block_scan(span.low_bits, 0, Add());
    int64_t entry = found + before.before, low_place = low_found + low_before.before;
    if (span.count > 0 && entry < count) rows.find(entry);
    read_span(c, codes, from, until, table, [&](int number, int64_t end) {
      const int shift = shift_of_class(number);
      if (entry < count) {
        rows.go_on_to(entry);
        at(rows.row, rows.place(entry),
           int64_t(number - (shift << 2)) << shift | bits_at(c, low + low_place, shift));
      }
      low_place += shift;
      if (entry == count - 1) { behind[0] = end; behind[1] = low_place; }
      ++entry;
    });
    found += before.all;
    low_found += low_before.all;
  }
  __syncthreads();
  return found >= count && (behind[0] + 7) / 8 == code_bytes &&
         header + code_bytes + (behind[1] + 7) / 8 == c.n_bytes;
}

}  // namespace distill_cuda
