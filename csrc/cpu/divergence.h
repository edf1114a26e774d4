// KL divergences between a sparse teacher and a student on k + 1 outcomes (index k is the complement), in double.
// The same formulas and conventions as distill_core/ops/sparse_kl/reference.py.
#pragma once

#include <cmath>
#include <cstdint>
#include <vector>

namespace distill {

enum class Mode : int64_t { tail, truncated, renormalized, renormalized_both, weights };

class Divergence {
 public:
  Divergence(Mode mode, bool reverse, int64_t k)
      : mode_(mode), reverse_(reverse), k_(k), logp_(k + 1), student_(k + 1), q_(k + 1), gradient_(k + 1) {}

  // Fill before `value`: teacher log-probabilities (-inf on padding) and z / t of the student, tails last.
  double& logp(int64_t i) { return logp_[i]; }
  double& student(int64_t i) { return student_[i]; }
  // After `value`: its derivative by student(i).
  double gradient(int64_t i) const { return gradient_[i]; }

  // In nat; +inf where mass meets an impossible outcome.
  double value() {
    const int64_t taught = mode_ == Mode::tail ? k_ + 1 : k_;
    const int64_t possible = mode_ == Mode::renormalized_both ? k_ : k_ + 1;
    if (mode_ == Mode::renormalized || mode_ == Mode::renormalized_both) {
      const double lse = logsumexp(logp_.data(), k_, q_.data());
      for (int64_t i = 0; i < k_; ++i) logp_[i] -= lse;
    }
    const double lse = logsumexp(student_.data(), possible, q_.data());
    double sum = 0, slope = 0;
    for (int64_t i = 0; i <= k_; ++i) {
      gradient_[i] = 0;
      if (i >= possible) q_[i] = 0;
      if (i >= taught) continue;
      sum += reverse_ ? reverse_term(i, lse) : forward_term(i, lse);
      slope += gradient_[i];
    }
    // Through the log-softmax; an impossible complement passes nothing on, q is 0 there.
    for (int64_t i = 0; i < possible; ++i) gradient_[i] -= q_[i] * slope;
    return sum;
  }

 private:
  // Also e^(x - result) into `share`. A row of -inf (or of none) gives 0, with shares 0.
  static double logsumexp(const double* x, int64_t n, double* share) {
    double top = -INFINITY, sum = 0;
    for (int64_t i = 0; i < n; ++i) top = x[i] > top ? x[i] : top;
    if (top == -INFINITY) top = 0;
    for (int64_t i = 0; i < n; ++i) sum += share[i] = std::exp(x[i] - top);
    if (sum == 0) return 0;
    for (int64_t i = 0; i < n; ++i) share[i] /= sum;
    return top + std::log(sum);
  }

  double forward_term(int64_t i, double lse) {
    const double p = std::exp(logp_[i]);
    if (p == 0) return 0;
    const double logq = student_[i] - lse;
    if (logq == -INFINITY) {
      // A real entry is still drawn towards the teacher; an empty complement, or a row with nothing possible, is not.
      gradient_[i] = i == k_ || mode_ == Mode::renormalized_both || nothing_possible() ? 0 : -p;
      return INFINITY;
    }
    gradient_[i] = -p;
    return p * (logp_[i] - logq);
  }

  double reverse_term(int64_t i, double lse) {
    const double q = q_[i];
    if (q == 0) return 0;
    if (logp_[i] == -INFINITY) return INFINITY;
    const double ratio = student_[i] - lse - logp_[i];
    gradient_[i] = q * (ratio + 1);
    return q * ratio;
  }

  bool nothing_possible() const {
    for (double q : q_)
      if (q != 0) return false;
    return true;
  }

  Mode mode_;
  bool reverse_;
  int64_t k_;
  std::vector<double> logp_, student_, q_, gradient_;
};

}  // namespace distill
