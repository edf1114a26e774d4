// Statistics of logits under a support: support, tails, label, mean, entropy, largest entry.
#include "row_tensors.h"

namespace distill {
namespace {

struct Outputs {
  Given<float> support, tail, label, mean, entropy;
  Given<int64_t> top1;
  Given<float> weights;
};

// Entropy in nat of the whole row, from the complement's sums and the support's logits.
float entropy_of(const RowSums& rest, const float* support, int64_t k, double inverse_t) {
  double top = rest.sum == 0 ? -INFINITY : rest.top;
  for (int64_t i = 0; i < k; ++i) top = support[i] * inverse_t > top ? support[i] * inverse_t : top;
  if (top == -INFINITY) top = 0;
  double sum = 0, weighted = 0;
  if (rest.sum != 0) {
    const double shift = rest.top - top, factor = std::exp(shift);
    sum = factor * rest.sum;
    weighted = factor == 0 ? 0 : factor * (rest.weighted + rest.sum * shift);
  }
  for (int64_t i = 0; i < k; ++i) {
    const double x = support[i] * inverse_t - top, e = std::exp(x);
    sum += e;
    weighted += e == 0 ? 0 : e * x;
  }
  return sum == 0 ? 0.f : float(std::log(sum) - weighted / sum);
}

template <class T>
void one_row(const T* z, int64_t columns, const int64_t* ids, int64_t k, const Given<int64_t>& labels,
             const std::vector<double>& temperatures, int64_t r, const Outputs& out, MarkedColumns& marks,
             float* scratch, float* exponentials) {
  float* const support = out.support.row(r);
  DISTILL_CALL(gather, z, ids, k, support);
  if (out.label) {
    const int64_t at = labels[r] < 0 ? -1 : labels[r];
    DISTILL_CALL(gather, z, &at, 1, out.label.row(r));
    if (at < 0) out.label[r] = 0;
  }
  if (out.mean) DISTILL_CALL(row_mean, z, columns, out.mean.row(r));
  if (out.top1) DISTILL_CALL(row_top1, z, columns, out.top1.row(r));
  marks.set(ids, k);
  for (size_t i = 0; i < temperatures.size(); ++i) {
    RowSums sums;
    const float inverse_t = float(1 / temperatures[i]);
    float* const weights = out.weights ? out.weights.row(r) : scratch;
    DISTILL_CALL(row_sums, z, columns, marks.data(), inverse_t, bool(out.entropy), exponentials, weights, &sums);
    out.tail.row(r)[i] = float(log_of(sums));
    if (out.entropy) out.entropy.row(r)[i] = entropy_of(sums, support, k, inverse_t);
  }
  marks.clear(ids, k);
}

// Fills the outputs. With `weights` [N, blocks] also writes exp(x - x_block) into `exponentials`, fp32 [N, V] (may be
// the logits), for one temperature.
void support_statistics(const Tensor& z, const Tensor& ids, const MaybeTensor& labels, std::vector<double> temperatures,
                        Tensor& support, Tensor& tail, const MaybeTensor& label, const MaybeTensor& mean,
                        const MaybeTensor& entropy, const MaybeTensor& top1, const MaybeTensor& weights,
                        const MaybeTensor& exponentials) {
  const int64_t n = z.size(0), columns = z.size(1), k = ids.size(1), t = temperatures.size();
  const Rows rows(z);
  const Given<int64_t> id(ids, k), labelled(labels, 1);
  const Outputs out{{support, k}, {tail, t}, {label, 1}, {mean, 1}, {entropy, t}, {top1, 1}, {weights, blocks_of(columns)}};
  STD_TORCH_CHECK(!weights == !exponentials && (!weights || t == 1), "support_statistics: exponentials need weights, T = 1");
  const Given<float> e(exponentials, columns);
  with_elements(z, [&](auto* start) {
    torch::stable::parallel_for(0, n, grain(columns), [&](int64_t from, int64_t to) {
      MarkedColumns marks(columns);
      std::vector<float> scratch(blocks_of(columns));
      for (int64_t r = from; r < to; ++r)
        one_row(rows.at(start, r), columns, id.row(r), k, labelled, temperatures, r, out, marks, scratch.data(),
                e ? e.row(r) : nullptr);
    });
  });
}

}  // namespace
}  // namespace distill

STABLE_TORCH_LIBRARY_IMPL(distill_core_cpu, CPU, m) {
  m.impl("support_statistics", TORCH_BOX(&distill::support_statistics));
}
