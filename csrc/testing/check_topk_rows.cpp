#include <algorithm>
#include <numeric>
#include <vector>

#include "checks.h"

using checks::Exactly;

// Rows of `v` entries of which many tie when `levels` is small; k of them kept.
static void check_case(int64_t v, int32_t k, int levels) {
  const int64_t n = 2;
  std::mt19937 g(5);
  Exactly<float> z(n * v);
  for (std::size_t i = 0; i < z.n; ++i) z[i] = std::round(3 * checks::normal(g) * float(levels)) / float(levels);
  const double temperatures[2] = {1.0, 2.0};
  Exactly<int64_t> ids(n * k);
  Exactly<float> top(n * k), tails(n * 2);
  checks::expect(distill_topk_rows(z, DISTILL_FLOAT32, n, v, v, k, temperatures, 2, ids, top, tails, nullptr) == 0,
                 "launch");
  for (int64_t r = 0; r < n; ++r) {
    const float* row = z + r * v;
    std::vector<int64_t> order(v);
    std::iota(order.begin(), order.end(), 0);
    std::stable_sort(order.begin(), order.end(), [&](int64_t a, int64_t b) { return row[a] > row[b]; });
    for (int32_t i = 0; i < k; ++i)
      checks::expect(ids[r * k + i] == order[i] && top[r * k + i] == row[order[i]], "top k");
    for (int t = 0; t < 2; ++t) {
      double sum = 0;
      for (int64_t i = k; i < v; ++i) sum += std::exp(row[order[i]] / temperatures[t]);
      checks::expect(k == v ? tails[r * 2 + t] == -INFINITY : checks::near(tails[r * 2 + t], std::log(sum), 2e-6),
                     "tail");
    }
  }
}

int main() {
  return checks::in_every_order([] {
    check_case(1, 1, 4);
    check_case(7, 7, 4);
    check_case(1025, 64, 1000);
    check_case(2050, 64, 1);
    check_case(5003, 300, 4);
    check_case(2100, 1024, 1000);
    check_case(1100, 0, 1000);
  });
}
