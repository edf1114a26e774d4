// Random signs from a counter, and sums of signed features. See distill_core/ops/random_projection/reference.py.
#pragma once

#include "element_types.h"
#include "isa.h"

namespace distill {
constexpr int64_t PROJECTED_FEATURES = 512;  // most features of one call: their sums stay in fp32 registers
constexpr int PROJECTED_WORDS = 2;           // 64 signs each: the columns of one call
}  // namespace distill

// words[f][w] = sign bits of feature first + f, columns 64 (word + w) .. 64 (word + w) + 63.
DISTILL_KERNEL(projection_signs, uint64_t state, uint64_t first, int64_t features, int64_t word, uint64_t* words)

// sums[r][c] += sum over f of x[r][f] with the sign of words[f], in order; x has rows of PROJECTED_FEATURES.
DISTILL_KERNEL(projection_sums, const float* x, int64_t rows, const uint64_t* words, int64_t features, double* sums)
