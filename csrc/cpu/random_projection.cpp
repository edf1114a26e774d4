// Random projection of matrices [n, F_i] side by side, no sign matrix stored. A thread takes 128 columns of the result
// and all features in their order, in chunks of 512 counted from the first: neither the number of threads nor the
// division into matrices changes a bit.
#include "random_projection.h"

#include <algorithm>
#include <vector>

#include "convert.h"
#include "tensors.h"

namespace distill {
namespace {

constexpr int64_t COLUMNS = 64 * PROJECTED_WORDS;
constexpr int64_t ROWS = 8;  // gathered at a time

void copy(const float* from, float* to, int64_t n) { std::copy(from, from + n, to); }
template <class T>
void copy(const T* from, float* to, int64_t n) { DISTILL_CALL(widen, from, to, n); }

// Features [start, start + count) of row r, in fp32; `tensor` and `before` walk along with `start`.
struct Features {
  const std::vector<Tensor>& tensors;
  std::size_t tensor = 0;
  int64_t before = 0;  // features in earlier tensors

  void advance(int64_t start) {
    while (start >= before + tensors[tensor].size(1)) before += tensors[tensor++].size(1);
  }

  void row(int64_t r, int64_t start, int64_t count, float* to) const {
    int64_t offset = start - before;
    for (std::size_t i = tensor; count > 0; ++i, offset = 0) {
      const Tensor& x = tensors[i];
      const int64_t n = std::min(count, x.size(1) - offset);
      if (n > 0) with_elements(x, [&](auto* p) { copy(p + r * x.stride(0) + offset, to, n); });
      to += n;
      count -= n;
    }
  }
};

void project_columns(const std::vector<Tensor>& tensors, int64_t features, int64_t dim, uint64_t state, uint64_t offset,
                     double scale, int64_t block, float* out) {
  const int64_t rows = tensors[0].size(0), from = block * COLUMNS, width = std::min(COLUMNS, dim - from);
  std::vector<double> sums(rows * COLUMNS);
  std::vector<uint64_t> words(PROJECTED_FEATURES * PROJECTED_WORDS);
  std::vector<float> x(ROWS * PROJECTED_FEATURES);
  Features source{tensors};
  for (int64_t start = 0; start < features; start += PROJECTED_FEATURES) {
    const int64_t count = std::min(PROJECTED_FEATURES, features - start);
    DISTILL_CALL(projection_signs, state, offset + uint64_t(start), count, block * PROJECTED_WORDS, words.data());
    source.advance(start);
    for (int64_t r = 0; r < rows; r += ROWS) {
      const int64_t some = std::min(ROWS, rows - r);
      for (int64_t i = 0; i < some; ++i) source.row(r + i, start, count, x.data() + i * PROJECTED_FEATURES);
      DISTILL_CALL(projection_sums, x.data(), some, words.data(), count, sums.data() + r * COLUMNS);
    }
  }
  for (int64_t r = 0; r < rows; ++r)
    for (int64_t c = 0; c < width; ++c) out[r * dim + from + c] = float(sums[r * COLUMNS + c] * scale);
}

Tensor project(std::vector<Tensor> tensors, int64_t dim, int64_t state, int64_t feature_offset, double scale) {
  STD_TORCH_CHECK(!tensors.empty() && dim > 0, "random_projection: wants tensors and a positive dim");
  int64_t features = 0;
  for (const Tensor& x : tensors) {
    STD_TORCH_CHECK(x.dim() == 2 && x.size(0) == tensors[0].size(0) && (x.size(1) < 2 || x.stride(1) == 1),
                    "random_projection: wants matrices of as many rows, each row contiguous");
    features += x.size(1);
  }
  Tensor out = torch::stable::new_empty(tensors[0], {tensors[0].size(0), dim}, ScalarType::Float);
  float* const to = mutable_data<float>(out);
  torch::stable::parallel_for(0, (dim + COLUMNS - 1) / COLUMNS, 1, [&](int64_t a, int64_t b) {
    for (int64_t block = a; block < b; ++block)
      project_columns(tensors, features, dim, uint64_t(state), uint64_t(feature_offset), scale, block, to);
  });
  return out;
}

}  // namespace
}  // namespace distill

STABLE_TORCH_LIBRARY_IMPL(distill_core_cpu, CPU, m) { m.impl("project", TORCH_BOX(&distill::project)); }
