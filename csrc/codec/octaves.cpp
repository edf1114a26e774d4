#include "octaves.h"

#include <algorithm>
#include <functional>
#include <queue>
#include <utility>
#include <vector>

#include "integers.h"

namespace distill::codec {
namespace {

constexpr int kMantissaBits = 2;
constexpr size_t kMaxClasses = 124;
constexpr int kMaxCodeBits = 12;
constexpr size_t kTableSize = size_t{1} << kMaxCodeBits;

int shift_of_value(uint64_t value) {
  const int bit_length = value == 0 ? 0 : 64 - __builtin_clzll(value);
  return std::max(bit_length - 1 - kMantissaBits, 0);
}

size_t class_of_value(uint64_t value) {
  const int shift = shift_of_value(value);
  return (static_cast<size_t>(shift) << kMantissaBits) + static_cast<size_t>(value >> shift);
}

int shift_of_class(size_t number) { return std::max(static_cast<int>(number >> kMantissaBits) - 1, 0); }

// Depth of each leaf in Huffman's tree: of equal weights the older node goes first, leaves in their order.
std::vector<int> leaf_depths(const std::vector<uint64_t>& weights) {
  using Node = std::pair<uint64_t, size_t>;
  std::priority_queue<Node, std::vector<Node>, std::greater<>> lightest;
  for (size_t leaf = 0; leaf < weights.size(); ++leaf) {
    lightest.emplace(weights[leaf], leaf);
  }
  const size_t n_nodes = 2 * weights.size() - 1;
  std::vector<size_t> parents(n_nodes, 0);
  for (size_t parent = weights.size(); parent < n_nodes; ++parent) {
    uint64_t weight = 0;
    for (int child = 0; child < 2; ++child) {
      weight += lightest.top().first;
      parents[lightest.top().second] = parent;
      lightest.pop();
    }
    lightest.emplace(weight, parent);
  }
  std::vector<int> depths(n_nodes, 0);
  for (size_t node = n_nodes - 1; node-- > 0;) {  // a parent is younger than its children
    depths[node] = depths[parents[node]] + 1;
  }
  depths.resize(weights.size());
  return depths;
}

std::vector<int64_t> code_lengths(const std::vector<uint64_t>& weights) {
  std::vector<size_t> used;
  std::vector<uint64_t> used_weights;
  for (size_t number = 0; number < weights.size(); ++number) {
    if (weights[number] != 0) {
      used.push_back(number);
      used_weights.push_back(weights[number]);
    }
  }
  std::vector<int> depths = {1};  // a lone class
  while (used.size() > 1) {
    depths = leaf_depths(used_weights);
    if (*std::max_element(depths.begin(), depths.end()) <= kMaxCodeBits) {
      break;
    }
    for (uint64_t& weight : used_weights) {
      weight = (weight + 1) >> 1;
    }
  }
  std::vector<int64_t> lengths(weights.size(), 0);
  for (size_t i = 0; i < used.size(); ++i) {
    lengths[used[i]] = depths[i];
  }
  return lengths;
}

// Canonical codes, by length and then class; their first bit lowest.
std::vector<uint64_t> reversed_codes(const std::vector<int64_t>& lengths) {
  std::vector<uint64_t> codes(lengths.size(), 0);
  uint64_t code = 0;
  for (int length = 1; length <= kMaxCodeBits; ++length, code <<= 1) {
    for (size_t number = 0; number < lengths.size(); ++number) {
      if (lengths[number] == length) {
        for (int bit = 0; bit < length; ++bit) {
          codes[number] |= (code >> bit & 1) << (length - 1 - bit);
        }
        ++code;
      }
    }
  }
  return codes;
}

struct Entry {
  uint8_t number;
  uint8_t length;  // 0: no code begins so
};

// Which code each string of kMaxCodeBits bits begins with.
std::vector<Entry> decoding_table(const std::vector<int64_t>& lengths) {
  size_t kraft = 0, n_used = 0;
  bool too_long = false;
  for (const int64_t length : lengths) {
    too_long |= length > kMaxCodeBits;
    if (length > 0 && length <= kMaxCodeBits) {
      kraft += kTableSize >> length;
      ++n_used;
    }
  }
  const bool lone = n_used == 1 && kraft == kTableSize / 2;
  if (too_long || !(lone || kraft == kTableSize)) {
    throw std::invalid_argument("the code lengths make no prefix code");
  }
  std::vector<Entry> table(kTableSize, Entry{0, 0});
  const std::vector<uint64_t> codes = reversed_codes(lengths);
  for (size_t number = 0; number < lengths.size(); ++number) {
    if (lengths[number] > 0) {
      for (size_t i = codes[number]; i < kTableSize; i += size_t{1} << lengths[number]) {
        table[i] = {static_cast<uint8_t>(number), static_cast<uint8_t>(lengths[number])};
      }
    }
  }
  return table;
}

void read_classes(Bytes codes, const std::vector<Entry>& table, int64_t* classes, size_t count) {
  const uint64_t n_bits = 8 * uint64_t{codes.size};
  uint64_t place = 0;
  bool broken = false;
  for (size_t i = 0; i < count && !broken; ++i) {
    broken = place >= n_bits;
    if (!broken) {
      const Entry entry = table[bits_at(codes, place, kMaxCodeBits)];
      broken = entry.length == 0;
      classes[i] = entry.number;
      place += entry.length;
    }
  }
  if (broken || (place + 7) / 8 != codes.size) {
    throw std::invalid_argument(std::to_string(codes.size) + " bytes of codes do not hold " + std::to_string(count) +
                                " classes");
  }
}

// Classes become values, by their lower bits; returns the bytes read.
size_t read_low_bits(Bytes bytes, int64_t* values, size_t count) {
  uint64_t n_bits = 0;
  for (size_t i = 0; i < count; ++i) {
    n_bits += static_cast<uint64_t>(shift_of_class(static_cast<size_t>(values[i])));
  }
  const uint64_t n_bytes = (n_bits + 7) / 8;
  if (bytes.size < n_bytes) {
    throw std::invalid_argument(std::to_string(count) + " values need " + std::to_string(n_bytes) + " bytes; " +
                                std::to_string(bytes.size) + " are there");
  }
  uint64_t place = 0;
  for (size_t i = 0; i < count; ++i) {
    const auto number = static_cast<uint64_t>(values[i]);
    const int shift = shift_of_class(number);
    const uint64_t top = number - (static_cast<uint64_t>(shift) << kMantissaBits);
    values[i] = static_cast<int64_t>(top << shift | bits_at(bytes, place, shift));
    place += static_cast<uint64_t>(shift);
  }
  return static_cast<size_t>(n_bytes);
}

}  // namespace

void pack_octaves(const int64_t* values, size_t count, std::string& out) {
  if (count == 0) {
    return;
  }
  std::vector<uint64_t> weights;
  for (size_t i = 0; i < count; ++i) {
    if (values[i] < 0 || values[i] >> 32 != 0) {
      throw std::invalid_argument("a value of " + std::to_string(values[i]) + "; expected 0 to 2^32 - 1");
    }
    const size_t number = class_of_value(static_cast<uint64_t>(values[i]));
    if (number >= weights.size()) {
      weights.resize(number + 1, 0);
    }
    ++weights[number];
  }
  const std::vector<int64_t> lengths = code_lengths(weights);
  const std::vector<uint64_t> codes = reversed_codes(lengths);
  uint64_t n_code_bits = 0;
  for (size_t number = 0; number < lengths.size(); ++number) {
    n_code_bits += weights[number] * static_cast<uint64_t>(lengths[number]);
  }
  const uint64_t n_code_bytes = (n_code_bits + 7) / 8;
  if (n_code_bytes >> 32 != 0) {
    throw std::invalid_argument("the codes take more than 4 GiB");
  }
  out.push_back(static_cast<char>(lengths.size()));
  pack_fixed(lengths.data(), lengths.size(), 4, out);
  const auto stated = static_cast<int64_t>(n_code_bytes);
  pack_fixed(&stated, 1, 32, out);
  BitWriter writer(out);
  for (size_t i = 0; i < count; ++i) {
    const size_t number = class_of_value(static_cast<uint64_t>(values[i]));
    writer.put(codes[number], static_cast<int>(lengths[number]));
  }
  writer.finish();
  BitWriter low(out);
  for (size_t i = 0; i < count; ++i) {
    low.put(static_cast<uint64_t>(values[i]), shift_of_value(static_cast<uint64_t>(values[i])));
  }
  low.finish();
}

size_t unpack_octaves(Bytes bytes, int64_t* values, size_t count) {
  if (count == 0) {
    return 0;
  }
  const size_t n_classes = bytes.size == 0 ? 0 : bytes.data[0];
  const size_t header = 1 + (n_classes + 1) / 2 + 4;
  if (n_classes < 1 || n_classes > kMaxClasses || bytes.size < header) {
    throw std::invalid_argument("a table of " + std::to_string(n_classes) + " codes in " +
                                std::to_string(bytes.size) + " bytes; expected 1 to 124 codes");
  }
  std::vector<int64_t> lengths(n_classes);
  const size_t table_bytes = unpack_fixed(bytes.after(1), 4, lengths.data(), n_classes);
  int64_t stated = 0;
  unpack_fixed(bytes.after(1 + table_bytes), 32, &stated, 1);
  const Bytes rest = bytes.after(header);
  const auto n_code_bytes = static_cast<size_t>(stated);
  if (rest.size < n_code_bytes) {
    throw std::invalid_argument("codes take " + std::to_string(n_code_bytes) + " bytes; " +
                                std::to_string(rest.size) + " are there");
  }
  read_classes({rest.data, n_code_bytes}, decoding_table(lengths), values, count);
  return header + n_code_bytes + read_low_bits(rest.after(n_code_bytes), values, count);
}

}  // namespace distill::codec
