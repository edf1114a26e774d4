// Gradient of logits under a support, from cotangents of the statistics.
#include "row_tensors.h"

namespace distill {
namespace {

struct Cotangents {
  Given<float> support, tail, label, mean, entropy;
  Cotangents(const MaybeTensor& s, const MaybeTensor& t, const MaybeTensor& l, const MaybeTensor& m,
             const MaybeTensor& h, int64_t k, int64_t n_temperatures)
      : support(s, k), tail(t, n_temperatures), label(l, 1), mean(m, 1), entropy(h, n_temperatures) {}
};

struct Head { double inverse_cap, scale; };

struct Workspace {
  std::vector<GradientTerm> terms;  // complement's, then the entropies'
  size_t complement = 0;
  std::vector<float> support, gradient;
};

// log of the sum over everything; 0 for a row with nothing possible.
double logsumexp(const float* support, int64_t k, double inverse_t, double tail) {
  double top = tail;
  for (int64_t i = 0; i < k; ++i) top = support[i] * inverse_t > top ? support[i] * inverse_t : top;
  if (top == -INFINITY) top = 0;
  double sum = std::exp(tail - top);
  for (int64_t i = 0; i < k; ++i) sum += std::exp(support[i] * inverse_t - top);
  return sum == 0 ? 0 : top + std::log(sum);
}

void set_terms(Workspace& w, const std::vector<double>& temperatures, const float* tail, const float* entropy,
               const Cotangents& up, int64_t r, int64_t k) {
  w.terms.clear();
  const size_t t = temperatures.size();
  for (size_t i = 0; up.tail && i < t; ++i) {
    const bool empty = tail[i] == -INFINITY;
    w.terms.push_back({float(1 / temperatures[i]), empty ? 0.f : tail[i],
                       empty ? 0.f : float(up.tail.row(r)[i] / temperatures[i]), 0.f});
  }
  w.complement = w.terms.size();
  for (size_t i = 0; up.entropy && i < t; ++i) {
    const float slope = float(-up.entropy.row(r)[i] / temperatures[i]);
    const double lse = logsumexp(w.support.data(), k, 1 / temperatures[i], tail[i]);
    w.terms.push_back({float(1 / temperatures[i]), float(lse), slope * entropy[i], slope});
  }
}

// The gradient at one entry: on the support the complement's terms are replaced by the support's cotangent.
double entry(const Workspace& w, const Head& head, double z, bool on_support, double given, double mean) {
  double d = given + mean;
  for (size_t i = on_support ? w.complement : 0; i < w.terms.size(); ++i) {
    const GradientTerm& term = w.terms[i];
    const double x = z * term.inverse_t - term.shift, e = std::exp(x);
    if (e != 0) d += e * (term.factor + term.slope * x);
  }
  const double capped = head.inverse_cap == 0 ? 0 : z * head.inverse_cap;  // z may be -inf without a cap
  return d * (1 - capped * capped) * head.scale;
}

template <class T>
void one_row(const T* z, T* out, int64_t columns, const int64_t* ids, int64_t k, int64_t label, const Head& head,
             const Cotangents& up, int64_t r, Workspace& w) {
  const double mean = up.mean ? up.mean[r] / double(columns) : 0;
  float z_label = 0;
  bool label_on_support = false;
  if (up.label && label >= 0) DISTILL_CALL(gather, z, &label, 1, &z_label);
  for (int64_t i = 0; i < k; ++i) {
    if (ids[i] < 0) continue;
    double given = up.support ? up.support.row(r)[i] : 0;
    if (up.label && ids[i] == label) {
      given += up.label[r];
      label_on_support = true;
    }
    w.gradient[i] = float(entry(w, head, w.support[i], true, given, mean));
  }
  DISTILL_CALL(row_gradient, z, out, columns, w.terms.data(), int64_t(w.terms.size()), float(mean),
               float(head.inverse_cap), float(head.scale));
  DISTILL_CALL(scatter, w.gradient.data(), ids, k, out);
  if (up.label && label >= 0 && !label_on_support) {
    const float d = float(entry(w, head, z_label, false, up.label[r], mean));
    DISTILL_CALL(scatter, &d, &label, 1, out);
  }
}

// `out` may be the logits themselves.
void support_gradient(const Tensor& z, const Tensor& ids, const MaybeTensor& labels, std::vector<double> temperatures,
                      double inverse_cap, double scale, const Tensor& tail, const MaybeTensor& entropy,
                      const MaybeTensor& dsupport, const MaybeTensor& dtail, const MaybeTensor& dlabel,
                      const MaybeTensor& dmean, const MaybeTensor& dentropy, Tensor& out) {
  const int64_t n = z.size(0), columns = z.size(1), k = ids.size(1), t = temperatures.size();
  STD_TORCH_CHECK(out.scalar_type() == z.scalar_type(), "support_gradient: the gradient has the dtype of the logits");
  const Rows rows(z), into(out);
  const Given<int64_t> id(ids, k), labelled(labels, 1);
  const Given<const float> tails(tail, t), entropies(entropy, t);
  const Cotangents up(dsupport, dtail, dlabel, dmean, dentropy, k, t);
  with_elements(z, [&](auto* start) {
    using T = std::remove_const_t<std::remove_pointer_t<decltype(start)>>;
    T* const to_start = mutable_data<T>(out);
    if (to_start != start) advise_huge_pages(to_start, out.numel() * sizeof(T));
    torch::stable::parallel_for(0, n, grain(columns), [&](int64_t from, int64_t to) {
      Workspace w;
      w.support.resize(k + 1);
      w.gradient.resize(k + 1);
      for (int64_t r = from; r < to; ++r) {
        DISTILL_CALL(gather, rows.at(start, r), id.row(r), k, w.support.data());
        set_terms(w, temperatures, tails.row(r), entropies ? entropies.row(r) : nullptr, up, r, k);
        one_row(rows.at(start, r), into.at(to_start, r), columns, id.row(r), k, labelled ? labelled[r] : -1,
                Head{inverse_cap, scale}, up, r, w);
      }
    });
  });
}

// Turns the exponentials of `support_statistics` into the gradient, in place.
void rescale_exponentials(Tensor& e, const Tensor& weights, const Tensor& ids, const MaybeTensor& labels,
                          double temperature, double scale, const MaybeTensor& dsupport, const MaybeTensor& dtail,
                          const MaybeTensor& dlabel, const MaybeTensor& dmean) {
  const int64_t n = e.size(0), columns = e.size(1), k = ids.size(1), blocks = blocks_of(columns);
  const Given<float> exponentials(e, columns);
  const Given<const float> weight(weights, blocks);
  const Given<int64_t> id(ids, k), labelled(labels, 1);
  const Cotangents up(dsupport, dtail, dlabel, dmean, std::nullopt, k, 1);
  torch::stable::parallel_for(0, n, grain(columns), [&](int64_t from, int64_t to) {
    std::vector<float> factors(blocks), gradient(k + 1);
    for (int64_t r = from; r < to; ++r) {
      float* const row = exponentials.row(r);
      const double add = up.mean ? up.mean[r] / double(columns) * scale : 0;
      const double tail = up.tail ? up.tail[r] / temperature * scale : 0;
      for (int64_t b = 0; b < blocks; ++b) factors[b] = float(weight.row(r)[b] * tail);
      DISTILL_CALL(row_rescale, row, row, columns, factors.data(), float(add));
      for (int64_t i = 0; i < k; ++i) gradient[i] = float((up.support ? up.support.row(r)[i] * scale : 0) + add);
      DISTILL_CALL(scatter, gradient.data(), id.row(r), k, row);
      if (up.label && labelled[r] >= 0) row[labelled[r]] += float(up.label[r] * scale);
    }
  });
}

}  // namespace
}  // namespace distill

STABLE_TORCH_LIBRARY_IMPL(distill_core_cpu, CPU, m) {
  m.impl("support_gradient", TORCH_BOX(&distill::support_gradient));
  m.impl("rescale_exponentials_", TORCH_BOX(&distill::rescale_exponentials));
}
