#include "kernel_headers.h"
#if defined(__x86_64__)
#pragma GCC target("avx2,fma,f16c")
#define DISTILL_ISA avx2
#define DISTILL_LANES 8
#include "every_kernel.inl"
#endif
