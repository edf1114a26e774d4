// One row of logits under a sparse support: sums over the complement, and gradients.
//
// x = z / t. The support is given as marks, one bit per column: marked columns are left out of every sum, they are never
// added and subtracted again. Columns are taken in blocks, so that one exponential per element serves value and
// gradient: `exponentials` holds exp(x - x_block), `weights` the factor per block that makes it the complement's softmax.
#pragma once

#include "element_types.h"
#include "isa.h"

namespace distill {

constexpr int64_t block_columns = 2048;  // a block and its exponentials fit the first-level cache
constexpr int64_t mark_slack = 8;        // bytes behind the last mark that may be read

inline int64_t blocks_of(int64_t columns) { return (columns + block_columns - 1) / block_columns; }

// Over the complement: sum of exp(x - top), and of exp(x - top) (x - top). An empty complement has sum 0.
struct RowSums { double top, sum, weighted; };

// One part of a gradient: exp(z * inverse_t - shift) * (factor + slope * (z * inverse_t - shift)).
struct GradientTerm { float inverse_t, shift, factor, slope; };

}  // namespace distill

// `exponentials` may be null (then `weights` is scratch of blocks_of(columns)), and may be z itself.
#define DISTILL_ROW_KERNELS(T)                                                                                     \
  DISTILL_KERNEL(row_sums, const T* z, int64_t columns, const uint8_t* marks, float inverse_t, bool weighted,      \
                 float* exponentials, float* weights, RowSums* out)                                                \
  DISTILL_KERNEL(row_mean, const T* z, int64_t columns, float* out)                                                \
  DISTILL_KERNEL(row_top1, const T* z, int64_t columns, int64_t* out)                                              \
  /* out = (sum of the terms + add) * (1 - (z * inverse_cap)^2) * scale */                                         \
  DISTILL_KERNEL(row_gradient, const T* z, T* out, int64_t columns, const GradientTerm* terms, int64_t n_terms,    \
                 float add, float inverse_cap, float scale)                                                        \
  /* out = exponentials * factor[block] + add; out may be exponentials */                                          \
  DISTILL_KERNEL(row_rescale, const float* exponentials, T* out, int64_t columns, const float* factors, float add) \
  DISTILL_KERNEL(gather, const T* z, const int64_t* columns, int64_t n, float* into)                               \
  DISTILL_KERNEL(scatter, const float* from, const int64_t* columns, int64_t n, T* into)

DISTILL_ROW_KERNELS(float)
DISTILL_ROW_KERNELS(bf16)
DISTILL_ROW_KERNELS(fp16)
