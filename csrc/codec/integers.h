// Integers of a fixed width, in unary and in Rice codes; the format is that of distill_core/store/bits.py.
//
// pack_* append to `out`; unpack_* fill `values` and return how many bytes they read.
// Both throw std::invalid_argument for what has no code, and for bytes that no pack_* writes.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "bit_streams.h"

namespace distill::codec {

void pack_fixed(const int64_t* values, size_t count, int width, std::string& out);
size_t unpack_fixed(Bytes bytes, int width, int64_t* values, size_t count);

void pack_unary(const int64_t* values, size_t count, std::string& out);
size_t unpack_unary(Bytes bytes, int64_t* values, size_t count);

void pack_rice(const int64_t* values, size_t count, std::string& out);
size_t unpack_rice(Bytes bytes, int64_t* values, size_t count);

}  // namespace distill::codec
