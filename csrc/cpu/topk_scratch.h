// The working memory of `topk_row`, uninitialised. For the bindings: it uses the standard library.
#pragma once

#include <cstdint>
#include <memory>

#include "topk.h"

namespace distill {

struct TopkMemory {
  explicit TopkMemory(const TopkTask& task)
      : floats(new float[task.blocks * (2 + task.temperatures)]),
        keys(new uint64_t[task.blocks + key_capacity(task) + spare_capacity(task)]),
        holds(new unsigned char[task.blocks]),
        held(new int64_t(0)),
        scratch{floats.get(), floats.get() + task.blocks, floats.get() + 2 * task.blocks, holds.get(), held.get(),
                keys.get(), keys.get() + task.blocks, keys.get() + task.blocks + key_capacity(task)} {}

  std::unique_ptr<float[]> floats;
  std::unique_ptr<uint64_t[]> keys;
  std::unique_ptr<unsigned char[]> holds;
  std::unique_ptr<int64_t> held;
  TopkScratch scratch;
};

}  // namespace distill
