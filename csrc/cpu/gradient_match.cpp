// Gradient matching over a list of tensors in one call: value with the rows' cosines and norms, and the gradient.
//
// Rows: [rows, columns] matrices with a row stride; one thread takes a row from first to last column. Blocks (groups
// "tensor" and "global", and distances without rows): matrices of one contiguous row, cut at fixed places; the partial
// sums are added in order by one thread. Neither depends on the number of threads.
#include "gradient_match.h"

#include <algorithm>
#include <cmath>
#include <memory>
#include <thread>
#include <vector>

#include "fresh_pages.h"
#include "tensors.h"

#if defined(__x86_64__)
#include <xmmintrin.h>
#endif

namespace distill {
namespace {

constexpr int64_t BLOCK = 1 << 14;         // elements of a block
constexpr int64_t TASK_ELEMENTS = 1 << 15;  // work handed to a thread at a time

constexpr uint32_t CLEARED_BY_CALLER = 4;   // threads up to which one clears pages as fast as the others write them

constexpr int64_t PAST_CACHE_BYTES = 8 << 20;  // gradients from this size on are not kept in the caches

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

// Stride and length of the rows of a weight [rows, ...]; anything of less than 2 dimensions is one row.
std::pair<int64_t, int64_t> rows_of(const Tensor& x) {
  if (x.dim() == 2 && (x.size(1) < 2 || x.stride(1) == 1)) return {x.stride(0), x.size(1)};
  STD_TORCH_CHECK(x.is_contiguous(), "gradient_match: rows must be contiguous");
  const int64_t length = x.dim() < 2 ? x.numel() : x.size(0) > 0 ? x.numel() / x.size(0) : 0;
  return {length, length};
}

std::vector<Matrix> matrices(const std::vector<Tensor>& a, const std::vector<Tensor>& b, bool blocks) {
  STD_TORCH_CHECK(a.size() == b.size() && !a.empty(), "gradient_match: wants two lists of one length");
  std::vector<Matrix> all;
  int64_t first = 0, offset = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const Tensor &x = a[i], &y = b[i];
    STD_TORCH_CHECK(x.numel() == y.numel() && x.scalar_type() == a[0].scalar_type() &&
                        y.scalar_type() == a[0].scalar_type(),
                    "gradient_match: wants tensors of equal sizes and one dtype");
    const auto [x_stride, length] = rows_of(x);
    const auto [y_stride, same] = rows_of(y);
    STD_TORCH_CHECK(same == length, "gradient_match: wants rows of equal lengths");
    const int64_t count = x.dim() > 1 ? x.size(0) : 1;
    Matrix m{&x, &y, count, length, x.numel(), x_stride, y_stride, first, offset};
    if (blocks) {
      STD_TORCH_CHECK(m.total == 0 || count == 1 || (x_stride == length && y_stride == length),
                      "gradient_match: blocks are cut from contiguous tensors");
      m.pieces = (m.total + BLOCK - 1) / BLOCK;
      m.length = m.a_stride = m.b_stride = BLOCK;
    }
    first += m.pieces;
    offset += m.total;
    all.push_back(m);
  }
  return all;
}

void fence_streams() {
#if defined(__x86_64__)
  _mm_sfence();
#endif
}

// Calls f(matrix, its index, from, to) for all pieces, in parallel; tasks are taken in order by whoever is free. The
// calling thread clears the pages of the output first, ahead of the others, who meanwhile write what is cleared.
template <class F>
void for_pieces(const std::vector<Matrix>& all, FreshPages* pages, F f) {
  std::vector<Task> tasks;
  for (std::size_t i = 0; i < all.size(); ++i) {
    const int64_t step = std::max<int64_t>(1, TASK_ELEMENTS / std::max<int64_t>(1, all[i].length));
    for (int64_t from = 0; from < all[i].pieces; from += step)
      tasks.push_back({int64_t(i), from, std::min(all[i].pieces, from + step)});
  }
  const auto caller = std::this_thread::get_id();
  const uint32_t threads = torch::stable::get_num_threads();
  std::atomic<std::size_t> next{0};
  torch::stable::parallel_for(0, std::min<int64_t>(threads, tasks.size()), 1, [&](int64_t, int64_t) {
    if (pages && threads <= CLEARED_BY_CALLER && std::this_thread::get_id() == caller) pages->clear();
    for (std::size_t t; (t = next.fetch_add(1)) < tasks.size();)
      f(all[tasks[t].matrix], tasks[t].matrix, tasks[t].from, tasks[t].to);
    fence_streams();
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

// The gradient of all tensors, flattened one after the other, while it is filled; nothing where it was not asked for.
struct Flat {
  Tensor flat;
  std::unique_ptr<FreshPages> pages;
  const bool past_cache;

  Flat(const Tensor& like, const std::vector<Matrix>& all, bool wanted)
      : flat(torch::stable::new_empty(like, {wanted ? all.back().offset + all.back().total : 0})),
        past_cache(flat.numel() * flat.element_size() >= PAST_CACHE_BYTES) {
    if (wanted) pages = std::make_unique<FreshPages>(flat.mutable_data_ptr(), flat.numel() * flat.element_size());
  }

  // Where piece p of n elements goes, or nullptr.
  template <class T>
  T* piece(const Matrix& m, int64_t p, int64_t n) const {
    if (!pages) return nullptr;
    T* const at = mutable_data<T>(flat) + m.offset + p * m.length;
    pages->ready(at, n * sizeof(T));
    return at;
  }
};

typedef std::tuple<Tensor, Tensor, Tensor> Found;  // value, statistics, gradient

Found match_differences(const std::vector<Tensor>& a, const std::vector<Tensor>& b, const std::vector<double>& weights,
                        float absolute, bool with_gradient) {
  const auto all = matrices(a, b, true);
  std::vector<double> partial(all.back().first + all.back().pieces);
  const Flat gradient(a[0], all, with_gradient);
  with_elements(a[0], [&](auto* type) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
    for_pieces(all, gradient.pages.get(), [&](const Matrix& m, int64_t index, int64_t from, int64_t to) {
      for (int64_t p = from; p < to; ++p) {
        const T *x = data<T>(*m.a) + p * BLOCK, *y = data<T>(*m.b) + p * BLOCK;
        const int64_t n = length(m, p, true);
        DISTILL_CALL(match_difference, x, y, n, absolute, &partial[m.first + p]);
        if (T* const g = gradient.piece<T>(m, p, n)) DISTILL_CALL(match_slope, x, y, g, n, weights[index], absolute);
      }
    });
  });
  double value = 0;
  for (std::size_t i = 0; i < all.size(); ++i)
    for (int64_t p = 0; p < all[i].pieces; ++p) value += weights[i] * partial[all[i].first + p];
  return {scalar(a[0], value), torch::stable::new_empty(a[0], {0, 3}, ScalarType::Float), gradient.flat};
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

// Rows: the gradient of a row is written while the row is in cache, so both lists are read once.
Found match_rows(const std::vector<Tensor>& a, const std::vector<Tensor>& b, const std::vector<double>& weights,
                 const Rule& rule, bool with_gradient) {
  const auto all = matrices(a, b, false);
  Tensor statistics = torch::stable::new_empty(a[0], {all.back().first + all.back().pieces, 3}, ScalarType::Float);
  float* const kept = mutable_data<float>(statistics);
  const Flat gradient(a[0], all, with_gradient);
  with_elements(a[0], [&](auto* type) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
    for_pieces(all, gradient.pages.get(), [&](const Matrix& m, int64_t index, int64_t from, int64_t to) {
      for (int64_t p = from; p < to; ++p) {
        const T *x = data<T>(*m.a) + p * m.a_stride, *y = data<T>(*m.b) + p * m.b_stride;
        float* const row = kept + 3 * (m.first + p);
        double moments[3], alpha, beta;
        DISTILL_CALL(match_moments, x, y, m.length, moments);
        keep(row, moments);
        T* const g = gradient.piece<T>(m, p, m.length);
        if (!g) continue;
        coefficients(row, rule, alpha, beta);
        DISTILL_CALL(match_combine, x, y, g, m.length, weights[index] * alpha, weights[index] * beta,
                     gradient.past_cache);
      }
    });
  });
  double value = 0;
  const float* row = kept;
  for (std::size_t i = 0; i < all.size(); ++i)
    for (int64_t p = 0; p < all[i].pieces; ++p, row += 3) value += weights[i] * distance_of(row, rule);
  return {scalar(a[0], value), statistics, gradient.flat};
}

// Groups "tensor" and "global": all moments are known only after all elements were read.
std::tuple<Tensor, Tensor> match_blocks(const std::vector<Tensor>& a, const std::vector<Tensor>& b,
                                        const std::vector<double>& weights, const Rule& rule, bool global) {
  const auto all = matrices(a, b, true);
  std::vector<double> partial(3 * (all.back().first + all.back().pieces));
  with_elements(a[0], [&](auto* type) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
    for_pieces(all, nullptr, [&](const Matrix& m, int64_t, int64_t from, int64_t to) {
      for (int64_t p = from; p < to; ++p)
        DISTILL_CALL(match_moments, data<T>(*m.a) + p * BLOCK, data<T>(*m.b) + p * BLOCK, length(m, p, true),
                     &partial[3 * (m.first + p)]);
    });
  });
  const Tensor statistics = block_statistics(a, all, weights, partial, global);
  const float* const row = data<float>(statistics);
  double value = 0;
  if (global) value = distance_of(row, rule);
  else
    for (std::size_t i = 0; i < all.size(); ++i) value += weights[i] * distance_of(row + 3 * i, rule);
  return {scalar(a[0], value), statistics};
}

std::tuple<Tensor, Tensor> match_forward(std::vector<Tensor> a, std::vector<Tensor> b, std::vector<double> weights,
                                         int64_t distance, int64_t group, double eps, bool added) {
  if (distance == cosine && group != rows) return match_blocks(a, b, weights, {eps, added}, group == everything);
  const Found found = distance == cosine ? match_rows(a, b, weights, {eps, added}, false)
                                         : match_differences(a, b, weights, distance == squares ? 0.f : 1.f, false);
  return {std::get<0>(found), std::get<1>(found)};
}

// Value, statistics, and the gradient for an upstream gradient of 1, where one read of the lists is enough for them.
Found match_with_gradient(std::vector<Tensor> a, std::vector<Tensor> b, std::vector<double> weights, int64_t distance,
                          int64_t group, double eps, bool added) {
  if (distance != cosine) return match_differences(a, b, weights, distance == squares ? 0.f : 1.f, true);
  STD_TORCH_CHECK(group == rows, "gradient_match: the gradient of this group takes a second read");
  return match_rows(a, b, weights, {eps, added}, true);
}

Tensor match_backward(Tensor upstream, std::vector<Tensor> a, std::vector<Tensor> b, Tensor statistics,
                      std::vector<double> weights, int64_t distance, int64_t group, double eps, bool added) {
  const bool blocks = distance != cosine || group != rows;
  const auto all = matrices(a, b, blocks);
  const double up = *data<float>(upstream);
  const float* const kept = data<float>(statistics);
  const float absolute = distance == squares ? 0.f : 1.f;
  const Rule rule{eps, added};
  const Flat gradient(a[0], all, true);
  with_elements(a[0], [&](auto* type) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(type)>>;
    for_pieces(all, gradient.pages.get(), [&](const Matrix& m, int64_t index, int64_t from, int64_t to) {
      const double scale = up * weights[index];
      for (int64_t p = from; p < to; ++p) {
        const T *x = data<T>(*m.a) + p * m.a_stride, *y = data<T>(*m.b) + p * m.b_stride;
        const int64_t n = length(m, p, blocks);
        T* const g = gradient.piece<T>(m, p, n);
        if (distance != cosine) {
          DISTILL_CALL(match_slope, x, y, g, n, scale, absolute);
          continue;
        }
        double alpha, beta;
        const int64_t of = group == everything ? 0 : group == tensors ? index : m.first + p;
        coefficients(kept + 3 * of, rule, alpha, beta);
        DISTILL_CALL(match_combine, x, y, g, n, scale * alpha, scale * beta, gradient.past_cache);
      }
    });
  });
  return gradient.flat;
}

}  // namespace
}  // namespace distill

STABLE_TORCH_LIBRARY_IMPL(distill_core_cpu, CPU, m) {
  m.impl("match_forward", TORCH_BOX(&distill::match_forward));
  m.impl("match_with_gradient", TORCH_BOX(&distill::match_with_gradient));
  m.impl("match_backward", TORCH_BOX(&distill::match_backward));
}
