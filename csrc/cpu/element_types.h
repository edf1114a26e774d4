// Storage types of the tensors: float, and two 16-bit types that are computed in float.
#pragma once

#include <cstdint>

namespace distill {

struct bf16 { uint16_t bits; };
struct fp16 { uint16_t bits; };

}  // namespace distill
