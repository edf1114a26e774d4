// Runs CUDA C++ kernels on the host, for tests: every CUDA thread is a fiber, one operating system thread runs them all,
// blocks follow one another. Fibers give way at barriers and shuffles alone; the order in which they run is chosen
// (forward, reverse, random), so that a result that depends on it shows.
//
// Shared memory is filled with 0xFF (NaN, -1) when a block first reaches its declaration. AddressSanitizer and
// ThreadSanitizer are told of the fibers: to the latter every CUDA thread is a thread, and only barriers, shuffles and
// atomics order them. A barrier that not all threads reach ends the program with a message.
#pragma once

#include <math.h>
#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <random>
#include <vector>

#include "fiber_switch.h"

// A function of its own: inlined into the scheduler, which no sanitizer watches, it would not be watched either.
#define __global__ __attribute__((noinline))
#define __device__
#define __host__
#define __forceinline__ inline
#define __launch_bounds__(...)

#define DISTILL_LAUNCH(kernel, grid, block, stream, ...) \
  (static_cast<void>(stream), cuda_on_cpu::launch(grid, block, [&] { kernel(__VA_ARGS__); }))
// Blocks run one at a time, so one copy is enough. On the heap: g++ puts no red zones round the static variables of
// templates and inline functions.
#define DISTILL_SHARED(type, name, extent)                                                       \
  typedef type name##_in_shared extent;                                                          \
  static auto& name = *static_cast<name##_in_shared*>(std::malloc(sizeof(name##_in_shared))); \
  cuda_on_cpu::fill_once_per_block(&name, sizeof name)

struct Index { unsigned x, y, z; };
inline Index threadIdx, blockIdx, blockDim, gridDim;

using cudaStream_t = void*;
enum cudaError_t { cudaSuccess = 0 };
inline cudaError_t cudaGetLastError() { return cudaSuccess; }

