#include "convert.h"

#include "tensors.h"

namespace distill {
namespace {

void widen_into(const Tensor& from, Tensor& into) {
  STD_TORCH_CHECK(from.is_contiguous() && into.is_contiguous() && from.numel() == into.numel() &&
                      into.scalar_type() == ScalarType::Float,
                  "widen: wants contiguous tensors of one size, the second float32");
  float* const to = mutable_data<float>(into);
  const auto convert = [&](auto* p) {
    torch::stable::parallel_for(0, from.numel(), 1 << 15,
                                [&](int64_t a, int64_t b) { DISTILL_CALL(widen, p + a, to + a, b - a); });
  };
  if (from.scalar_type() == ScalarType::BFloat16) return convert(data<bf16>(from));
  STD_TORCH_CHECK(from.scalar_type() == ScalarType::Half, "widen: wants bfloat16 or float16");
  convert(data<fp16>(from));
}

}  // namespace
}  // namespace distill

STABLE_TORCH_LIBRARY_IMPL(distill_core_cpu, CPU, m) { m.impl("widen", TORCH_BOX(&distill::widen_into)); }
