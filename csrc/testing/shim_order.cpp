// The order in which the threads of a block run, chosen by a test: 0 forward, 1 reverse, 2 random.
#include "cuda_on_cpu.h"

extern "C" void distill_shim_order(int order, unsigned seed) {
  cuda_on_cpu::block.order = cuda_on_cpu::Order(order);
  cuda_on_cpu::block.random.seed(seed);
}
