// distill_core._codec: the packers on buffers. Arrays are one-dimensional int64; the lock of the interpreter is given
// back while they work.
#include <pybind11/pybind11.h>

#include <string>

#include "integers.h"
#include "octaves.h"

namespace py = pybind11;
using distill::codec::Bytes;

namespace {

Bytes bytes_of(const py::buffer_info& info) {
  if (info.ndim != 1 || info.itemsize != 1 || (info.size > 1 && info.strides[0] != 1)) {
    throw py::type_error("blob: expected one dimension of contiguous bytes");
  }
  return {static_cast<const uint8_t*>(info.ptr), static_cast<size_t>(info.size)};
}

int64_t* integers_of(const py::buffer_info& info) {
  const bool is_int64 = info.itemsize == 8 && (info.format == "l" || info.format == "q");
  if (info.ndim != 1 || !is_int64 || (info.size > 1 && info.strides[0] != 8)) {
    throw py::type_error("values: expected one dimension of contiguous int64, received " + std::to_string(info.ndim) +
                         " of format '" + info.format + "'");
  }
  return static_cast<int64_t*>(info.ptr);
}

// write(values, count, out)
template <typename Write>
py::bytes packed(const py::buffer& values, Write write) {
  const py::buffer_info info = values.request();
  const int64_t* integers = integers_of(info);
  std::string out;
  {
    py::gil_scoped_release release;
    write(integers, static_cast<size_t>(info.size), out);
  }
  return py::bytes(out);
}

// read(bytes, values, count) returns the bytes read
template <typename Read>
size_t unpacked(const py::buffer& blob, const py::buffer& values, Read read) {
  const py::buffer_info source = blob.request();
  const py::buffer_info target = values.request(/*writable=*/true);
  const Bytes bytes = bytes_of(source);
  int64_t* integers = integers_of(target);
  py::gil_scoped_release release;
  return read(bytes, integers, static_cast<size_t>(target.size));
}

}  // namespace

PYBIND11_MODULE(_codec, module) {
  using namespace distill::codec;
  module.doc() = "Packers of integers on buffers; see distill_core/store/bits.py and octaves.py for the format.";
  module.def("pack_fixed", [](const py::buffer& values, int width) {
    return packed(values, [width](const int64_t* v, size_t n, std::string& out) { pack_fixed(v, n, width, out); });
  });
  module.def("unpack_fixed", [](const py::buffer& blob, int width, const py::buffer& values) {
    return unpacked(blob, values, [width](Bytes b, int64_t* v, size_t n) { return unpack_fixed(b, width, v, n); });
  });
  module.def("pack_unary", [](const py::buffer& values) { return packed(values, pack_unary); });
  module.def("unpack_unary",
             [](const py::buffer& blob, const py::buffer& values) { return unpacked(blob, values, unpack_unary); });
  module.def("pack_rice", [](const py::buffer& values) { return packed(values, pack_rice); });
  module.def("unpack_rice",
             [](const py::buffer& blob, const py::buffer& values) { return unpacked(blob, values, unpack_rice); });
  module.def("pack_octaves", [](const py::buffer& values) { return packed(values, pack_octaves); });
  module.def("unpack_octaves",
             [](const py::buffer& blob, const py::buffer& values) { return unpacked(blob, values, unpack_octaves); });
}