namespace cuda_on_cpu {

enum class Order { forward, reverse, random };
enum class State { ready, at_block_barrier, at_warp_barrier, done };
constexpr unsigned WARP = 32, MAX_THREADS = 1024;

struct Fiber {
  Stack stack;
  State state = State::done;
  unsigned thread = 0;
  unsigned mask = 0;  // lanes awaited at a warp barrier
  unsigned block_barriers = 0, warp_barriers = 0;
};

struct Block {
  std::vector<Fiber> fibers{MAX_THREADS};
  Stack main;
  Fiber* running = nullptr;
  void (*body)(void*) = nullptr;
  void* kernel = nullptr;
  unsigned threads = 0;
  Order order = Order::forward;
  std::mt19937 random{1};
  uint64_t exchanged[MAX_THREADS];
  int votes = 0, vote_result = 0;
  void* filled[64];  // shared memory reached by this block
  unsigned n_filled = 0;
  // What ThreadSanitizer orders by. Barriers take turns with two tags: a thread that goes on late must not be ordered
  // behind one that has already arrived at the next barrier.
  char start_tag = 0, end_tag = 0, block_tag[2] = {}, warp_tag[MAX_THREADS / WARP][2] = {};
};
inline Block block;

[[noreturn]] inline void give_up(const char* what) {
  std::fprintf(stderr, "cuda_on_cpu: %s in block %u\n", what, blockIdx.x);
  std::abort();
}

UNWATCHED inline void yield_as(State state) {
  Fiber* me = block.running;
  me->state = state;
  switch_stacks(me->stack, block.main, state == State::done);
}

UNWATCHED inline void fiber_main() {
  arrived(block.running->stack, block.main);
  happens_after(&block.start_tag);
  block.body(block.kernel);
  happens_before(&block.end_tag);
  yield_as(State::done);
}

UNWATCHED inline void run(Fiber& fiber) {
  block.running = &fiber;
  threadIdx = {fiber.thread, 0, 0};
  switch_stacks(block.main, fiber.stack, false);
}

// Lets a warp go on when every awaited lane has arrived.
UNWATCHED inline bool release_warps() {
  bool released = false;
  for (unsigned base = 0; base < block.threads; base += WARP) {
    unsigned arrived_lanes = 0, awaited = 0;
    for (unsigned lane = 0; lane < WARP && base + lane < block.threads; ++lane) {
      const Fiber& fiber = block.fibers[base + lane];
      if (fiber.state != State::at_warp_barrier) continue;
      arrived_lanes |= 1u << lane;
      awaited |= fiber.mask;
    }
    if (arrived_lanes == 0 || (awaited & ~arrived_lanes) != 0) continue;
    for (unsigned lane = 0; lane < WARP; ++lane)
      if (arrived_lanes >> lane & 1) block.fibers[base + lane].state = State::ready;
    released = true;
  }
  return released;
}

UNWATCHED inline void run_block() {
  block.n_filled = 0;
  std::vector<unsigned> turn(block.threads);
  for (unsigned i = 0; i < block.threads; ++i) {
    turn[i] = block.order == Order::reverse ? block.threads - 1 - i : i;
    block.fibers[i].thread = i;
    block.fibers[i].state = State::ready;
    prepare(block.fibers[i].stack, fiber_main);
  }
  for (;;) {
    if (block.order == Order::random)
      for (unsigned i = block.threads; i > 1; --i) std::swap(turn[i - 1], turn[block.random() % i]);
    for (unsigned i : turn)
      if (block.fibers[i].state == State::ready) run(block.fibers[i]);
    if (release_warps()) continue;
    unsigned done = 0, waiting = 0;
    for (unsigned i = 0; i < block.threads; ++i) {
      done += block.fibers[i].state == State::done;
      waiting += block.fibers[i].state == State::at_block_barrier;
    }
    if (done == block.threads) return;
    if (waiting != block.threads) give_up("a barrier that not every thread reaches");
    block.vote_result = block.votes;
    block.votes = 0;
    for (unsigned i = 0; i < block.threads; ++i) block.fibers[i].state = State::ready;
  }
}

template <class F>
UNWATCHED void launch(uint64_t grid, unsigned threads, F kernel) {
  if (threads > MAX_THREADS) give_up("more than 1024 threads");
  block.kernel = &kernel;
  block.body = [](void* p) { (*static_cast<F*>(p))(); };
  block.threads = threads;
  gridDim = {unsigned(grid), 1, 1};
  blockDim = {threads, 1, 1};
  enter_main(block.main);
  for (unsigned i = 0; i < threads; ++i) allocate(block.fibers[i].stack);
  for (uint64_t b = 0; b < grid; ++b) {
    blockIdx = {unsigned(b), 0, 0};
    happens_before(&block.start_tag);
    run_block();
    happens_after(&block.end_tag);
  }
}

UNWATCHED inline void fill_once_per_block(void* start, std::size_t bytes) {
  for (unsigned i = 0; i < block.n_filled; ++i)
    if (block.filled[i] == start) return;
  if (block.n_filled == 64) give_up("more than 64 pieces of shared memory");
  block.filled[block.n_filled++] = start;
  for (std::size_t i = 0; i < bytes; ++i) static_cast<volatile unsigned char*>(start)[i] = 0xff;
}

UNWATCHED inline int block_barrier(int vote) {
  block.votes |= vote != 0;
  char* tag = &block.block_tag[block.running->block_barriers++ % 2];
  happens_before(tag);
  yield_as(State::at_block_barrier);
  happens_after(tag);
  return block.vote_result;
}

UNWATCHED inline void warp_barrier(unsigned mask) {
  char* tag = &block.warp_tag[block.running->thread / WARP][block.running->warp_barriers++ % 2];
  happens_before(tag);
  block.running->mask = mask;
  yield_as(State::at_warp_barrier);
  happens_after(tag);
}

// What lane `from` of this warp passes in.
template <class T>
UNWATCHED T exchange(unsigned mask, T value, unsigned from) {
  static_assert(sizeof(T) <= sizeof(uint64_t));
  const unsigned me = block.running->thread;
  uint64_t bits = 0;
  __builtin_memcpy(&bits, &value, sizeof value);
  block.exchanged[me] = bits;
  warp_barrier(mask);
  bits = block.exchanged[me / WARP * WARP + from % WARP];
  warp_barrier(mask);
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

UNWATCHED inline unsigned lane() { return block.running->thread % WARP; }

}  // namespace cuda_on_cpu

inline void __syncthreads() { cuda_on_cpu::block_barrier(0); }
inline int __syncthreads_or(int vote) { return cuda_on_cpu::block_barrier(vote); }
inline void __syncwarp(unsigned mask = ~0u) { cuda_on_cpu::warp_barrier(mask); }
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by) {
  const unsigned lane = cuda_on_cpu::lane();
  return cuda_on_cpu::exchange(mask, value, lane + by < 32 ? lane + by : lane);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by) {
  const unsigned lane = cuda_on_cpu::lane();
  return cuda_on_cpu::exchange(mask, value, lane >= by ? lane - by : lane);
}
template <class T>
T __shfl_sync(unsigned mask, T value, unsigned from) { return cuda_on_cpu::exchange(mask, value, from); }

template <class T>
T atomicAdd(T* at, T by) { return std::atomic_ref<T>(*at).fetch_add(by, std::memory_order_relaxed); }

inline int atomicOr(int* at, int bits) { return std::atomic_ref<int>(*at).fetch_or(bits, std::memory_order_relaxed); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __clz(int x) { return x == 0 ? 32 : __builtin_clz(unsigned(x)); }

struct __half { uint16_t bits; };
inline __half __ushort_as_half(uint16_t bits) { return {bits}; }
inline float __half2float(__half x) {
  _Float16 half;
  std::memcpy(&half, &x.bits, sizeof half);
  return float(half);
}
inline uint16_t __half_as_ushort(__half x) { return x.bits; }
inline __half __float2half_rn(float x) {
  const _Float16 half = _Float16(x);
  __half out;
  std::memcpy(&out.bits, &half, sizeof half);
  return out;
}
