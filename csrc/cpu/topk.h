// The k largest entries of a row and, per temperature, the logsumexp of the rest.
#pragma once

#include "element_types.h"
#include "isa.h"

namespace distill {

// What is asked of every row. `temperature` holds `temperatures` positive numbers; with none, no exp is computed.
struct TopkTask {
  int64_t length;  // entries of a row that count, below 2^31
  int64_t k;       // 0 .. length
  int64_t block;   // entries of a block, a power of two
  int64_t blocks;  // of a row, the last one perhaps shorter
  bool by_blocks;  // the k largest are sought in the k best blocks; if not, in the whole row
  int64_t temperatures;
  const double* temperature;
};

// Working memory of one thread, allocated once and used for one row after another.
struct TopkScratch {
  float* block_max;      // [blocks]
  float* block_ref;      // [blocks] what block_sum is relative to
  float* block_sum;      // [temperatures, blocks] sum of exp((z - ref) / temperature)
  unsigned char* holds;  // [blocks] 1: one of the k largest lies in it
  int64_t* held;         // how many of them; block_keys then lists them
  uint64_t* block_keys;  // [blocks]
  uint64_t* keys;        // [key_capacity(task)] value and id of candidates, later of the k largest, largest first
  uint64_t* spare;       // [spare_capacity(task)] for sorting
};

// Entries per block: k blocks at most are searched and summed again, all of them are swept.
inline int64_t topk_block(int64_t length, int64_t k) { return k * 512 > length ? 64 : k * 2048 > length ? 128 : 256; }

inline TopkTask topk_task(int64_t length, int64_t k, int64_t temperatures, const double* temperature) {
  const bool by_blocks = k * 96 <= length;  // where the two take equally long
  const int64_t block = by_blocks ? topk_block(length, k) : 256;
  return {length, k, block, (length + block - 1) / block, by_blocks, temperatures, temperature};
}

// Candidates are cut back to k as soon as there are 2 k + 64 at the end of a block; of a row with NaN all entries are.
inline int64_t key_capacity(const TopkTask& task) {
  const int64_t few = 2 * task.k + 64 + task.block;
  return few > task.length ? few : task.length;
}

// As many keys are sorted by comparing each with each.
constexpr int64_t FEW_KEYS = 160;

// How many more than k a threshold for the whole row may let through.
inline int64_t cut_slack(int64_t k) { return k / 8 + 64; }
inline int64_t spare_capacity(const TopkTask& task) {
  const int64_t cut = task.k + cut_slack(task.k);
  return cut > FEW_KEYS ? cut : FEW_KEYS;
}

}  // namespace distill

DISTILL_KERNEL(topk_row, const float* z, const TopkTask& task, const TopkScratch& scratch, int64_t* ids, float* values,
               float* tails)
DISTILL_KERNEL(topk_row, const bf16* z, const TopkTask& task, const TopkScratch& scratch, int64_t* ids, float* values,
               float* tails)
DISTILL_KERNEL(topk_row, const fp16* z, const TopkTask& task, const TopkScratch& scratch, int64_t* ids, float* values,
               float* tails)
