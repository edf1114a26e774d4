"""Scaling laws: the loss of a model trained on text, and of a student distilled from a teacher.

Symbols: N parameters without embeddings, D tokens, L cross-entropy on held-out text in nat per token; S student,
T teacher. Busbridge et al. (2025), "Distillation Scaling Laws", arXiv 2502.08606v2, equations 1 and 8; constants from
its Table 6. Besiroglu et al. (2024), "Chinchilla Scaling: A replication attempt", arXiv 2404.10102.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from distill_core.planning.figures import Formula

RELATIVE_ERROR = 0.01
"""Relative prediction error of both fits on their own data (2502.08606, section 4.4: at most about 1 %)."""


@dataclass(frozen=True)
class SupervisedLaw:
    """``L(N, D) = E + (A / N^alpha + B / D^beta)^gamma``.

    >>> round(BUSBRIDGE.loss(1.82e9, 36.4e9), 3)
    2.251
    """

    irreducible: float
    a: float
    b: float
    alpha: float
    beta: float
    gamma: float = 1.0

    def loss(self, parameters: float, tokens: float) -> float:
        """Cross-entropy in nat per token; ``tokens`` and ``parameters`` may be infinite.

        Raises:
            ValueError: a size is not positive.
        """
        _positive(parameters=parameters, tokens=tokens)
        reducible = self.a * _power(parameters, -self.alpha) + self.b * _power(tokens, -self.beta)
        return float(self.irreducible + reducible**self.gamma)


BUSBRIDGE = SupervisedLaw(1.220, 3355.0, 18186.0, 0.408, 0.431, 0.452)
"""Table 6 of 2502.08606, 73 runs; N without embeddings."""

CHINCHILLA_REFIT = SupervisedLaw(1.8172, 482.01, 2085.43, 0.3478, 0.3658)
"""2404.10102, the refit of Hoffmann et al. (2203.15556): another corpus and tokenizer; N with embeddings."""


@dataclass(frozen=True)
class DistillationLaw:
    """``L_S = L_T + L_T^-c0 (1 + (L_T / (L(N_S, D_S) d1))^(1/f1))^(-c1 f1) (A' / N_S^a' + B' / D_S^b')^g'``.

    ``L(N, D)`` is the law of a supervised student. All coefficients are positive, so ``L_S > L_T`` always: that a
    student may beat its teacher, which the paper saw, is beyond the form.

    >>> round(DISTILLATION.loss(1.82e9, 36.4e9, 2.2), 3)
    2.247
    """

    a: float = 2243.0
    b: float = 24181.0
    alpha: float = 0.321
    beta: float = 0.637
    gamma: float = 0.764
    c0: float = 2.549
    c1: float = 522.6
    f1: float = 0.090
    d1: float = 1.315
    supervised: SupervisedLaw = BUSBRIDGE

    def loss(self, student_parameters: float, tokens: float, teacher_loss: float) -> float:
        """The student's cross-entropy in nat per token.

        Args:
            student_parameters: N_S, without embeddings; may be infinite.
            tokens: D_S, tokens the student sees in distillation; may be infinite.
            teacher_loss: L_T in nat per token, positive.

        Raises:
            ValueError: an argument is not positive, or the teacher's loss is infinite.
        """
        _positive(student_parameters=student_parameters, tokens=tokens, teacher_loss=teacher_loss)
        if math.isinf(teacher_loss):
            raise ValueError("teacher_loss must be finite, got inf: give a cross-entropy in nat per token")
        mimic = self.a * _power(student_parameters, -self.alpha) + self.b * _power(tokens, -self.beta)
        alone = self.supervised.loss(student_parameters, tokens)
        ratio = math.log(teacher_loss / (alone * self.d1)) / self.f1
        softplus = max(ratio, 0.0) + math.log1p(math.exp(-abs(ratio)))
        damping = math.exp(-self.c0 * math.log(teacher_loss) - self.c1 * self.f1 * softplus)
        return float(teacher_loss + damping * mimic**self.gamma)

    def best_teacher_loss(self, student_parameters: float, tokens: float) -> float:
        """The teacher loss from which the law expects the best student, nat per token; below it lies the capacity gap.

        Teachers no better than the irreducible error of the supervised law are not considered.
        """
        low, high = self.supervised.irreducible, 2 * self.supervised.loss(student_parameters, tokens)
        steps = 2000
        grid = [low + (high - low) * index / steps for index in range(steps + 1)]
        return min(grid, key=lambda teacher_loss: self.loss(student_parameters, tokens, teacher_loss))


DISTILLATION = DistillationLaw()
"""Table 6 of 2502.08606, 697 runs."""

STUDENT_PARAMETERS = (143e6, 7.75e9)
STUDENT_TOKENS = (2.86e9, 512e9)
TEACHER_LOSS = (1.8, 2.8)
MODEL_PARAMETERS = (143e6, 12.6e9)
CHINCHILLA_PARAMETERS = (57e6, 16.2e9)
CHINCHILLA_TOKENS = (0.245e9, 318e9)

FORMULAS = {
    "distillation-law": Formula(
        text="L_S = L_T + L_T^-c0 (1 + (L_T / (L(N_S, D_S) d1))^(1/f1))^(-c1 f1) (A'/N_S^a' + B'/D_S^b')^g'; "
        "A' = 2243, B' = 24181, a' = 0.321, b' = 0.637, g' = 0.764, c0 = 2.549, c1 = 522.6, f1 = 0.090, d1 = 1.315",
        source="Busbridge et al. 2025, arXiv 2502.08606v2, equation 8 and Table 6",
        domain="students of 143M to 7.75B parameters without embeddings, 2.86B to 512B tokens, teachers of 1.8 to 2.8 "
        "nat per token on English C4 with a vocabulary of 32,168; forward KL of the whole distribution at temperature "
        "1, no hard labels, from scratch",
    ),
    "supervised-law": Formula(
        text="L(N, D) = E + (A/N^a + B/D^b)^g; E = 1.220, A = 3355, B = 18186, a = 0.408, b = 0.431, g = 0.452",
        source="Busbridge et al. 2025, arXiv 2502.08606v2, equation 1 and Table 6",
        domain="143M to 12.6B parameters without embeddings, 2.86B to 512B tokens of English C4",
    ),
    "chinchilla-refit": Formula(
        text="L(N, D) = E + A/N^a + B/D^b; E = 1.8172, A = 482.01, B = 2085.43, a = 0.3478, b = 0.3658",
        source="Besiroglu et al. 2024, arXiv 2404.10102, a refit of Hoffmann et al. 2022, arXiv 2203.15556",
        domain="57M to 16.2B parameters with embeddings, 0.245B to 318B tokens of MassiveText: another corpus and "
        "another tokenizer, so its losses stand beside the others, not in one comparison with them",
    ),
}


def outside(name: str, value: float, bounds: tuple[float, float]) -> tuple[str, ...]:
    """A sentence if a value leaves the fitted range, else nothing.

    >>> outside("student parameters", 1e8, (143e6, 7.75e9))
    ('student parameters 1e+08 below the fitted range 1.43e+08 to 7.75e+09',)
    """
    low, high = bounds
    if low <= value <= high:
        return ()
    side = "below" if value < low else "above"
    return (f"{name} {value:.3g} {side} the fitted range {low:.3g} to {high:.3g}",)


def _power(base: float, exponent: float) -> float:
    return 0.0 if math.isinf(base) else float(base**exponent)


def _positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} must be positive, got {value}")
