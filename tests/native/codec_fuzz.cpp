// Feeds the codec random arrays, damaged blobs and random bytes; run under the sanitizers by test_codec.py.
// Blobs and arrays lie in heap blocks of their exact size, so that a step outside is seen.
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "integers.h"
#include "octaves.h"

using namespace distill::codec;

namespace {

using Pack = std::function<void(const int64_t*, size_t, std::string&)>;
using Unpack = std::function<size_t(Bytes, int64_t*, size_t)>;

std::mt19937_64 generator(1);
long n_refused = 0, n_read = 0;

uint64_t below(uint64_t end) { return generator() % end; }

std::vector<int64_t> random_values(int widest_bits) {
  std::vector<int64_t> values(below(60));
  for (int64_t& value : values) {
    const uint64_t n_bits = below(static_cast<uint64_t>(widest_bits) + 1);
    value = n_bits == 0 ? 0 : static_cast<int64_t>(generator() >> (64 - n_bits));
  }
  return values;
}

void read(const std::string& blob, size_t count, const Unpack& unpack) {
  std::unique_ptr<uint8_t[]> bytes(new uint8_t[blob.size()]);
  if (!blob.empty()) {
    std::memcpy(bytes.get(), blob.data(), blob.size());
  }
  std::unique_ptr<int64_t[]> values(new int64_t[count]);
  try {
    if (unpack({bytes.get(), blob.size()}, values.get(), count) > blob.size()) {
      std::fprintf(stderr, "more bytes were read than there are\n");
      std::exit(1);
    }
    ++n_read;
  } catch (const std::invalid_argument&) {
    ++n_refused;
  }
}

void round_of(const Pack& pack, const Unpack& unpack, int widest_bits) {
  const std::vector<int64_t> values = random_values(widest_bits);
  std::string blob;
  pack(values.data(), values.size(), blob);
  std::vector<int64_t> back(values.size());
  const Bytes bytes{reinterpret_cast<const uint8_t*>(blob.data()), blob.size()};
  if (unpack(bytes, back.data(), back.size()) != blob.size() || back != values) {
    std::fprintf(stderr, "an array does not come back\n");
    std::exit(1);
  }
  read(blob.substr(0, below(blob.size() + 1)), values.size(), unpack);
  read(blob, values.size() + below(3), unpack);
  for (int i = 0; i < 4 && !blob.empty(); ++i) {
    blob[below(blob.size())] ^= static_cast<char>(below(256));
    read(blob, values.size(), unpack);
  }
  std::string noise(below(80), '\0');
  for (char& byte : noise) {
    byte = static_cast<char>(generator());
  }
  read(noise, below(40), unpack);
}

}  // namespace

int main(int, char** arguments) {
  for (long round = std::atol(arguments[1]); round > 0; --round) {
    const int width = static_cast<int>(below(33));
    round_of([=](const int64_t* v, size_t n, std::string& out) { pack_fixed(v, n, width, out); },
             [=](Bytes b, int64_t* v, size_t n) { return unpack_fixed(b, width, v, n); }, width);
    round_of(pack_unary, unpack_unary, 8);
    round_of(pack_rice, unpack_rice, 40);
    round_of(pack_octaves, unpack_octaves, 32);
  }
  std::printf("%ld %ld\n", n_refused, n_read);
}
