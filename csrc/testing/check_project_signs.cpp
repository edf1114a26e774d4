#include "checks.h"

using checks::Exactly;

static uint64_t mix(uint64_t x) {
  x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9;
  x = (x ^ x >> 27) * 0x94D049BB133111EB;
  return x ^ x >> 31;
}

static void check_case(int64_t n, int64_t features, int64_t dim) {
  std::mt19937 g(3);
  const uint64_t golden = 0x9E3779B97F4A7C15, seed = 9, first = 5;
  Exactly<float> x(n * features), out(n * dim);
  for (int64_t i = 0; i < n * features; ++i) x[i] = checks::normal(g);
  Exactly<double> scratch(distill_project_scratch(n, features, dim)), total(n * dim);
  checks::expect(distill_project_signs(x, DISTILL_FLOAT32, n, features, features, dim, seed, first, 1, scratch, total,
                                       out, 0.5, nullptr) == 0, "launch");
  for (int64_t i = 0; i < n * dim; ++i) {
    const uint64_t column = uint64_t(i % dim);
    double sum = 0;
    for (int64_t f = 0; f < features; ++f) {
      const uint64_t state = mix(mix(seed + golden) + (first + uint64_t(f)) * golden);
      const bool minus = mix(state + (column / 64 + 1) * golden) >> column % 64 & 1;
      sum += minus ? -x[i / dim * features + f] : x[i / dim * features + f];
    }
    checks::expect(std::abs(total[i] - sum) < 1e-4 && std::abs(out[i] - 0.5 * sum) < 1e-4, "projection");
  }
}

int main() {
  return checks::in_every_order([] {
    check_case(1, 1, 1);
    check_case(9, 300, 70);
    check_case(1, (1 << 15) + 3, 3);
  });
}
