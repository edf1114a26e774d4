#include "integers.h"

#include <algorithm>
#include <limits>

namespace distill::codec {
namespace {

constexpr int64_t kMaxRice = int64_t{1} << 40;
constexpr int kMaxRiceBits = 31;

void check_width(int width) {
  if (width < 0 || width > 32) {
    throw std::invalid_argument("values of " + std::to_string(width) + " bits; expected 0 to 32");
  }
}

void check_range(const int64_t* values, size_t count, int64_t end) {
  const auto [low, high] = std::minmax_element(values, values + count);
  if (*low < 0 || *high >= end) {
    throw std::invalid_argument("values go from " + std::to_string(*low) + " to " + std::to_string(*high) +
                                "; expected 0 to " + std::to_string(end - 1));
  }
}

// (width * count + 7) / 8 without overflow: count is at most 2^60, the size of an array of int64.
size_t fixed_bytes(int width, size_t count) {
  const auto w = static_cast<size_t>(width);
  return count / 8 * w + (count % 8 * w + 7) / 8;
}

void put_unary(BitWriter& writer, uint64_t value) {
  writer.put_zeros(value);
  writer.put(1, 1);
}

// The number of low bits that makes the code shortest; of equally good ones the smallest.
int best_rice_bits(const int64_t* values, size_t count) {
  int best = 0;
  uint64_t best_cost = std::numeric_limits<uint64_t>::max();
  for (int r = 0; r <= kMaxRiceBits; ++r) {
    uint64_t cost = count * static_cast<uint64_t>(r + 1);
    for (size_t i = 0; i < count; ++i) {
      cost += static_cast<uint64_t>(values[i]) >> r;
    }
    if (cost < best_cost) {
      best_cost = cost;
      best = r;
    }
  }
  return best;
}

}  // namespace

void pack_fixed(const int64_t* values, size_t count, int width, std::string& out) {
  check_width(width);
  out.reserve(out.size() + fixed_bytes(width, count) + 4);
  BitWriter writer(out);
  for (size_t i = 0; i < count; ++i) {
    writer.put(static_cast<uint64_t>(values[i]), width);
  }
  writer.finish();
}

size_t unpack_fixed(Bytes bytes, int width, int64_t* values, size_t count) {
  check_width(width);
  const size_t n_bytes = fixed_bytes(width, count);
  if (bytes.size < n_bytes) {
    throw std::invalid_argument(std::to_string(count) + " values of " + std::to_string(width) + " bits need " +
                                std::to_string(n_bytes) + " bytes; " + std::to_string(bytes.size) + " are there");
  }
  for (size_t i = 0; i < count; ++i) {
    values[i] = static_cast<int64_t>(bits_at(bytes, uint64_t{i} * static_cast<uint64_t>(width), width));
  }
  return n_bytes;
}

void pack_unary(const int64_t* values, size_t count, std::string& out) {
  if (count == 0) {
    return;
  }
  check_range(values, count, std::numeric_limits<int64_t>::max());
  BitWriter writer(out);
  for (size_t i = 0; i < count; ++i) {
    put_unary(writer, static_cast<uint64_t>(values[i]));
  }
  writer.finish();
}

size_t unpack_unary(Bytes bytes, int64_t* values, size_t count) {
  size_t found = 0;
  int64_t zeros = 0;
  for (size_t byte = 0; found < count; ++byte) {
    if (byte == bytes.size) {
      throw std::invalid_argument("a unary code of " + std::to_string(count) + " values ends after " +
                                  std::to_string(found));
    }
    int64_t left = 8;  // bits of this byte that are not read yet
    for (unsigned bits = bytes.data[byte]; bits != 0; bits >>= 1) {
      const int skipped = __builtin_ctz(bits);
      bits >>= skipped;
      left -= skipped + 1;
      values[found++] = zeros + skipped;
      zeros = 0;
      if (found == count) {
        return byte + 1;
      }
    }
    zeros += left;
  }
  return 0;  // count is 0
}

void pack_rice(const int64_t* values, size_t count, std::string& out) {
  if (count == 0) {
    return;
  }
  check_range(values, count, kMaxRice);
  const int r = best_rice_bits(values, count);
  out.push_back(static_cast<char>(r));
  pack_fixed(values, count, r, out);
  BitWriter writer(out);
  for (size_t i = 0; i < count; ++i) {
    put_unary(writer, static_cast<uint64_t>(values[i]) >> r);
  }
  writer.finish();
}

size_t unpack_rice(Bytes bytes, int64_t* values, size_t count) {
  if (count == 0) {
    return 0;
  }
  if (bytes.size == 0) {
    throw std::invalid_argument(std::to_string(count) + " values are missing");
  }
  const int r = bytes.data[0];
  if (r > kMaxRiceBits) {
    throw std::invalid_argument("a Rice code has " + std::to_string(r) + " low bits; expected at most 31");
  }
  const Bytes low = bytes.after(1);
  const size_t low_bytes = fixed_bytes(r, count);
  if (low.size < low_bytes) {
    throw std::invalid_argument(std::to_string(count) + " values of " + std::to_string(r) + " bits need " +
                                std::to_string(low_bytes) + " bytes; " + std::to_string(low.size) + " are there");
  }
  const size_t high_bytes = unpack_unary(low.after(low_bytes), values, count);
  for (size_t i = 0; i < count; ++i) {
    if (values[i] >= kMaxRice >> r) {
      throw std::invalid_argument("a Rice code holds a value of 2^40 or more");
    }
    const uint64_t low_bits = bits_at(low, uint64_t{i} * static_cast<uint64_t>(r), r);
    values[i] = static_cast<int64_t>(static_cast<uint64_t>(values[i]) << r | low_bits);
  }
  return 1 + low_bytes + high_bytes;
}

}  // namespace distill::codec
