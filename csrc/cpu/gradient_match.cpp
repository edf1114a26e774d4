// Gradient matching over a list of tensors in one call: value with the rows' cosines and norms, and the gradient.
//
// Rows: [rows, columns] matrices with a row stride; one thread takes a row from first to last column. Blocks (groups
// "tensor" and "global", and distances without rows): matrices of one contiguous row, cut at fixed places; the partial
// sums are added in order by one thread. Neither depends on the number of threads.
#include "gradient_match.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "tensors.h"

namespace distill {
namespace {

constexpr int64_t BLOCK = 1 << 14;         // elements of a block
constexpr int64_t TASK_ELEMENTS = 1 << 15;  // work handed to a thread at a time

enum Distance : int64_t { cosine, squares, squares_and_magnitudes };
enum Group : int64_t { rows, tensors, everything };

struct Matrix {
  const Tensor* a;
  const Tensor* b;
  int64_t pieces, length, total;      // pieces of `length` elements; the last may be shorter where `total` says so
  int64_t a_stride, b_stride, first;  // first: index of the first piece among all
  int64_t offset;                     // of the gradient in the flat output, in elements
};

struct Task { int64_t matrix, from, to; };

int64_t length(const Matrix& m, int64_t piece, bool blocks) {
  return blocks ? std::min(m.length, m.total - piece * m.length) : m.length;
}

std::vector<Matrix> matrices(const std::vector<Tensor>& a, const std::vector<Tensor>& b, bool blocks) {
  STD_TORCH_CHECK(a.size() == b.size() && !a.empty(), "gradient_match: wants two lists of one length");
  std::vector<Matrix> all;
  int64_t first = 0, offset = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const Tensor &x = a[i], &y = b[i];
    STD_TORCH_CHECK(x.dim() == 2 && y.dim() == 2 && x.size(0) == y.size(0) && x.size(1) == y.size(1) &&
                        x.scalar_type() == a[0].scalar_type() && y.scalar_type() == a[0].scalar_type(),
                    "gradient_match: wants matrices of equal shapes and one dtype");
    STD_TORCH_CHECK(x.size(1) < 2 || (x.stride(1) == 1 && y.stride(1) == 1), "gradient_match: rows must be contiguous");
    Matrix m{&x, &y, x.size(0), x.size(1), x.numel(), x.stride(0), y.stride(0), first, offset};
    if (blocks) {
      STD_TORCH_CHECK(x.size(0) == 1, "gradient_match: blocks are cut from single rows");
      m.pieces = (m.total + BLOCK - 1) / BLOCK;
      m.length = m.a_stride = m.b_stride = BLOCK;
    }
    first += m.pieces;
    offset += m.total;
    all.push_back(m);
  }
  return all;
}

// Calls f(matrix, from, to) for all pieces, in parallel.
template <class F>
void for_pieces(const std::vector<Matrix>& all, F f) {
  std::vector<Task> tasks;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const int64_t step = std::max<int64_t>(1, TASK_ELEMENTS / std::max<int64_t>(1, all[i].length));
    for (int64_t from = 0; from < all[i].pieces; from += step)
      tasks.push_back({int64_t(i), from, std::min(all[i].pieces, from + step)});
  }
  torch::stable::parallel_for(0, int64_t(tasks.size()), 1, [&](int64_t begin, int64_t end) {
    for (int64_t t = begin; t < end; ++t) f(all[tasks[t].matrix], tasks[t].matrix, tasks[t].from, tasks[t].to);
  });
}

struct Rule {
  double eps;
  bool added;
  double denominator(double na, double nb) const {
    return added ? na * nb + eps : larger(na) * larger(nb);
  }
  double larger(double norm) const { return norm < eps ? eps : norm; }  // NaN stays
};

void keep(float* row, const double* moments) {
  const double na = std::sqrt(moments[1]), nb = std::sqrt(moments[2]), product = na * nb;
  row[0] = float(product == 0 ? 0 : moments[0] / product);
  row[1] = float(na);
  row[2] = float(nb);
}

double distance_of(const float* row, const Rule& rule) {
  const double na = row[1], nb = row[2];
  if (!rule.added && na == 0 && nb == 0) return 0;
  return 1 - row[0] * na * nb / rule.denominator(na, nb);
}

// dD/da = alpha b + beta a; both 0 where |a| = 0, which has no direction.
void coefficients(const float* row, const Rule& rule, double& alpha, double& beta) {
  const double c = row[0], na = row[1], nb = row[2];
  alpha = beta = 0;
  if (na == 0) return;
  const double den = rule.denominator(na, nb);
  alpha = -1 / den;
  if (rule.added) beta = c * nb * nb / (den * den);
  else if (!(na <= rule.eps)) beta = c * nb / (na * den);
}

Tensor scalar(const Tensor& like, double value) {
  Tensor out = torch::stable::new_empty(like, {}, ScalarType::Float);
  *mutable_data<float>(out) = float(value);
  return out;
}

