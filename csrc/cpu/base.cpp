#include "kernel_headers.h"
#define DISTILL_ISA base
#define DISTILL_LANES 4
#include "every_kernel.inl"
