// The runtime's own words about devices, for csrc/cuda/on_device.h and Python.
#include <cuda_runtime.h>

#include <cstdint>

#define EXPORTED __attribute__((visibility("default")))

// The number of devices; a negative error code where the runtime finds no usable driver.
extern "C" EXPORTED int distill_device_count() {
  int count = 0;
  const cudaError_t code = cudaGetDeviceCount(&count);
  if (code == cudaErrorNoDevice) return 0;
  return code == cudaSuccess ? count : -int(code);
}

extern "C" EXPORTED const char* distill_error_text(int code) { return cudaGetErrorString(cudaError_t(code)); }

// The version of CUDA this was compiled with: 13000 is 13.0.
extern "C" EXPORTED int distill_cuda_version() { return CUDART_VERSION; }

extern "C" int distill_current_device(int32_t* index) { return int(cudaGetDevice(index)); }

extern "C" int distill_set_device(int32_t index) { return int(cudaSetDevice(index)); }
