// Tensors as rows: pointers with a stride, checked once; the marks of a support.
#pragma once

#include <cmath>
#include <optional>
#include <vector>

#include "support_rows.h"
#include "tensors.h"

namespace distill {

using MaybeTensor = std::optional<Tensor>;

// A matrix whose last dimension is contiguous.
struct Rows {
  explicit Rows(const Tensor& x) : stride(x.size(0) > 1 ? x.stride(0) : 0) {
    STD_TORCH_CHECK(x.dim() == 2 && (x.size(1) <= 1 || x.stride(1) == 1), "rows: wants a matrix with contiguous rows");
  }
  template <class T>
  T* at(T* start, int64_t row) const { return start + row * stride; }
  int64_t stride;
};

// A contiguous tensor of `per_row` numbers a row; null where it was not given.
template <class T>
struct Given {
  Given(const MaybeTensor& x, int64_t per_row) : Given(x ? &*x : nullptr, per_row) {}
  Given(const Tensor& x, int64_t per_row) : Given(&x, per_row) {}
  explicit operator bool() const { return start != nullptr; }
  T* row(int64_t r) const { return start + r * per_row; }
  T& operator[](int64_t r) const { return start[r * per_row]; }
  T* start;
  int64_t per_row;

 private:
  Given(const Tensor* x, int64_t n) : start(x ? static_cast<T*>(x->data_ptr()) : nullptr), per_row(n) {
    STD_TORCH_CHECK(!x || x->is_contiguous(), "rows: wants contiguous vectors");
  }
};

// One bit per column, set for the columns of one row's support.
class MarkedColumns {
 public:
  explicit MarkedColumns(int64_t columns) : bits_(columns / 8 + 1 + mark_slack, 0) {}
  void set(const int64_t* ids, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
      if (ids[i] >= 0) bits_[ids[i] / 8] |= uint8_t(1u << (ids[i] % 8));
  }
  void clear(const int64_t* ids, int64_t n) {
    for (int64_t i = 0; i < n; ++i)
      if (ids[i] >= 0) bits_[ids[i] / 8] = 0;
  }
  const uint8_t* data() const { return bits_.data(); }

 private:
  std::vector<uint8_t> bits_;
};

inline double log_of(const RowSums& s) { return s.sum == 0 ? -INFINITY : s.top + std::log(s.sum); }

// Rows that a thread takes at least, so that it has work for some microseconds.
inline int64_t grain(int64_t columns) { return 1 + 16384 / (columns + 1); }

}  // namespace distill
