// What every kernel stands on: element types, a launch, shared memory. nvcc compiles it for GPUs; g++ compiles the same
// text with csrc/testing/cuda_on_cpu.h, which runs kernels on the host in tests.
#pragma once

#include <cstdint>

#if defined(__CUDACC__)
#include <cuda_fp16.h>
#include <cuda_runtime.h>
#define DISTILL_LAUNCH(kernel, grid, block, stream, ...) kernel<<<grid, block, 0, stream>>>(__VA_ARGS__)
#define DISTILL_SHARED(type, name, extent) __shared__ type name extent
#else
#include "cuda_on_cpu.h"
#endif

namespace distill_cuda {

constexpr unsigned EVERY_LANE = 0xffffffffu;

// Storage of 16-bit elements; all arithmetic is in float or double.
struct Bf16 { uint16_t bits; };
struct Fp16 { uint16_t bits; };

__device__ inline float widen(float x) { return x; }
__device__ inline float widen(Bf16 x) {
  const uint32_t bits = uint32_t(x.bits) << 16;
  float wide;
  memcpy(&wide, &bits, sizeof wide);
  return wide;
}
__device__ inline float widen(Fp16 x) { return __half2float(__ushort_as_half(x.bits)); }

__device__ inline void narrow(float x, float& to) { to = x; }
__device__ inline void narrow(float x, Bf16& to) {  // to nearest, ties to even; NaN stays NaN
  uint32_t bits;
  memcpy(&bits, &x, sizeof bits);
  to.bits = uint16_t(x != x ? bits >> 16 | 0x40 : (bits + 0x7fff + (bits >> 16 & 1)) >> 16);
}
__device__ inline void narrow(float x, Fp16& to) { to.bits = __half_as_ushort(__float2half_rn(x)); }

// Four elements, moved by one instruction.
template <class E>
struct alignas(4 * sizeof(E)) Four { E at[4]; };

// Elements by which `p` lies behind the last address aligned for a load of four.
template <class E>
__device__ inline int misalignment(const E* p) {
  return int(reinterpret_cast<uintptr_t>(p) % sizeof(Four<E>) / sizeof(E));
}

// v = p[first .. first + 4), `none` outside [0, n). p + first is aligned for a load of four.
template <class E>
__device__ inline void load_four(const E* p, int64_t first, int64_t n, float none, float (&v)[4]) {
  if (first >= 0 && first + 4 <= n) {
    const Four<E> four = *reinterpret_cast<const Four<E>*>(p + first);
    for (int j = 0; j < 4; ++j) v[j] = widen(four.at[j]);
  } else {
    for (int j = 0; j < 4; ++j) v[j] = first + j >= 0 && first + j < n ? widen(p[first + j]) : none;
  }
}

}  // namespace distill_cuda
