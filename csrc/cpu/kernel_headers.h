// Everything the kernels include from outside, before any instruction set is chosen; and their declarations.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>

#if defined(__x86_64__)
#include <immintrin.h>
#endif

#include "isa.h"
#include "element_types.h"
#include "convert.h"
#include "gradient_match.h"
#include "random_projection.h"
#include "support_rows.h"
#include "thin_products.h"
#include "topk.h"
#include "sample.h"
