// Bits to and from bytes: each byte is filled from its lowest bit, a value's lowest bit comes first.
#pragma once

#include <cstddef>
#include <cstdint>
#include <stdexcept>
#include <string>

namespace distill::codec {

struct Bytes {
  const uint8_t* data;
  size_t size;

  // What follows the first n bytes; the caller has checked that they are there.
  Bytes after(size_t n) const { return {data + n, size - n}; }
};

class BitWriter {
 public:
  explicit BitWriter(std::string& out) : out_(out) {}

  // The lowest `width` (0 to 32) bits of `value`.
  void put(uint64_t value, int width) {
    pending_ |= (value & ((uint64_t{1} << width) - 1)) << n_pending_;
    n_pending_ += width;
    if (n_pending_ >= 32) {
      write_bytes(4);
    }
  }

  void put_zeros(uint64_t count) {
    for (; count >= 32; count -= 32) {
      put(0, 32);
    }
    put(0, static_cast<int>(count));
  }

  // Pads to a whole byte with zeros.
  void finish() {
    n_pending_ = (n_pending_ + 7) / 8 * 8;
    write_bytes(n_pending_ / 8);
  }

 private:
  void write_bytes(int count) {
    char bytes[4];
    for (int i = 0; i < count; ++i) {
      bytes[i] = static_cast<char>(pending_ >> (8 * i) & 0xff);
    }
    out_.append(bytes, static_cast<size_t>(count));
    pending_ >>= 8 * count;
    n_pending_ -= 8 * count;
  }

  std::string& out_;
  uint64_t pending_ = 0;
  int n_pending_ = 0;  // below 32 between calls
};

// The 64 bits that begin at a byte; zeros follow the last one.
inline uint64_t window_at(Bytes bytes, size_t byte) {
  uint64_t bits = 0;
  if (byte + 8 <= bytes.size) {
    for (int i = 0; i < 8; ++i) {  // compilers make one load of it
      bits |= uint64_t{bytes.data[byte + static_cast<size_t>(i)]} << (8 * i);
    }
    return bits;
  }
  for (size_t i = byte; i < bytes.size; ++i) {
    bits |= uint64_t{bytes.data[i]} << (8 * (i - byte));
  }
  return bits;
}

// `width` (0 to 32) bits from bit number `place` on.
inline uint64_t bits_at(Bytes bytes, uint64_t place, int width) {
  return window_at(bytes, static_cast<size_t>(place >> 3)) >> (place & 7) & ((uint64_t{1} << width) - 1);
}

}  // namespace distill::codec
