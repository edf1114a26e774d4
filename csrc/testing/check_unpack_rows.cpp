#include <algorithm>
#include <vector>

#include "checks.h"

using checks::Exactly;

namespace {

// Bits from the lowest of each byte on, as the store writes them.
struct Bits {
  std::vector<uint8_t> bytes;
  int64_t n = 0;
  void put(uint64_t value, int width) {
    for (int i = 0; i < width; ++i, ++n) {
      if (n % 8 == 0) bytes.push_back(0);
      bytes.back() |= uint8_t((value >> i & 1) << n % 8);
    }
  }
  void align() { n = 8 * int64_t(bytes.size()); }
};

void put_offsets(Bits& out, const std::vector<int64_t>& values, int64_t low, int width) {
  if (values.empty()) return;
  out.put(uint64_t(width), 8);
  out.put(uint32_t(low), 32);
  for (int64_t v : values) out.put(uint64_t(v - low), width);
  out.align();
}

void put_rice(Bits& out, const std::vector<int64_t>& values, int r) {
  if (values.empty()) return;
  out.put(uint64_t(r), 8);
  for (int64_t v : values) out.put(uint64_t(v), r);
  out.align();
  for (int64_t v : values) { out.put(0, int(v >> r)); out.put(1, 1); }
  out.align();
}

// Ids from 0 to 15 as octaves 0 to 11, codes of 4 bits: 16 classes of which 12 to 15 are never used.
void put_octaves(Bits& out, const std::vector<int64_t>& ids) {
  if (ids.empty()) return;
  out.put(16, 8);
  for (int i = 0; i < 16; ++i) out.put(4, 4);
  out.put((4 * ids.size() + 7) / 8, 32);
  for (int64_t id : ids) {
    const uint64_t octave = uint64_t(id < 8 ? id : 4 + id / 2);
    for (int bit = 3; bit >= 0; --bit) out.put(octave >> bit & 1, 1);
  }
  out.align();
  for (int64_t id : ids) if (id >= 8) out.put(uint64_t(id & 1), 1);
  out.align();
}

struct Sequence { Bits columns[6]; };

// Rows of a threshold sample whose counts differ; row r has (r * 5) % (k + 1) entries, half of them with a value.
struct Rows {
  int64_t n, k;
  int64_t entries(int64_t r) const { return r * 5 % (k + 1); }
  int64_t valued(int64_t r) const { return entries(r) / 2; }
  int64_t id(int64_t r, int64_t i) const { return (3 * r + i) % 16; }      // by octave
  int64_t gap(int64_t r, int64_t i) const { return (r + 2 * i) % 7; }      // sorted ids
  int64_t step(int64_t r, int64_t i) const { return (2 * r + i) % 60; }    // grid values
};

Sequence packed(const Rows& rows) {
  Sequence s;
  std::vector<int64_t> entries, valued, ids, tail;
  for (int64_t r = 0; r < rows.n; ++r) {
    entries.push_back(rows.entries(r));
    valued.push_back(rows.valued(r));
    tail.push_back(rows.entries(r) > rows.valued(r) ? -100 - r % 9 : -(1 << 24));
    for (int64_t i = 0; i < rows.valued(r); ++i) ids.push_back(rows.id(r, i));
  }
  put_offsets(s.columns[0], entries, 0, 7);
  put_offsets(s.columns[0], valued, 0, 6);
  put_octaves(s.columns[1], ids);
  for (int64_t least = 1; least <= rows.k; least *= 2) {
    std::vector<int64_t> sorted, values;
    for (int64_t r = 0; r < rows.n; ++r) {
      const int64_t m = rows.entries(r) - rows.valued(r);
      for (int64_t i = 0; i < m; ++i)
        if (m - i >= least && m - i < 2 * least) sorted.push_back(rows.gap(r, i));
      for (int64_t i = least; i < 2 * least && i < rows.valued(r); ++i) values.push_back(rows.step(r, i));
    }
    put_rice(s.columns[2], sorted, 1);
    put_rice(s.columns[3], values, 4);
  }
  put_offsets(s.columns[4], tail, -(1 << 24), 25);
  return s;
}

// The sequences as words and table, unpacked; every array ends where its last entry ends.
struct Unpacked {
  Exactly<int64_t> ids;
  Exactly<float> values, threshold;
  Exactly<int32_t> status;
};

Unpacked unpacked(const std::vector<Sequence>& sequences, int64_t n_each, int64_t k) {
  std::vector<uint8_t> bytes;
  Exactly<int64_t> table(16 * sequences.size());
  for (std::size_t s = 0; s < sequences.size(); ++s) {
    int64_t* line = table + 16 * s;
    line[0] = int64_t(s) * n_each;
    line[1] = n_each;
    for (int c = 0; c < 6; ++c) {
      const std::vector<uint8_t>& column = sequences[s].columns[c].bytes;
      line[2 + c] = int64_t(bytes.size() / 8);
      line[8 + c] = int64_t(column.size());
      bytes.insert(bytes.end(), column.begin(), column.end());
      bytes.resize((bytes.size() + 7) / 8 * 8, 0);
    }
  }
  Exactly<int64_t> words(bytes.size() / 8);
  if (!bytes.empty()) std::memcpy(words.at.get(), bytes.data(), bytes.size());
  const int64_t rows = n_each * int64_t(sequences.size());
  const double temperature = 1;
  Unpacked out{Exactly<int64_t>(rows * k), Exactly<float>(rows * k), Exactly<float>(rows),
               Exactly<int32_t>(4 * sequences.size())};
  Exactly<int64_t> gaps(rows * k), starts(3 * rows);
  checks::expect(distill_unpack_rows(words, int64_t(words.n), table, int64_t(sequences.size()), rows, k, 1, 1000,
                                     &temperature, 1, 1.0 / 128, out.ids, out.values, out.threshold, nullptr, gaps,
                                     starts, out.status, nullptr) == 0,
                 "launch");
  return out;
}

void check_row(const Rows& rows, int64_t r, const int64_t* ids, const float* values, float threshold) {
  const int64_t m = rows.entries(r) - rows.valued(r);
  const double mass = m > 0 ? std::exp((-100 - double(r % 9)) / 128) : 0, each = m > 0 ? mass / double(m) : 0;
  std::vector<double> weights;
  double grid = 0, total = mass;
  for (int64_t i = 0; i < rows.valued(r); ++i) {
    if (i > 0) grid += double(rows.step(r, i));
    weights.push_back(std::max(std::exp(-grid / 128), each * (1 + std::pow(2.0, -20))));
    total += weights.back();
  }
  int64_t id = -1;
  for (int64_t i = 0; i < rows.k; ++i) {
    const bool head = i < rows.valued(r), sampled = !head && i < rows.entries(r);
    if (sampled) id += rows.gap(r, i - rows.valued(r)) + 1;
    checks::expect(ids[i] == (head ? rows.id(r, i) : sampled ? id : -1), "id");
    const double weight = head ? weights[std::size_t(i)] : sampled ? each : 0;
    checks::expect(checks::near(values[i], total > 0 ? weight / total : 0, 1e-7), "weight");
  }
  checks::expect(checks::near(threshold, total > 0 ? each / total : 0, 1e-7), "threshold");
}

// Two sequences of `n` rows, and a broken one between them: `damage` says what is broken.
template <class F>
void check_case(int64_t n, int64_t k, F damage) {
  const Rows rows{n, k};
  std::vector<Sequence> sequences(3, packed(rows));
  damage(sequences[1]);
  const Unpacked out = unpacked(sequences, n, k);
  for (int64_t s : {int64_t(0), int64_t(2)})
    for (int64_t r = 0; r < n; ++r) {
      const int64_t row = s * n + r;
      check_row(rows, r, out.ids.at.get() + row * k, out.values.at.get() + row * k, out.threshold.at[row]);
    }
  for (int i = 0; i < 4; ++i)
    checks::expect(out.status.at[i] == 0 && out.status.at[8 + i] == 0, "status of a sound sequence");
  for (int64_t i = n * k; i < 2 * n * k; ++i) checks::expect(out.ids.at[i] >= -1, "ids of a broken sequence");
}

}  // namespace

int main() {
  return checks::in_every_order([] {
    const auto sound = [](Sequence&) {};
    check_case(0, 4, sound);
    check_case(7, 0, sound);
    check_case(5, 1, sound);
    check_case(270, 3, sound);
    check_case(16, 70, sound);
    std::mt19937 g(9);
    for (int i = 0; i < 10; ++i)
      check_case(6, 5, [&](Sequence& s) {
        std::vector<uint8_t>& bytes = s.columns[i % 5].bytes;
        if (i % 3 == 0) bytes.resize(g() % (bytes.size() + 1));
        else if (i % 3 == 1) bytes[g() % bytes.size()] ^= uint8_t(1 + g() % 255);
        else for (uint8_t& byte : bytes) byte = uint8_t(g());
      });
  });
}
