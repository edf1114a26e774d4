#include "on_device.h"

namespace distill_cuda {
namespace {

void check_table(const Tensor& table, int64_t rows) {
  STD_TORCH_CHECK(table.dim() == 2 && table.size(1) == 8 && table.scalar_type() == ScalarType::Long && table.is_contiguous(),
                  "wants a contiguous int64 table with eight columns");
  STD_TORCH_CHECK(rows >= 0 && rows < (1LL << 31), "at most 2^31 - 1 rows in one launch");
}

Tensor match_rows(const Tensor& table, int64_t rows, bool difference) {
  check_table(table, rows);
  const OnDevice on(table);
  Tensor sums = torch::stable::new_empty(table, {rows, 3}, ScalarType::Double);
  check(distill_match_rows(table.const_data_ptr(), table.size(0), rows, difference, pointer<double>(sums), on.stream),
        "match_rows");
  return sums;
}

void combine_rows(const Tensor& table, const Tensor& by, Tensor& into) {
  check_table(table, by.size(0));
  STD_TORCH_CHECK(by.dim() == 2 && by.size(1) == 3 && by.scalar_type() == ScalarType::Double && by.is_contiguous(),
                  "wants contiguous float64 coefficients [rows, 3]");
  STD_TORCH_CHECK(into.get_device_index() == table.get_device_index(), "table and output lie on different devices");
  const OnDevice on(table);
  check(distill_combine_rows(table.const_data_ptr(), table.size(0), by.size(0),
                             static_cast<const double*>(by.const_data_ptr()), on.stream),
        "combine_rows");
}

}  // namespace
}  // namespace distill_cuda

STABLE_TORCH_LIBRARY_IMPL(distill_core_cuda, CUDA, m) {
  m.impl("match_rows", TORCH_BOX(&distill_cuda::match_rows));
  m.impl("combine_rows", TORCH_BOX(&distill_cuda::combine_rows));
}
