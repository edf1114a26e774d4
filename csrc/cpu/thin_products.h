// The three products of a head whose hidden size is so small that they are bound by memory: BLAS is made for others.
//
// The weight and its gradient are transposed, [depth, columns]. Matrices have contiguous rows; a stride is in elements.
#pragma once

#include "isa.h"

namespace distill {

constexpr int64_t thin_columns = 1024;  // columns of a slab: its weight fits the first-level cache

struct Strided { const float* at; int64_t stride; };
struct StridedOut { float* at; int64_t stride; };

}  // namespace distill

// z[r][c] = bias[c] + sum over d of hidden[r][d] weight[d][c], d in order; `bias` may be null.
DISTILL_KERNEL(thin_logits, Strided hidden, int64_t rows, int64_t depth, Strided weight, const float* bias,
               StridedOut z, int64_t columns)

// into[r][d] = sum over c of dz[r][c] weight[d][c], for at most thin_columns columns; `into` is contiguous.
DISTILL_KERNEL(thin_hidden_gradient, Strided dz, int64_t rows, int64_t depth, Strided weight, int64_t columns, float* into)

// into[d][c] = sum over r of dz[r][c] hidden[r][d], r in order; on top of what is there if `add`.
DISTILL_KERNEL(thin_weight_gradient, Strided dz, Strided hidden, int64_t rows, int64_t depth, StridedOut into,
               int64_t columns, bool add)
