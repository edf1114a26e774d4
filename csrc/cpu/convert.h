// Widening to fp32 and rounding to 16 bits.
#pragma once

#include "element_types.h"
#include "isa.h"

DISTILL_KERNEL(widen, const bf16* from, float* into, int64_t n)
DISTILL_KERNEL(widen, const fp16* from, float* into, int64_t n)
