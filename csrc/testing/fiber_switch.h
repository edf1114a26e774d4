// Stacks and the switch between them, with the words the sanitizers need to follow it. On x86-64 by hand (some ten
// nanoseconds), elsewhere by ucontext (two system calls).
#pragma once

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

#if defined(__SANITIZE_THREAD__)
extern "C" {
void* __tsan_get_current_fiber();
void* __tsan_create_fiber(unsigned);
void __tsan_switch_to_fiber(void*, unsigned);
void __tsan_acquire(void*);
void __tsan_release(void*);
}
#endif
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif

// The scheduler's own reads and writes are no business of the sanitizers.
#define UNWATCHED __attribute__((no_sanitize("thread"), no_sanitize("address")))

namespace cuda_on_cpu {

struct Stack {
  static constexpr std::size_t bytes = 1 << 16;
  char* low = nullptr;
#if defined(__x86_64__)
  void* top = nullptr;  // where it was left
#else
  ucontext_t context;
#endif
  void* sanitizer = nullptr;             // ThreadSanitizer: its fiber. AddressSanitizer: its fake stack
  const void* asan_bottom = nullptr;     // the main stack's bounds, told by AddressSanitizer
  std::size_t asan_size = 0;
};

inline void happens_before([[maybe_unused]] void* tag) {
#if defined(__SANITIZE_THREAD__)
  __tsan_release(tag);
#endif
}

inline void happens_after([[maybe_unused]] void* tag) {
#if defined(__SANITIZE_THREAD__)
  __tsan_acquire(tag);
#endif
}

inline void enter_main([[maybe_unused]] Stack& main) {
#if defined(__SANITIZE_THREAD__)
  main.sanitizer = __tsan_get_current_fiber();
#endif
}

inline void allocate(Stack& stack) {
  if (stack.low) return;
  void* memory = mmap(nullptr, Stack::bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (memory == MAP_FAILED) std::abort();
  stack.low = static_cast<char*>(memory);
#if defined(__SANITIZE_THREAD__)
  stack.sanitizer = __tsan_create_fiber(0);
#endif
}

#if defined(__x86_64__)
// Saves the registers a call keeps on the present stack and its top in *left; takes up the stack with top `taken`.
extern "C" void cuda_on_cpu_switch(void** left, void* taken);
asm(R"(
.pushsection .text
.weak cuda_on_cpu_switch
.type cuda_on_cpu_switch,@function
cuda_on_cpu_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov %rsi, %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size cuda_on_cpu_switch, .-cuda_on_cpu_switch
.popsection
)");

UNWATCHED inline void prepare(Stack& stack, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack.low + Stack::bytes) - 1;
  *top = nullptr;  // entry's return address: it never returns. The stack is aligned as behind a call
  *--top = reinterpret_cast<void*>(entry);
  for (int i = 0; i < 6; ++i) *--top = nullptr;
  stack.top = top;
}
UNWATCHED inline void jump(Stack& from, Stack& to) { cuda_on_cpu_switch(&from.top, to.top); }
#else
UNWATCHED inline void prepare(Stack& stack, void (*entry)()) {
  getcontext(&stack.context);
  stack.context.uc_stack.ss_sp = stack.low;
  stack.context.uc_stack.ss_size = Stack::bytes;
  stack.context.uc_link = nullptr;
  makecontext(&stack.context, entry, 0);
}
UNWATCHED inline void jump(Stack& from, Stack& to) { swapcontext(&from.context, &to.context); }
#endif

// First words of a fiber: what AddressSanitizer says of the stack it came from, the main one.
UNWATCHED inline void arrived([[maybe_unused]] Stack& fiber, [[maybe_unused]] Stack& main) {
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(nullptr, &main.asan_bottom, &main.asan_size);
#endif
}

UNWATCHED inline void switch_stacks(Stack& from, Stack& to, [[maybe_unused]] bool for_good) {
#if defined(__SANITIZE_THREAD__)
  __tsan_switch_to_fiber(to.sanitizer, 1);  // 1: the switch itself orders nothing
#endif
#if defined(__SANITIZE_ADDRESS__)
  const void* bottom = to.low ? to.low : to.asan_bottom;
  __sanitizer_start_switch_fiber(for_good ? nullptr : &from.sanitizer, bottom, to.low ? Stack::bytes : to.asan_size);
#endif
  jump(from, to);
#if defined(__SANITIZE_ADDRESS__)
  __sanitizer_finish_switch_fiber(from.sanitizer, from.low ? &to.asan_bottom : nullptr, from.low ? &to.asan_size : nullptr);
#endif
}

}  // namespace cuda_on_cpu
