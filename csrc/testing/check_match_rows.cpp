#include <vector>

#include "checks.h"

using checks::Exactly;

// One tensor of `rows` x `cols`; every array ends where its last entry ends.
static void check_case(int64_t rows, int64_t cols) {
  std::mt19937 g(3);
  Exactly<float> a(rows * cols), b(rows * cols), out(rows * cols);
  for (int64_t i = 0; i < rows * cols; ++i) { a[i] = checks::normal(g); b[i] = checks::normal(g); }
  Exactly<int64_t> table(8);
  const int64_t entry[8] = {int64_t(a.at.get()), int64_t(b.at.get()), int64_t(out.at.get()), 0, rows, cols, 0, 0};
  for (int i = 0; i < 8; ++i) table[i] = entry[i];
  Exactly<double> sums(3 * rows), by(3 * rows);
  for (int64_t i = 0; i < 3 * rows; ++i) by[i] = 0.5 + double(i % 3);
  checks::expect(distill_match_rows(table.at.get(), 1, rows, 0, sums, nullptr) == 0, "launch");
  checks::expect(distill_combine_rows(table.at.get(), 1, rows, by, nullptr) == 0, "launch");
  for (int64_t r = 0; r < rows; ++r) {
    double ab = 0, aa = 0;
    for (int64_t i = r * cols; i < (r + 1) * cols; ++i) {
      ab += double(a[i]) * b[i];
      aa += double(a[i]) * a[i];
      const double sign = a[i] > b[i] ? 1 : a[i] < b[i] ? -1 : 0;
      checks::expect(checks::near(out[i], 0.5 * a[i] + 1.5 * b[i] + 2.5 * sign, 1e-6), "combination");
    }
    checks::expect(std::abs(sums[3 * r] - ab) < 1e-5 * (1 + aa) && checks::near(sums[3 * r + 1], aa, 1e-6), "sums");
  }
}

int main() {
  return checks::in_every_order([] {
    check_case(1, 1);
    check_case(19, 130);
    check_case(3, 8196);
  });
}
