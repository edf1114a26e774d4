// Row kernels of gradient matching.
#pragma once

#include "element_types.h"
#include "isa.h"

// out[0..2] = <a, b>, <a, a>, <b, b> over n elements.
DISTILL_KERNEL(match_moments, const float* a, const float* b, int64_t n, double* out)
DISTILL_KERNEL(match_moments, const bf16* a, const bf16* b, int64_t n, double* out)
DISTILL_KERNEL(match_moments, const fp16* a, const fp16* b, int64_t n, double* out)

// out[0] = sum (a - b)^2 + absolute * sum |a - b|.
DISTILL_KERNEL(match_difference, const float* a, const float* b, int64_t n, float absolute, double* out)
DISTILL_KERNEL(match_difference, const bf16* a, const bf16* b, int64_t n, float absolute, double* out)
DISTILL_KERNEL(match_difference, const fp16* a, const fp16* b, int64_t n, float absolute, double* out)

// g = alpha b + beta a; `past_cache`: by stores that leave the caches alone, which the caller has to fence (fp32).
DISTILL_KERNEL(match_combine, const float* a, const float* b, float* g, int64_t n, double alpha, double beta,
               bool past_cache)
DISTILL_KERNEL(match_combine, const bf16* a, const bf16* b, bf16* g, int64_t n, double alpha, double beta,
               bool past_cache)
DISTILL_KERNEL(match_combine, const fp16* a, const fp16* b, fp16* g, int64_t n, double alpha, double beta,
               bool past_cache)

// g = scale (2 (a - b) + absolute sign(a - b)).
DISTILL_KERNEL(match_slope, const float* a, const float* b, float* g, int64_t n, double scale, float absolute)
DISTILL_KERNEL(match_slope, const bf16* a, const bf16* b, bf16* g, int64_t n, double scale, float absolute)
DISTILL_KERNEL(match_slope, const fp16* a, const fp16* b, fp16* g, int64_t n, double scale, float absolute)
