#include <vector>

#include "on_device.h"

namespace distill_cuda {
namespace {

bool is_array(const Tensor& x, ScalarType type, int64_t dimensions) {
  return x.dim() == dimensions && x.scalar_type() == type && x.is_contiguous();
}

// ids, values, tail, entropy and status, as launchers.h says.
std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> unpack_rows(const Tensor& words, const Tensor& table, int64_t rows,
                                                               int64_t k, int64_t method, int64_t vocabulary,
                                                               const Tensor& temperatures, double value_step,
                                                               bool with_entropy) {
  STD_TORCH_CHECK(is_array(words, ScalarType::Long, 1), "unpack_rows: wants contiguous int64 words");
  STD_TORCH_CHECK(is_array(table, ScalarType::Long, 2) && table.size(1) == 16,
                  "unpack_rows: wants a contiguous int64 table with sixteen columns");
  STD_TORCH_CHECK(is_array(temperatures, ScalarType::Double, 1) && temperatures.size(0) >= 1,
                  "unpack_rows: wants float64 temperatures, at least one");
  STD_TORCH_CHECK(table.get_device_index() == words.get_device_index() &&
                      temperatures.get_device_index() == words.get_device_index(),
                  "unpack_rows: words, table and temperatures lie on different devices");
  STD_TORCH_CHECK(method >= 0 && method <= 2, "unpack_rows: method must lie in 0 .. 2");
  STD_TORCH_CHECK(k >= 0 && rows >= 0 && rows < (1LL << 31) && table.size(0) < (1LL << 29),
                  "unpack_rows: at most 2^31 - 1 rows and 2^29 - 1 sequences in one launch");
  const OnDevice on(words);
  const int64_t n_sequences = table.size(0), columns = method == 2 ? 0 : method == 1 ? 1 : temperatures.size(0);
  Tensor ids = torch::stable::new_empty(words, {rows, k}, ScalarType::Long);
  Tensor values = torch::stable::new_empty(words, {rows, k}, ScalarType::Float);
  Tensor tail = torch::stable::new_empty(words, {rows, columns}, ScalarType::Float);
  Tensor entropy = torch::stable::new_empty(words, {with_entropy ? rows : 0}, ScalarType::Float);
  Tensor status = torch::stable::new_empty(words, {n_sequences, 4}, ScalarType::Int);
  Tensor gaps = torch::stable::new_empty(words, {rows, k}, ScalarType::Long);
  Tensor starts = torch::stable::new_empty(words, {3, rows}, ScalarType::Long);
  check(distill_unpack_rows(static_cast<const int64_t*>(words.const_data_ptr()), words.size(0),
                            static_cast<const int64_t*>(table.const_data_ptr()), n_sequences, rows, k, int32_t(method),
                            vocabulary, static_cast<const double*>(temperatures.const_data_ptr()),
                            method == 0 ? int32_t(columns) : 1, value_step, pointer<int64_t>(ids),
                            pointer<float>(values), pointer<float>(tail),
                            with_entropy ? pointer<float>(entropy) : nullptr, pointer<int64_t>(gaps),
                            pointer<int64_t>(starts), pointer<int32_t>(status), on.stream),
        "unpack_rows");
  return {ids, values, tail, entropy, status};
}

}  // namespace
}  // namespace distill_cuda

STABLE_TORCH_LIBRARY_IMPL(distill_core_cuda, CUDA, m) { m.impl("unpack_rows", TORCH_BOX(&distill_cuda::unpack_rows)); }
