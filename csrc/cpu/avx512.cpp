#include "kernel_headers.h"
#if defined(__x86_64__)
#pragma GCC target("avx512f,avx512bw,avx512vl,avx512dq,avx2,fma,f16c,prefer-vector-width=512")
#define DISTILL_ISA avx512
#define DISTILL_LANES 16
#include "every_kernel.inl"
#endif
