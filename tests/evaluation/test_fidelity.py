"""Fidelity and SparseFidelity against scipy in float64, and the acceptance rate against speculative decoding itself."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import jensenshannon
from scipy.special import softmax
from scipy.stats import entropy

from distill_core import ops
from distill_core.engine.statistics import estimate
from distill_core.errors import SignalError
from distill_core.types import RowTarget, TeacherSignals
from distill_evaluation.fidelity import Fidelity, jensen_shannon
from distill_evaluation.options import FidelityOptions, SparseFidelityOptions
from distill_evaluation.sparse_fidelity import SparseFidelity, on_support
from tests.evaluation.rows import bare_context, measured, rows_of

VOCABULARY = 40


@pytest.fixture(scope="module")
def material() -> dict[str, Any]:
    """24 rows of 8 documents: teacher and student logits far from each other, labels that are often the teacher's."""
    generator = torch.Generator().manual_seed(0)
    teacher = 3 * torch.randn(24, VOCABULARY, generator=generator)
    student = 0.6 * teacher + 1.5 * torch.randn(24, VOCABULARY, generator=generator)
    labels = torch.where(torch.arange(24) % 2 == 0, teacher.argmax(1), torch.randint(0, 9, (24,), generator=generator))
    p, q = softmax(teacher.double().numpy(), axis=1), softmax(student.double().numpy(), axis=1)
    return {"teacher": teacher, "student": student, "labels": labels, "p": p, "q": q}


def test_every_figure_is_that_of_scipy(material: dict[str, Any]) -> None:
    p, q, labels = material["p"], material["q"], material["labels"].numpy()
    found = measured(
        Fidelity(FidelityOptions(overlap_k=5)),
        bare_context(teacher_rows=True),
        rows_of(material["labels"], material["student"], material["teacher"]),
    )
    expected = {
        "forward_kl": entropy(p, q, axis=1),
        "reverse_kl": entropy(q, p, axis=1),
        "jensen_shannon": jensenshannon(p, q, axis=1) ** 2,  # scipy gives the root
        "acceptance_rate": 1 - 0.5 * np.abs(p - q).sum(axis=1),
        "top1_agreement": (p.argmax(1) == q.argmax(1)).astype(float),
    }
    right = p.argmax(1) == labels
    assert 0 < right.sum() < len(right)
    for metric, values in expected.items():
        one = found[metric]
        assert one.value == pytest.approx(values.mean(), rel=1e-5), metric
        assert one.detail["teacher_right"]["value"] == pytest.approx(values[right].mean(), rel=1e-5)
        assert one.detail["teacher_wrong"]["value"] == pytest.approx(values[~right].mean(), rel=1e-5)
        assert one.detail["teacher_right"]["n"] == right.sum() and one.n == 24
        assert estimate(one.document_sums).value == pytest.approx(one.value, rel=1e-12)
        assert one.higher_is_better == (one.unit == "fraction")
    assert found["forward_kl"].primary and not found["jensen_shannon"].primary


def test_the_acceptance_rate_is_what_speculative_decoding_accepts() -> None:
    """A token drawn from q is kept with chance min(1, p / q): 200,000 draws, standard error below 0.0012."""
    rng = np.random.default_rng(0)
    p, q = rng.dirichlet(np.full(30, 0.4)), rng.dirichlet(np.full(30, 0.4))
    drawn = rng.choice(30, size=200_000, p=q)
    kept = (rng.uniform(size=len(drawn)) < p[drawn] / q[drawn]).mean()
    logits = [torch.from_numpy(np.log(x)).float()[None] for x in (q, p)]
    found = measured(Fidelity(), bare_context(teacher_rows=True), rows_of(torch.tensor([1]), *logits))
    assert found["acceptance_rate"].value == pytest.approx(kept, abs=0.005)


def test_divergences_at_the_edges() -> None:
    inf = math.inf
    p = torch.tensor([[0.5, 0.5, 0.0], [1.0, 0.0, 0.0], [1.0, 0.0, 0.0]]).log()
    q = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0], [0.5, 0.5, 0.0]]).log()
    assert q[1, 0] == -inf
    expected = [0.0, math.log(2), float(jensenshannon([1, 0, 0], [0.5, 0.5, 0]) ** 2)]
    assert jensen_shannon(p, q).tolist() == pytest.approx(expected, abs=1e-6)


def test_padding_rows_of_the_head_are_never_accepted() -> None:
    """Half of the student's mass lies beyond the tokenizer's ids."""
    student, teacher = torch.zeros(1, 4), torch.zeros(1, 4)
    found = measured(
        Fidelity(),
        bare_context(teacher_rows=True),
        rows_of(torch.tensor([0]), student, teacher, effective_vocabulary=2),
    )
    assert found["acceptance_rate"].value == pytest.approx(0.5)
    assert found["jensen_shannon"].value == pytest.approx(0.0, abs=1e-7)


def test_a_teacher_that_is_never_wrong_leaves_that_part_empty() -> None:
    logits = torch.eye(3) * 5
    rows = rows_of(torch.arange(3), logits, logits)
    found = measured(Fidelity(), bare_context(teacher_rows=True), rows)["forward_kl"]
    assert found.detail["teacher_wrong"] == {"value": None, "standard_error": None, "n": 0}
    assert found.detail["teacher_right"]["n"] == 3


