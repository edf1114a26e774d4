// The working memory of `topk_row`, uninitialised. For the bindings: it uses the standard library.
#pragma once

#include <cstdint>
#include <memory>

#include "topk.h"

namespace distill {

struct TopkMemory {
  explicit TopkMemory(const TopkTask& task)
      : floats(new float[task.blocks * (2 + task.temperatures)]),
        keys(new uint64_t[task.blocks + key_capacity(task) + task.k]),
        holds(new unsigned char[task.blocks]),
        scratch{floats.get(), floats.get() + task.blocks, floats.get() + 2 * task.blocks, holds.get(), keys.get(),
                keys.get() + task.blocks, keys.get() + task.blocks + key_capacity(task)} {}

  std::unique_ptr<float[]> floats;
  std::unique_ptr<uint64_t[]> keys;
  std::unique_ptr<unsigned char[]> holds;
  TopkScratch scratch;
};

}  // namespace distill
