#include "isa.h"

#include <cstdlib>
#include <cstring>

namespace distill {

static Isa best() {
#if defined(__x86_64__)
  __builtin_cpu_init();
  if (!__builtin_cpu_supports("avx2") || !__builtin_cpu_supports("fma") || !__builtin_cpu_supports("f16c")) return Isa::base;
  const bool wide = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                    __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  return wide ? Isa::avx512 : Isa::avx2;
#else
  return Isa::base;
#endif
}

static Isa pick() {
  const char* wanted = std::getenv("DISTILL_CPU_ISA");
  const Isa most = best();
  if (!wanted) return most;
  if (!std::strcmp(wanted, "base")) return Isa::base;
  if (!std::strcmp(wanted, "avx2") && most == Isa::avx512) return Isa::avx2;
  return most;
}

Isa isa() {
  static const Isa picked = pick();
  return picked;
}

}  // namespace distill
