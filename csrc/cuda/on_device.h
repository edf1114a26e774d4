// What the CUDA bindings share: the libtorch stable ABI, the guard of device and stream, checks.
#pragma once

#define USE_CUDA  // declares the stream's getter
#include <torch/csrc/inductor/aoti_torch/c/shim.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/util/Exception.h>

#include "launchers.h"

// A CPU build of torch does not have it. Weak, so that the library loads there and says what is missing.
#pragma weak aoti_torch_get_current_cuda_stream

extern "C" {
const char* distill_error_text(int code);
int distill_current_device(int32_t* index);
int distill_set_device(int32_t index);
}

namespace distill_cuda {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

inline void check(int code, const char* what) {
  STD_TORCH_CHECK(code == 0, what, ": ", distill_error_text(code), " (CUDA error ", code, ")");
}

// While it lives, the tensor's device is current, for torch (allocations) and for this library's runtime (launches);
// `stream` is the stream torch would use there now.
class OnDevice {
 public:
  explicit OnDevice(const Tensor& x) : torch_guard_(x.get_device_index()) {
    STD_TORCH_CHECK(aoti_torch_get_current_cuda_stream != nullptr, "the installed torch is a CPU build");
    TORCH_ERROR_CODE_CHECK(aoti_torch_get_current_cuda_stream(x.get_device_index(), &stream));
    check(distill_current_device(&before_), "asking for the current device");
    check(distill_set_device(x.get_device_index()), "choosing the device of the tensors");
  }
  ~OnDevice() { distill_set_device(before_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

  void* stream = nullptr;

 private:
  torch::stable::accelerator::DeviceGuard torch_guard_;
  int32_t before_ = 0;
};

inline int32_t dtype_code(const Tensor& x) {
  switch (x.scalar_type()) {
    case ScalarType::Float: return DISTILL_FLOAT32;
    case ScalarType::BFloat16: return DISTILL_BFLOAT16;
    case ScalarType::Half: return DISTILL_FLOAT16;
    default: STD_TORCH_CHECK(false, "distill_core CUDA kernels take float32, bfloat16 and float16");
  }
}

// [N, V] with neighbouring entries side by side; rows may lie any distance apart.
inline void check_rows(const Tensor& x, int64_t n_valid) {
  STD_TORCH_CHECK(x.dim() == 2 && (x.stride(1) == 1 || x.size(1) <= 1), "wants [N, V] with stride 1 along V");
  STD_TORCH_CHECK(n_valid >= 0 && n_valid <= x.size(1) && n_valid < 0xffffffffLL, "n_valid is out of range");
  STD_TORCH_CHECK(x.size(0) < (1LL << 31), "at most 2^31 - 1 rows in one launch");
}

template <class T>
T* pointer(const Tensor& x) { return static_cast<T*>(x.mutable_data_ptr()); }

}  // namespace distill_cuda
