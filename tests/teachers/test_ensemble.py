"""The ensemble and calibrated teachers against dense float64 mixtures.

Legend: N rows, M members, V vocabulary.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from distill_core.config import CaptureConfig
from distill_core.engine.capture import capture
from distill_core.engine.data import collate
from distill_core.engine.row_pass import Scorer
from distill_core.engine.stored import StoredSignals
from distill_core.errors import ConfigError, SignalError
from distill_core.plugin import Needs
from distill_core.registry import get_registry
from distill_core.types import SparseSpec, TokenBatch
from distill_teachers.calibrated import CalibratedTeacher, fit_temperature
from distill_teachers.ensemble import EnsembleTeacher
from distill_teachers.hf import HFTeacher
from tests.conftest import make_tiny_llama
from tests.teachers.conftest import TARGETS, random_sequences

WEIGHTS = {"a": 1.0, "b": 3.0}
TEMPERATURES = {"a": 1.5, "b": 1.0}


@pytest.fixture(scope="module")
def members(tiny_tokenizer: Any) -> dict[str, HFTeacher]:
    """Two widths, 13 padding rows in both heads."""
    return {
        name: HFTeacher.from_model(
            make_tiny_llama(vocab_size=333, seed=seed, hidden_size=width), tiny_tokenizer, label=name
        )
        for name, seed, width in (("a", 1, 32), ("b", 2, 48))
    }


@pytest.fixture(scope="module")
def batch() -> TokenBatch:
    return collate(random_sequences(3, vocabulary=320, longest=12, seed=5))


@torch.no_grad()
def member_log_probs(members: dict[str, HFTeacher], batch: TokenBatch) -> Tensor:
    """[M, N, 320] float64, each at its own temperature."""
    parts = []
    for name, member in members.items():
        logits = member.model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
        parts.append((batch.rows().select(logits)[:, :320].double() / TEMPERATURES[name]).log_softmax(-1))
    return torch.stack(parts)


def expected(members: dict[str, HFTeacher], batch: TokenBatch, mean: str) -> Tensor:
    logp_MNV = member_log_probs(members, batch)
    if mean == "arithmetic":
        return (0.25 * logp_MNV[0].exp() + 0.75 * logp_MNV[1].exp()).log()
    return (0.25 * logp_MNV[0] + 0.75 * logp_MNV[1]).log_softmax(-1)


def ensemble(members: dict[str, HFTeacher], mean: str = "arithmetic") -> EnsembleTeacher:
    return EnsembleTeacher.from_members(members, weights=WEIGHTS, temperatures=TEMPERATURES, mean=mean)


@pytest.mark.parametrize("mean", ["arithmetic", "geometric"])
def test_exact_targets_are_the_dense_mixture(members: dict[str, HFTeacher], batch: TokenBatch, mean: str) -> None:
    logp_NV = expected(members, batch, mean)
    for temperature in (1.0, 2.0):
        softened_NV = (logp_NV / temperature).log_softmax(-1)
        needs = Needs(frozenset({"targets"}), ("exact",), (temperature,))
        target = ensemble(members, mean).signals(batch, needs, SparseSpec("topk", 6)).target
        assert target is not None
        found_NK1 = target.log_probs(temperature).double()
        torch.testing.assert_close(found_NK1[:, :-1], softened_NV.gather(1, target.ids_NK), rtol=1e-4, atol=1e-4)
        kept_NV = torch.zeros_like(softened_NV, dtype=torch.bool).scatter(1, target.ids_NK, True)
        tail_N = softened_NV.masked_fill(kept_NV, -torch.inf).logsumexp(-1)
        torch.testing.assert_close(found_NK1[:, -1], tail_N, rtol=1e-4, atol=1e-4)
        top_N6 = softened_NV.topk(6).indices
        assert target.ids_NK.sort(1).values.equal(top_N6.sort(1).values)


def test_the_disagreement_is_exact_over_the_vocabulary(members: dict[str, HFTeacher], batch: TokenBatch) -> None:
    p_MNV = member_log_probs(members, batch).exp()
    mean_NV = 0.25 * p_MNV[0] + 0.75 * p_MNV[1]
    entropy = lambda p: -(p * p.log()).sum(-1)  # noqa: E731
    expected_N = 0.25 * entropy(p_MNV[0]) + 0.75 * entropy(p_MNV[1])
    variance_N = 0.25 * (p_MNV[0] - mean_NV).square().sum(-1) + 0.75 * (p_MNV[1] - mean_NV).square().sum(-1)
    needs = Needs(frozenset({"targets", "ensemble_variance"}), ("exact",), (1.0,))
    extra = ensemble(members).signals(batch, needs, SparseSpec("topk", 4)).extra
    for name, value_N in (
        ("expected_entropy", expected_N),
        ("mutual_information", entropy(mean_NV) - expected_N),
        ("ensemble_variance", variance_N),
    ):
        torch.testing.assert_close(extra[name].double(), value_N, rtol=1e-4, atol=1e-6)


def test_samples_are_of_the_mixture(members: dict[str, HFTeacher], batch: TokenBatch) -> None:
    """Mean weights over 400 threshold samples of 8 entries; standard error of a weight below sqrt(p c / 400)."""
    one = batch.select_sequences(0, 1)
    p_NV = expected(members, one, "arithmetic").exp()
    teacher, total_NV = ensemble(members), torch.zeros_like(p_NV)
    spec = SparseSpec("threshold", 8, draws=400, seed=1)
    signals = teacher.signals(one, TARGETS, spec)
    for draw in signals.extra["draws"]:
        assert draw.kind == "sampled"
        total_NV.scatter_add_(1, draw.ids_NK.clamp_min(0), draw.weights_NK.double() * (draw.ids_NK >= 0))
    torch.testing.assert_close(total_NV / 400, p_NV, rtol=0, atol=0.03)
    entropy_N = -(p_NV * p_NV.log()).sum(-1)
    torch.testing.assert_close(signals.target.entropy_N.double(), entropy_N, rtol=1e-4, atol=1e-4)


def test_a_capture_of_the_ensemble(members: dict[str, HFTeacher], batch: TokenBatch, tmp_path: Path) -> None:
    teacher = ensemble(members)
    sequences = random_sequences(3, vocabulary=320, longest=12, seed=5)
    capture(teacher, sequences, CaptureConfig(method="topk", k=6), tmp_path)
    stored = StoredSignals(tmp_path)
    assert stored.identity() == teacher.identity()
    assert "a=0.25*" in teacher.identity() and "@T1.5" in teacher.identity()
    live = teacher.signals(batch, TARGETS, SparseSpec("topk", 6)).target
    found = stored.signals(batch, TARGETS).target
    assert found is not None and live is not None
    gap = found.log_probs().exp().sort(1).values - live.log_probs().exp().sort(1).values
    assert float(gap.abs().max()) < 1e-2  # what the store's quantisation leaves


def test_the_ensemble_as_a_model(members: dict[str, HFTeacher], batch: TokenBatch) -> None:
    """What evaluation compares students with."""
    teacher = ensemble(members)
    scorer = Scorer(teacher.model)
    assert scorer.method == "by-sequence"
    rows = batch.rows()
    found_NV = scorer.scores(batch, rows).logits(slice(0, len(rows))).double()
    torch.testing.assert_close(found_NV, expected(members, batch, "arithmetic"), rtol=1e-4, atol=1e-4)


def test_ensembles_that_cannot_be(members: dict[str, HFTeacher], batch: TokenBatch) -> None:
    from tests.train.setting import numbers_tokenizer

    foreign = HFTeacher.from_model(make_tiny_llama(vocab_size=333), numbers_tokenizer(320), label="c")
    with pytest.raises(SignalError, match=r"need one tokenizer, these have different ones \(a: .*, c: "):
        EnsembleTeacher.from_members({"a": members["a"], "c": foreign}).vocabulary()
    with pytest.raises(SignalError, match=r"cannot give \['hidden_states'\]"):
        ensemble(members).signals(batch, Needs(frozenset({"hidden_states"})))
    for options, message in (
        ({"members": {"a": {"model": "x/y"}}}, "members"),
        ({"members": {"a": {"model": "x/y", "weight": 0}, "b": {"model": "x/z", "weight": 0}}}, "are all 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            get_registry().options("teacher", {"use": "ensemble", **options})


def test_members_by_option(tiny_model_dir: Path, batch: TokenBatch, tmp_path: Path) -> None:
    """One model twice is that model; thinned to one layer it is another, made once in the cache."""
    directory, cache = str(tiny_model_dir), str(tmp_path / "cache")
    registry = get_registry()
    alone = registry.build("teacher", {"use": "hf", "model": directory})
    thin = {"model": directory, "layers": [1], "cache_dir": cache}
    twice = registry.build(
        "teacher", {"use": "ensemble", "members": {"a": {"model": directory}, "b": {"model": directory}}}
    )
    mixed = registry.build(
        "teacher", {"use": "ensemble", "members": {"a": {"model": directory, "weight": 0}, "b": thin}}
    )
    single = registry.build("teacher", {"use": "hf", **thin})
    answers = [one.signals(batch, TARGETS, SparseSpec("topk", 320)).target for one in (alone, twice, mixed, single)]
    ordered = [answer.log_probs()[:, :-1].gather(1, answer.ids_NK.argsort(1)) for answer in answers]
    torch.testing.assert_close(ordered[0], ordered[1], rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(ordered[2], ordered[3], rtol=1e-4, atol=1e-4)
    assert float((ordered[0] - ordered[2]).abs().max()) > 0.05
    assert single.config.num_hidden_layers == 1 and single.identity() != alone.identity()
    (made,) = (tmp_path / "cache" / "layers").iterdir()
    assert single.pretrained() == str(made)


def test_calibration_finds_the_temperature_of_the_text(tiny_model_dir: Path) -> None:
    """Labels drawn from the teacher at temperature 1.6: the fit finds it, and the exact minimiser of the same loss."""
    from distill_teachers.held_out import label_loss

    inner = get_registry().build("teacher", {"use": "hf", "model": str(tiny_model_dir)})
    batch = collate(random_sequences(24, vocabulary=320, longest=60, seed=8))
    rows = batch.rows()
    with torch.no_grad():
        logits_NV = rows.select(
            inner.model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits
        )
    generator = torch.Generator().manual_seed(0)
    drawn_N = torch.multinomial((logits_NV / 1.6).softmax(-1), 1, generator=generator)[:, 0]
    batch.labels_BT[rows.sequence_N, rows.position_N + 1] = drawn_N
    found = fit_temperature(lambda temperatures: label_loss(inner, [batch], temperatures))

    inverse = torch.tensor(1.0, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([inverse], max_iter=100, line_search_fn="strong_wolfe", tolerance_grad=1e-10)

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = torch.nn.functional.cross_entropy(logits_NV.double() * inverse, drawn_N)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert found == pytest.approx(float(1 / inverse.detach()), rel=2e-3)
    assert found == pytest.approx(1.6, abs=0.25)


def test_a_calibrated_teacher_answers_at_its_temperature(members: dict[str, HFTeacher], batch: TokenBatch) -> None:
    inner = members["a"]
    teacher = CalibratedTeacher.of(inner, 2.0)
    both = Needs(frozenset({"targets"}), ("exact",), (1.0, 1.5))
    target = teacher.signals(batch, both, SparseSpec("topk", 5)).target
    plain = inner.signals(batch, Needs(frozenset({"targets"}), ("exact",), (2.0, 3.0)), SparseSpec("topk", 5)).target
    assert target is not None and plain is not None and target.ids_NK.equal(plain.ids_NK)
    torch.testing.assert_close(target.log_probs(1.0), plain.log_probs(2.0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(target.log_probs(1.5), plain.log_probs(3.0), rtol=1e-5, atol=1e-5)
    sampled = teacher.signals(batch, TARGETS, SparseSpec("threshold", 5, seed=2)).target
    softened = Needs(frozenset({"targets"}), ("sampled",), (2.0,))
    drawn = inner.signals(batch, softened, SparseSpec("threshold", 5, (2.0,), seed=2)).target
    assert sampled.temperatures == (1.0,) and sampled.ids_NK.equal(drawn.ids_NK)
    assert teacher.identity() == f"{inner.identity()} calibrated at T=2.0000"
    with pytest.raises(SignalError, match="gives targets alone"):
        teacher.signals(batch, Needs(frozenset({"hidden_states"})))
    with pytest.raises(SignalError, match=r"still falls at temperature 10, the end of the range"):
        fit_temperature(lambda temperatures: torch.tensor([1 / one for one in temperatures]))


def test_calibration_reads_its_source(
    tiny_model_dir: Path, tmp_path: Path, tiny_tokenizer: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the search replaced by one look, T is the loss of the text at temperature 1."""
    text = "The state of the union is strong."
    records = tmp_path / "held_out.jsonl"
    records.write_text(json.dumps({"text": text}) + "\n", encoding="utf-8")
    monkeypatch.setattr("distill_teachers.calibrated.fit_temperature", lambda loss: float(loss((1.0,))[0]))
    inner = {"use": "hf", "model": str(tiny_model_dir)}
    ask = {"use": "calibrated", "teacher": inner, "source": {"use": "jsonl", "path": str(records)}}
    teacher = get_registry().build("teacher", ask)
    ids = torch.tensor([tiny_tokenizer(text)["input_ids"]])
    with torch.no_grad():
        logits = get_registry().build("teacher", inner).model(input_ids=ids).logits[0].double()
    expected = float(torch.nn.functional.cross_entropy(logits[:-1], ids[0, 1:]))
    assert teacher.temperature == pytest.approx(expected, abs=1e-3)
    assert teacher.identity().endswith(f"calibrated at T={teacher.temperature:.4f}")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"teacher": {"use": "hf", "model": "x/y"}}, "in one way: temperature"),
        ({"teacher": {"use": "hf", "model": "x/y"}, "temperature": -1.0}, "temperature"),
    ],
)
def test_wrong_calibrations(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        get_registry().options("teacher", {"use": "calibrated", **options})


def test_problems_of_what_is_wrapped_have_their_path() -> None:
    options = get_registry().options(
        "teacher",
        {
            "use": "calibrated",
            "teacher": {"use": "hf", "model": "./nowhere"},
            "source": {"use": "jsonl", "pathh": "x"},
        },
    )
    problems = options.problems()
    assert any(problem.startswith("teacher.model: there is no directory") for problem in problems)
    assert any(problem.startswith("source.pathh") for problem in problems)