class TopTeacher:
    """Gives the k likeliest entries of fixed logits, as an inference server does; counts how often it is asked."""

    def __init__(self, logits: torch.Tensor, k: int) -> None:
        self.logits, self.k, self.asked = logits, k, 0

    def identity(self) -> str:
        return "fixed logits"

    def signals(self, batch: Any, needs: Any, sparse: Any) -> TeacherSignals:
        self.asked += 1
        top = ops.topk_logits(self.logits, self.k)
        return TeacherSignals(RowTarget("exact", top.ids_NK.long(), (1.0,), top.logits_NK, top.tail_NT))


@pytest.mark.parametrize("k", [1, 4, 16, VOCABULARY])
def test_sparse_figures_bound_the_dense_ones(material: dict[str, Any], k: int) -> None:
    p, q = material["p"], material["q"]
    rows = rows_of(material["labels"], material["student"])
    teacher = TopTeacher(material["teacher"], k)
    evaluator, given = SparseFidelity(SparseFidelityOptions(k=k)), bare_context(teacher=teacher)
    found = measured(evaluator, given, rows)
    support = np.argsort(-p, axis=1)[:, :k]
    on = [np.take_along_axis(x, support, axis=1) for x in (p, q)]
    rest = [np.delete(x[i], s).sum() for x in (p, q) for i, s in enumerate(support)]
    columns = [np.reshape(rest[start : start + 24], (24, 1)) for start in (0, 24)]
    whole = [np.concatenate(pair, axis=1) for pair in zip(on, columns, strict=True)]
    assert found["sparse_forward_kl"].value == pytest.approx(entropy(*whole, axis=1).mean(), rel=1e-4)
    assert found["sparse_forward_kl"].value <= entropy(p, q, axis=1).mean() + 1e-6
    lower, upper = np.minimum(*on).sum(1), np.minimum(*whole).sum(1)
    exact = np.minimum(p, q).sum(1)
    assert (lower <= exact + 1e-12).all() and (exact <= upper + 1e-12).all()
    assert found["acceptance_lower"].value == pytest.approx(lower.mean(), rel=1e-4)
    assert found["acceptance_upper"].value == pytest.approx(upper.mean(), rel=1e-4)
    assert found["sparse_top1_agreement"].value == pytest.approx((p.argmax(1) == q.argmax(1)).mean())
    if k == VOCABULARY:
        assert found["acceptance_lower"].value == pytest.approx(found["acceptance_upper"].value, abs=1e-6)
    measured(evaluator, given, rows)
    assert teacher.asked == 1, "the second model on the same batch must not ask the teacher again"


def test_a_threshold_sample_is_read_as_its_exact_head(material: dict[str, Any]) -> None:
    """Half of the rows are so flat that every entry is sampled: the teacher's likeliest token is not known there."""
    logits = torch.where(torch.arange(24)[:, None] < 12, 0.02, 1.0) * material["teacher"]
    p, q = softmax(logits.double().numpy(), axis=1), material["q"]
    ids, weights = ops.sample_support(logits, 6)
    exact_p = torch.from_numpy(p).gather(1, ids.long())
    sampled = weights > exact_p * (1 + 1e-4)  # those below c stand at c
    threshold = torch.where(sampled, weights, 0).amax(dim=1)
    entropies = torch.from_numpy(entropy(p, axis=1)).float()
    target = RowTarget("sampled", ids.long(), (1.0,), weights_NK=weights, entropy_N=entropies, threshold_N=threshold)
    teacher = SimpleNamespace(identity=lambda: "sampled", signals=lambda *_: TeacherSignals(target))
    rows = rows_of(material["labels"], material["student"])
    found = measured(SparseFidelity(), bare_context(teacher=teacher), rows)
    exact = np.minimum(p, q).sum(1).mean()
    assert 0 < found["acceptance_lower"].value <= exact <= found["acceptance_upper"].value < 1
    assert 0 < found["sparse_forward_kl"].value <= entropy(p, q, axis=1).mean()
    assert found["sparse_top1_agreement"].n == 12
    assert found["sparse_top1_agreement"].value == pytest.approx((p.argmax(1) == q.argmax(1))[12:].mean())


def test_support_of_nothing_and_padding() -> None:
    logp = torch.tensor([[0.5, 0.25, 0.25], [0.1, 0.2, 0.7]]).log()
    nothing = on_support(logp, torch.zeros(2, 0, dtype=torch.long))
    assert nothing.exp()[:, 0].tolist() == pytest.approx([1.0, 1.0])
    all_padding = on_support(logp, torch.full((2, 2), -1))
    assert all_padding.exp()[0].tolist() == pytest.approx([0.0, 0.0, 1.0])
    whole = on_support(logp, torch.tensor([[0, 1, 2], [2, 1, 0]]))
    assert whole[:, -1].tolist() == [-math.inf] * 2


def test_what_sparse_fidelity_refuses(material: dict[str, Any]) -> None:
    assert SparseFidelity().begin(bare_context(is_teacher=True)) is None
    with pytest.raises(SignalError, match="no teacher was given"):
        SparseFidelity().begin(bare_context())
    rows = rows_of(material["labels"], material["student"])
    ids = torch.zeros(24, 1, dtype=torch.long)
    drawn = RowTarget("sampled", ids, (1.0,), weights_NK=torch.ones(24, 1), entropy_N=torch.zeros(24))
    hot = RowTarget("exact", ids, (2.0,), torch.zeros(24, 1), torch.zeros(24, 1))
    for target, message in ((drawn, "multinomial"), (hot, r"answers at \[2.0\]")):
        teacher = SimpleNamespace(identity=lambda: "t", signals=lambda *_, t=target: TeacherSignals(t))
        with pytest.raises(SignalError, match=message):
            measured(SparseFidelity(), bare_context(teacher=teacher), rows)
