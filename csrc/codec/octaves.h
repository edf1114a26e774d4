// Integers by octave; the format is that of distill_core/store/octaves.py. Throws as integers.h does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

#include "bit_streams.h"

namespace distill::codec {

void pack_octaves(const int64_t* values, size_t count, std::string& out);
size_t unpack_octaves(Bytes bytes, int64_t* values, size_t count);

}  // namespace distill::codec
