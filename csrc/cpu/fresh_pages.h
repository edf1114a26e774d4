// First touch of a large fresh output, in huge pages, by one thread at a time.
//
// The operating system clears a page at its first touch. Where this was timed (a virtual machine with two cores), letting
// each thread touch its own part cost 2.7 times the CPU time of the whole kernel against one thread clearing ahead of the
// others; probably because free pages lie with the core that freed them, and others have to be provided by the host.
#pragma once

#include <algorithm>
#include <atomic>
#include <mutex>
#include <vector>

#include "tensors.h"

namespace distill {

class FreshPages {
 public:
  FreshPages(void* start, std::size_t bytes)
      : start_(reinterpret_cast<std::uintptr_t>(start)),
        end_(start_ + bytes),
        cleared_((end_ + HUGE - 1) / HUGE - start_ / HUGE) {
    advise_huge_pages(start, bytes);
  }

  // Clears all that is left, page by page.
  void clear() { ready(reinterpret_cast<void*>(start_), end_ - start_); }

  // To be called before the first write into [from, from + bytes).
  void ready(const void* from, std::size_t bytes) {
    const auto first = reinterpret_cast<std::uintptr_t>(from);
    for (auto at = first / HUGE; bytes > 0 && at <= (first + bytes - 1) / HUGE; ++at) {
      auto& cleared = cleared_[at - start_ / HUGE];
      if (cleared.load(std::memory_order_acquire)) continue;
      const std::lock_guard<std::mutex> turn(mutex_);
      if (cleared.load(std::memory_order_relaxed)) continue;
      populate(at * HUGE);
      cleared.store(true, std::memory_order_release);
    }
  }

 private:
  static constexpr std::uintptr_t PAGE = 4096, HUGE = std::uintptr_t(2) << 20;

  // The whole pages of the output in one huge page. Kernels that do not know the advice (before Linux 5.14) refuse it,
  // and the pages are cleared when they are written, as without it.
  void populate(std::uintptr_t huge) const {
#if defined(__linux__)
    constexpr int populate_write = 23;  // MADV_POPULATE_WRITE, not in every libc's header
    const auto from = (std::max(huge, start_) + PAGE - 1) & ~(PAGE - 1);
    const auto to = std::min(huge + HUGE, end_) & ~(PAGE - 1);
    if (to > from) madvise(reinterpret_cast<void*>(from), to - from, populate_write);
#endif
  }

  const std::uintptr_t start_, end_;
  std::vector<std::atomic<bool>> cleared_;
  std::mutex mutex_;
};

}  // namespace distill
