// What the bindings share: the libtorch stable ABI, element types by scalar type, advice for fresh outputs.
#pragma once

#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include "element_types.h"
#include "isa.h"

namespace distill {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

template <class T>
const T* data(const Tensor& x) { return static_cast<const T*>(x.const_data_ptr()); }
template <class T>
T* mutable_data(const Tensor& x) { return static_cast<T*>(x.mutable_data_ptr()); }

// Calls f(const T*) with the element type of x: float, bf16 or fp16.
template <class F>
void with_elements(const Tensor& x, F f) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return f(data<float>(x));
    case ScalarType::BFloat16: return f(data<bf16>(x));
    case ScalarType::Half: return f(data<fp16>(x));
    default: STD_TORCH_CHECK(false, "distill_core CPU kernels take float32, bfloat16 and float16");
  }
}

// Asks for huge pages behind a fresh output of at least one huge page, before its first touch: page faults cost more
// than the arithmetic of most row kernels. Only whole pages inside the range are advised; harmless where unsupported.
inline void advise_huge_pages(void* start, std::size_t bytes) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
  constexpr std::uintptr_t page = 4096, huge = 2u << 20;
  const auto from = (reinterpret_cast<std::uintptr_t>(start) + page - 1) & ~(page - 1);
  const auto to = (reinterpret_cast<std::uintptr_t>(start) + bytes) & ~(page - 1);
  if (to > from && to - from >= huge) madvise(reinterpret_cast<void*>(from), to - from, MADV_HUGEPAGE);
#endif
}

}  // namespace distill
