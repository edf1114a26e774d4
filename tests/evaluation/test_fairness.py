"""Groups against plain averages and left-out documents; probes against the model's own loss."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch

from distill_core.engine.results import retention
from distill_core.engine.statistics import estimate
from distill_core.errors import SignalError
from distill_evaluation.fairness_options import GroupFairnessOptions, SyntheticProbesOptions
from distill_evaluation.group_fairness import GroupFairness, gap
from distill_evaluation.synthetic_probes import SyntheticProbes
from tests.conftest import make_tiny_llama
from tests.evaluation.rows import bare_context, measured, rows_of

N, CLASSES = 60, 5
GROUPS = {f"d{i}": "abbbcc"[i % 6] for i in range(20)}


def records(groups: dict[str, str]) -> Any:
    return lambda split: [(d, {"document": d, "dialect": g}) for d, g in groups.items()] if split == "eval" else []


def material(seed: int = 0, shift: float = 1.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, CLASSES, (N,), generator=generator)
    logits = torch.randn(N, CLASSES, generator=generator)
    bonus = torch.tensor([{"a": 0.0, "b": 1.0, "c": 2.0}[GROUPS[f"d{i // 3}"]] for i in range(N)])
    logits[torch.arange(N), labels] += shift * bonus
    return labels, logits


def measure(labels: torch.Tensor, logits: torch.Tensor, **options: Any) -> dict[str, Any]:
    given = bare_context(records=records(options.pop("groups", GROUPS)))
    evaluator = GroupFairness(GroupFairnessOptions(field="dialect", **options))
    return measured(evaluator, given, rows_of(labels, logits))


def test_worst_group_and_gap_are_those_of_plain_averages() -> None:
    labels, logits = material()
    found = measure(labels, logits)
    group = np.array([GROUPS[f"d{i // 3}"] for i in range(N)])
    nats = torch.nn.functional.cross_entropy(logits, labels, reduction="none").numpy()
    hits = (logits.argmax(1) == labels).double().numpy()
    for metric, values, worst in (("cross_entropy", nats, max), ("accuracy", hits, min)):
        means = {g: values[group == g].mean() for g in "abc"}
        one, distance = found[f"worst_group_{metric}"], found[f"group_gap_{metric}"]
        assert one.value == pytest.approx(worst(means.values()), rel=1e-6)
        assert means[one.detail["worst"]] == worst(means.values())
        assert distance.value == pytest.approx(max(means.values()) - min(means.values()), rel=1e-6)
        assert estimate(distance.document_sums).value == pytest.approx(distance.value)
        assert {g: v["value"] for g, v in one.detail["groups"].items()} == pytest.approx(means, rel=1e-6)
        assert not distance.higher_is_better and distance.n == N
        left = []
        for d in range(20):
            kept = np.arange(N) // 3 != d
            left_means = [values[kept & (group == g)].mean() for g in "abc"]
            left.append(max(left_means) - min(left_means))
        expected = math.sqrt(19 / 20 * ((np.array(left) - np.mean(left)) ** 2).sum())
        assert estimate(distance.document_sums).standard_error == pytest.approx(expected, rel=1e-6)


def test_amplification_is_the_gaps_retention() -> None:
    """A student whose gap is wider than the teacher's: the results give student / teacher with an error."""
    labels, teacher = material(0, 0.5)
    _, student = material(0, 1.5)
    both = {"teacher": list(measure(labels, teacher).values()), "student": list(measure(labels, student).values())}
    (entry,) = [e for e in retention(both, teacher="teacher") if e["metric"] == "group_gap_cross_entropy"]
    gaps = [next(m.value for m in both[who] if m.metric == entry["metric"]) for who in ("student", "teacher")]
    assert entry["value"] == pytest.approx(gaps[0] / gaps[1]) and entry["value"] > 1 and entry["standard_error"] > 0


def test_equal_groups_small_groups_and_none() -> None:
    labels = torch.zeros(N, dtype=torch.long)
    same = measure(labels, torch.zeros(N, CLASSES))
    assert same["group_gap_cross_entropy"].value == 0.0 and same["group_gap_accuracy"].value == 0.0
    groups = {
        **dict.fromkeys([f"d{i}" for i in range(10)], "a"),
        **dict.fromkeys([f"d{i}" for i in range(10, 19)], "b"),
    }
    groups["d19"] = "lonely"
    found = measure(*material(), groups=groups)
    assert found["group_gap_accuracy"].detail["left_out"] == ["lonely"] and found["group_gap_accuracy"].n == 57
    assert "d19" not in found["group_gap_accuracy"].document_sums
    with pytest.raises(SignalError, match=r"the held-out documents are in {'a': 1}"):
        measure(labels, torch.zeros(N, CLASSES), groups={"d0": "a"})
    with pytest.raises(SignalError, match="which were not given"):
        GroupFairness().begin(bare_context())
    assert gap({"a": {"x": (1.0, 1.0)}, "b": {"y": (1.0, 1.0)}}, True)[0] == 0.0


def test_probes_are_the_models_own_loss_behind_the_word(tokenizer: Any) -> None:
    model = make_tiny_llama(vocab_size=len(tokenizer), seed=0).eval()
    options = SyntheticProbesOptions(
        templates=["The {group} is strong.", "We met a {group} in the state of the union."],
        groups={"one": ["man", "boy"], "two": ["woman", "girl"], "three": ["state", "union"]},
    )
    (found,) = SyntheticProbes(options).evaluate(bare_context(model=model, tokenizer=tokenizer))
    gaps = {}
    for template in options.templates:
        own = []
        for pair in zip(*options.groups.values(), strict=True):
            nats = []
            for word in pair:
                before, after = template.split("{group}")
                head, tail = (tokenizer(t, add_special_tokens=False)["input_ids"] for t in (before + word, after))
                labels = torch.tensor([[-100] * len(head) + tail])
                with torch.no_grad():
                    nats.append(float(model(input_ids=torch.tensor([head + tail]), labels=labels).loss))
            own.append(max(nats) - min(nats))
        gaps[template] = sum(own) / 2
    assert found.value == pytest.approx(sum(gaps.values()) / 2, rel=1e-4) and found.n == 4
    assert {d: s / n for d, (s, n) in found.document_sums.items()} == pytest.approx(gaps, rel=1e-4)
    assert found.detail["synthetic"] is True and found.label.startswith("Synthetic")
    assert sum(found.detail["likeliest_group"].values()) == 4


def test_a_model_blind_to_the_word_has_no_gap(tokenizer: Any) -> None:
    model = make_tiny_llama(vocab_size=len(tokenizer), seed=0).eval()
    options = SyntheticProbesOptions(groups={"one": ["man"], "same": ["man"]})
    (found,) = SyntheticProbes(options).evaluate(bare_context(model=model, tokenizer=tokenizer))
    assert found.value == pytest.approx(0.0, abs=1e-6) and found.n == 6


def test_what_probes_refuse() -> None:
    for wrong, message in (
        ({"templates": ["no place"]}, "needs one {group} with a text behind it"),
        ({"templates": ["ends with {group}"]}, "needs one {group} with a text behind it"),
        ({"groups": {"a": ["x"], "b": ["x", "y"]}}, "equally many words"),
        ({"groups": {"a": ["x"]}}, "at least 2 items"),
    ):
        with pytest.raises(ValueError, match=message):
            SyntheticProbesOptions.model_validate(wrong)
    with pytest.raises(SignalError, match="does not predict text"):
        SyntheticProbes().evaluate(bare_context(labels=("a",)))
