// Sparse KL on logits: value and gradient per row, one exponential per element, the row in cache throughout.
#include "divergence.h"
#include "row_tensors.h"

namespace distill {
namespace {

struct Teacher {
  Given<const double> logp, tail;
  Mode mode;
  bool reverse;
};

// log(1 - sum p), clamped at probability 0.
double tail_of(const double* logp, const int64_t* ids, int64_t k) {
  double sum = 0;
  for (int64_t i = 0; i < k; ++i)
    if (ids[i] >= 0) sum += std::exp(logp[i]);
  return sum >= 1 ? -INFINITY : std::log(1 - sum);
}

void set_outcomes(Divergence& d, const Teacher& teacher, int64_t r, const int64_t* ids, int64_t k, int64_t columns,
                  const float* support, double inverse_t, double tail) {
  const double* const logp = teacher.logp.row(r);
  int64_t real = 0;
  for (int64_t i = 0; i < k; ++i) {
    real += ids[i] >= 0;
    d.logp(i) = ids[i] < 0 ? -INFINITY : logp[i];
    d.student(i) = support[i] * inverse_t;
  }
  d.student(k) = tail;
  d.logp(k) = -INFINITY;
  if (teacher.mode == Mode::tail && real != columns)
    d.logp(k) = teacher.tail ? teacher.tail[r] : tail_of(logp, ids, k);
}

template <class T>
struct Work {
  Work(int64_t columns, int64_t k, const Teacher& teacher, bool wants_scratch)
      : marks(columns), weights(blocks_of(columns)), support(k), exponentials(wants_scratch ? columns : 0),
        divergence(teacher.mode, teacher.reverse, k) {}
  MarkedColumns marks;
  std::vector<float> weights, support, exponentials;
  Divergence divergence;
};

// Loss of one row; with `out` also its gradient times `share`. `out` serves as the exponentials' memory in fp32.
template <class T>
double one_row(const T* z, T* out, int64_t columns, const int64_t* ids, int64_t k, const Teacher& teacher, int64_t r,
               double inverse_t, double share, Work<T>& w) {
  float* e = nullptr;
  if constexpr (std::is_same_v<T, float>) e = out;
  else if (out) e = w.exponentials.data();
  RowSums sums;
  DISTILL_CALL(gather, z, ids, k, w.support.data());
  w.marks.set(ids, k);
  DISTILL_CALL(row_sums, z, columns, w.marks.data(), float(inverse_t), false, e, w.weights.data(), &sums);
  w.marks.clear(ids, k);
  set_outcomes(w.divergence, teacher, r, ids, k, columns, w.support.data(), inverse_t, log_of(sums));
  const double loss = w.divergence.value();
  if (!out) return loss;
  const double factor = share * inverse_t;
  for (float& x : w.weights) x = float(x * w.divergence.gradient(k) * factor);
  DISTILL_CALL(row_rescale, e, out, columns, w.weights.data(), 0.f);
  for (int64_t i = 0; i < k; ++i) w.support[i] = float(w.divergence.gradient(i) * factor);
  DISTILL_CALL(scatter, w.support.data(), ids, k, out);
  return loss;
}

// loss [N] double; gradient [N, V] in the dtype of the logits, of `share * sum of upstream * loss` (upstream [N]
// double, 1 if not given), rounded once.
void sparse_kl_rows(const Tensor& z, const Tensor& ids, const Tensor& logp, const MaybeTensor& tail, int64_t mode,
                    bool reverse, double temperature, double share, const MaybeTensor& upstream, Tensor& loss,
                    const MaybeTensor& gradient) {
  const int64_t n = z.size(0), columns = z.size(1), k = ids.size(1);
  const Rows rows(z), into(gradient ? *gradient : z);
  const Given<int64_t> id(ids, k);
  const Teacher teacher{{logp, k}, {tail, 1}, Mode(mode), reverse};
  const Given<double> losses(loss, 1);
  const Given<const double> up(upstream, 1);
  with_elements(z, [&](auto* start) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(start)>>;
    T* const to_start = gradient ? mutable_data<T>(*gradient) : nullptr;
    if (gradient) advise_huge_pages(to_start, gradient->numel() * sizeof(T));
    torch::stable::parallel_for(0, n, grain(columns), [&](int64_t from, int64_t to) {
      Work<T> w(columns, k, teacher, to_start && !std::is_same_v<T, float>);
      for (int64_t r = from; r < to; ++r)
        losses[r] = one_row(rows.at(start, r), to_start ? into.at(to_start, r) : nullptr, columns, id.row(r), k, teacher,
                            r, 1 / temperature, up ? share * up[r] : share, w);
    });
  });
}

}  // namespace
}  // namespace distill

STABLE_TORCH_LIBRARY_IMPL(distill_core_cpu, CPU, m) { m.impl("sparse_kl_rows", TORCH_BOX(&distill::sparse_kl_rows)); }
