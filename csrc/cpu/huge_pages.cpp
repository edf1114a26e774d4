// Advice for a fresh tensor that torch allocated: the gradient of a head's weight is touched page by page otherwise.
#include "tensors.h"

namespace distill {
namespace {

void advise(Tensor& x) {
  STD_TORCH_CHECK(x.is_contiguous(), "advise_huge_pages: wants a contiguous tensor");
  advise_huge_pages(x.mutable_data_ptr(), static_cast<std::size_t>(x.numel()) * x.element_size());
}

}  // namespace
}  // namespace distill

STABLE_TORCH_LIBRARY_IMPL(distill_core_cpu, CPU, m) { m.impl("advise_huge_pages", TORCH_BOX(&distill::advise)); }
