#include <vector>

#include "checks.h"

using checks::Exactly;

// What must hold of any sample: ids in range, no impossible entry, weights that sum to 1, different ids.
static void check_case(int64_t v, int32_t k, int32_t multinomial) {
  const int64_t n = 2;
  std::mt19937 g(5);
  Exactly<float> z(n * v), weights(n * k);
  for (int64_t i = 0; i < n * v; ++i) z[i] = i % 7 == 3 ? -INFINITY : 3 * checks::normal(g);
  Exactly<int64_t> keys(n), ids(n * k);
  keys[0] = 1;
  keys[1] = -4;
  checks::expect(distill_sample_rows(z, DISTILL_FLOAT32, n, v, v, k, multinomial, 1.5, 3, keys, ids, weights,
                                     nullptr) == 0, "launch");
  for (int64_t r = 0; r < n; ++r) {
    double sum = 0;
    std::vector<bool> seen(v, false);
    for (int32_t i = 0; i < k; ++i) {
      const int64_t id = ids[r * k + i];
      sum += weights[r * k + i];
      checks::expect(id >= -1 && id < v, "id out of range");
      if (id < 0 || id >= v) continue;
      checks::expect(!seen[id], "an id twice");
      checks::expect(z[r * v + id] != -INFINITY && weights[r * k + i] > 0, "an impossible entry");
      seen[id] = true;
    }
    checks::expect(k == 0 || std::abs(sum - 1) < 1e-5, "sum of weights");
  }
}

int main() {
  return checks::in_every_order([] {
    for (int multinomial = 0; multinomial < 2; ++multinomial) {
      check_case(1, 1, multinomial);
      check_case(1030, 12, multinomial);
      check_case(3001, 300, multinomial);
      check_case(2100, 1024, multinomial);
      check_case(50, 0, multinomial);
    }
  });
}
