#include "kernel_headers.h"
#define DISTILL_ISA base
#include "every_kernel.inl"
