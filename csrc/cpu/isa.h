// Which of the three compiled copies of the kernels runs, and how one is called.
//
// A kernel is written once, in KERNEL.inl, and compiled three times, in the namespaces base, avx2 and avx512 (base.cpp,
// avx2.cpp, avx512.cpp). Its header declares it with DISTILL_KERNEL; callers use DISTILL_CALL, which picks at run time.
// A .inl file holds plain functions on raw pointers. It must not instantiate templates of the standard library on types
// from outside its namespace: the linker keeps one copy of those, and it could be the one for the wrong machine.
#pragma once

#include <cstdint>

namespace distill {

enum class Isa { base, avx2, avx512 };

// The best that the machine has; the environment variable DISTILL_CPU_ISA (base, avx2, avx512) lowers it, for tests.
Isa isa();

}  // namespace distill

#if defined(__x86_64__)
#define DISTILL_KERNEL(name, ...)                       \
  namespace distill::base { void name(__VA_ARGS__); }   \
  namespace distill::avx2 { void name(__VA_ARGS__); }   \
  namespace distill::avx512 { void name(__VA_ARGS__); }
#define DISTILL_CALL(name, ...)                                               \
  do {                                                                        \
    switch (::distill::isa()) {                                               \
      case ::distill::Isa::avx512: ::distill::avx512::name(__VA_ARGS__); break; \
      case ::distill::Isa::avx2: ::distill::avx2::name(__VA_ARGS__); break;     \
      default: ::distill::base::name(__VA_ARGS__);                            \
    }                                                                         \
  } while (0)
#else
#define DISTILL_KERNEL(name, ...) \
  namespace distill::base { void name(__VA_ARGS__); }
#define DISTILL_CALL(name, ...) ::distill::base::name(__VA_ARGS__)
#endif
