// Bindings of the thin products. Logits go by rows; gradients by slabs of columns, whose number depends on the
// vocabulary alone, so that no sum depends on the number of threads.
#include "thin_products.h"

#include <optional>
#include <vector>

#include "tensors.h"

namespace distill {
namespace {

using MaybeTensor = std::optional<Tensor>;

void check(const Tensor& x, int64_t rows, int64_t columns, const char* name) {
  STD_TORCH_CHECK(x.dim() == 2 && x.size(0) == rows && x.size(1) == columns && x.scalar_type() == ScalarType::Float &&
                      (columns <= 1 || x.stride(1) == 1),
                  "thin products: ", name, " must be a float32 [", rows, ", ", columns, "] with contiguous rows");
}

Strided strided(const Tensor& x) { return {data<float>(x), x.stride(0)}; }
StridedOut strided_out(Tensor& x) { return {mutable_data<float>(x), x.stride(0)}; }

void logits(const Tensor& hidden, const Tensor& weight, const MaybeTensor& bias, Tensor& out) {
  const int64_t n = hidden.size(0), depth = hidden.size(1), columns = weight.size(1);
  check(hidden, n, depth, "hidden");
  check(weight, depth, columns, "weight");
  check(out, n, columns, "out");
  STD_TORCH_CHECK(!bias || (bias->is_contiguous() && bias->numel() == columns && bias->scalar_type() == ScalarType::Float),
                  "thin products: bias must be a contiguous float32 [", columns, "]");
  const Strided h = strided(hidden), w = strided(weight);
  const StridedOut z = strided_out(out);
  const float* const b = bias ? data<float>(*bias) : nullptr;
  torch::stable::parallel_for(0, n, 1 + 65536 / (columns + 1), [&](int64_t from, int64_t to) {
    for (int64_t c = 0; c < columns; c += thin_columns) {
      const int64_t count = columns - c < thin_columns ? columns - c : thin_columns;
      DISTILL_CALL(thin_logits, Strided{h.at + from * h.stride, h.stride}, to - from, depth, Strided{w.at + c, w.stride},
                   b ? b + c : nullptr, StridedOut{z.at + from * z.stride + c, z.stride}, count);
    }
  });
}

// The slabs' parts of the hidden gradient, added up in fp64 in the order of the slabs.
void add_parts(const std::vector<float>& parts, int64_t slabs, int64_t n, int64_t depth, Tensor& into) {
  const StridedOut to = strided_out(into);
  for (int64_t r = 0; r < n; ++r)
    for (int64_t d = 0; d < depth; ++d) {
      double sum = 0;
      for (int64_t s = 0; s < slabs; ++s) sum += parts[(s * n + r) * depth + d];
      to.at[r * to.stride + d] = float(sum);
    }
}

void gradients(const Tensor& dz, const Tensor& hidden, const Tensor& weight, std::optional<Tensor> dhidden,
               std::optional<Tensor> dweight, bool add) {
  const int64_t n = hidden.size(0), depth = hidden.size(1), columns = weight.size(1);
  check(dz, n, columns, "the gradient of the logits");
  check(hidden, n, depth, "hidden");
  check(weight, depth, columns, "weight");
  if (dhidden) check(*dhidden, n, depth, "dhidden");
  if (dweight) check(*dweight, depth, columns, "dweight");
  const Strided g = strided(dz), h = strided(hidden), w = strided(weight);
  const StridedOut dw = dweight ? strided_out(*dweight) : StridedOut{nullptr, 0};
  const int64_t slabs = (columns + thin_columns - 1) / thin_columns;
  std::vector<float> parts(dhidden ? slabs * n * depth : 0);
  torch::stable::parallel_for(0, slabs, 1, [&](int64_t from, int64_t to) {
    for (int64_t s = from; s < to; ++s) {
      const int64_t c = s * thin_columns, count = columns - c < thin_columns ? columns - c : thin_columns;
      const Strided slab{g.at + c, g.stride};
      if (dhidden)
        DISTILL_CALL(thin_hidden_gradient, slab, n, depth, Strided{w.at + c, w.stride}, count, parts.data() + s * n * depth);
      if (dweight)
        DISTILL_CALL(thin_weight_gradient, slab, h, n, depth, StridedOut{dw.at + c, dw.stride}, count, add);
    }
  });
  if (dhidden) add_parts(parts, slabs, n, depth, *dhidden);
}

}  // namespace
}  // namespace distill

STABLE_TORCH_LIBRARY_IMPL(distill_core_cpu, CPU, m) {
  m.impl("thin_logits", TORCH_BOX(&distill::logits));
  m.impl("thin_gradients", TORCH_BOX(&distill::gradients));
}
