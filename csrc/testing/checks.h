// Plain programs that run one launcher in three thread orders and compare with fp64 loops: what the sanitizer builds run.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstdio>
#include <memory>
#include <random>

#include "cuda_on_cpu.h"
#include "launchers.h"

namespace checks {

// An array of exactly `n` elements on the heap, so that AddressSanitizer sees the first byte beyond.
template <class T>
struct Exactly {
  explicit Exactly(std::size_t size) : n(size), at(new T[size]()) {}
  operator T*() { return at.get(); }

  std::size_t n;
  std::unique_ptr<T[]> at;
};

inline int failures = 0;

inline void expect(bool right, const char* what) {
  if (right) return;
  ++failures;
  std::printf("wrong: %s (order %d)\n", what, int(cuda_on_cpu::block.order));
}

inline bool near(double a, double b, double relative) { return std::abs(a - b) <= relative * (1 + std::abs(b)); }

inline float normal(std::mt19937& g) { return std::normal_distribution<float>(0, 1)(g); }

// Runs `check` in each order; the exit status of the program.
template <class F>
int in_every_order(F check) {
  for (int order = 0; order < 3; ++order) {
    cuda_on_cpu::block.order = cuda_on_cpu::Order(order);
    check();
  }
  std::puts(failures == 0 ? "right" : "WRONG");
  return failures == 0 ? 0 : 1;
}

}  // namespace checks