std::tuple<Tensor, Tensor> match_differences(const std::vector<Tensor>& a, const std::vector<Tensor>& b,
                                             const std::vector<double>& weights, float absolute) {
  const auto all = matrices(a, b, true);
  std::vector<double> partial(all.back().first + all.back().pieces);
  with_elements(a[0], [&](auto* type) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
    for_pieces(all, [&](const Matrix& m, int64_t, int64_t from, int64_t to) {
      for (int64_t p = from; p < to; ++p)
        DISTILL_CALL(match_difference, data<T>(*m.a) + p * BLOCK, data<T>(*m.b) + p * BLOCK, length(m, p, true), absolute,
                     &partial[m.first + p]);
    });
  });
  double value = 0;
  for (std::size_t i = 0; i < all.size(); ++i)
    for (int64_t p = 0; p < all[i].pieces; ++p) value += weights[i] * partial[all[i].first + p];
  return {scalar(a[0], value), torch::stable::new_empty(a[0], {0, 3}, ScalarType::Float)};
}

// One row of statistics per tensor, or one in all, from blocks.
Tensor block_statistics(const std::vector<Tensor>& a, const std::vector<Matrix>& all, const std::vector<double>& weights,
                        const std::vector<double>& partial, bool global) {
  Tensor out = torch::stable::new_empty(a[0], {global ? 1 : int64_t(all.size()), 3}, ScalarType::Float);
  double sum[3] = {0, 0, 0};
  for (std::size_t i = 0; i < all.size(); ++i) {
    double own[3] = {0, 0, 0};
    for (int64_t p = 0; p < all[i].pieces; ++p)
      for (int k = 0; k < 3; ++k) own[k] += partial[3 * (all[i].first + p) + k];
    for (int k = 0; k < 3; ++k) sum[k] += weights[i] * own[k];
    if (!global) keep(mutable_data<float>(out) + 3 * i, own);
  }
  if (global) keep(mutable_data<float>(out), sum);
  return out;
}

std::tuple<Tensor, Tensor> match_forward(std::vector<Tensor> a, std::vector<Tensor> b, std::vector<double> weights,
                                         int64_t distance, int64_t group, double eps, bool added) {
  if (distance != cosine) return match_differences(a, b, weights, distance == squares ? 0.f : 1.f);
  const bool blocks = group != rows;
  const auto all = matrices(a, b, blocks);
  const int64_t pieces = all.back().first + all.back().pieces;
  std::vector<double> partial(blocks ? 3 * pieces : 0);
  Tensor statistics = torch::stable::new_empty(a[0], {blocks ? 0 : pieces, 3}, ScalarType::Float);
  float* const kept = mutable_data<float>(statistics);
  with_elements(a[0], [&](auto* type) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
    for_pieces(all, [&](const Matrix& m, int64_t, int64_t from, int64_t to) {
      for (int64_t p = from; p < to; ++p) {
        double found[3];
        DISTILL_CALL(match_moments, data<T>(*m.a) + p * m.a_stride, data<T>(*m.b) + p * m.b_stride, length(m, p, blocks),
                     found);
        if (blocks) std::copy(found, found + 3, &partial[3 * (m.first + p)]);
        else keep(kept + 3 * (m.first + p), found);
      }
    });
  });
  if (blocks) statistics = block_statistics(a, all, weights, partial, group == everything);
  const float* row = data<float>(statistics);
  const Rule rule{eps, added};
  double value = 0;
  if (group == everything) value = distance_of(row, rule);
  else
    for (std::size_t i = 0; i < all.size(); ++i)
      for (int64_t p = 0; p < (blocks ? 1 : all[i].pieces); ++p, row += 3) value += weights[i] * distance_of(row, rule);
  return {scalar(a[0], value), statistics};
}

Tensor match_backward(Tensor upstream, std::vector<Tensor> a, std::vector<Tensor> b, Tensor statistics,
                      std::vector<double> weights, int64_t distance, int64_t group, double eps, bool added) {
  const bool blocks = distance != cosine || group != rows;
  const auto all = matrices(a, b, blocks);
  const double up = *data<float>(upstream);
  const float* const kept = data<float>(statistics);
  const float absolute = distance == squares ? 0.f : 1.f;
  const Rule rule{eps, added};
  const int64_t size = all.back().offset + all.back().total;
  Tensor flat = torch::stable::new_empty(a[0], {size});
  with_elements(a[0], [&](auto* type) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
    T* const out = mutable_data<T>(flat);
    advise_huge_pages(out, size * sizeof(T));
    for_pieces(all, [&](const Matrix& m, int64_t index, int64_t from, int64_t to) {
      const double scale = up * weights[index];
      for (int64_t p = from; p < to; ++p) {
        const T *x = data<T>(*m.a) + p * m.a_stride, *y = data<T>(*m.b) + p * m.b_stride;
        T* const g = out + m.offset + p * m.length;
        const int64_t n = length(m, p, blocks);
        if (distance != cosine) {
          DISTILL_CALL(match_slope, x, y, g, n, scale, absolute);
          continue;
        }
        double alpha, beta;
        const int64_t of = group == everything ? 0 : group == tensors ? index : m.first + p;
        coefficients(kept + 3 * of, rule, alpha, beta);
        DISTILL_CALL(match_combine, x, y, g, n, scale * alpha, scale * beta);
      }
    });
  });
  return flat;
}

}  // namespace
}  // namespace distill

STABLE_TORCH_LIBRARY_IMPL(distill_core_cpu, CPU, m) {
  m.impl("match_forward", TORCH_BOX(&distill::match_forward));
  m.impl("match_backward", TORCH_BOX(&distill::match_backward));
}
