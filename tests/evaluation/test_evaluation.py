"""The evaluation stage against figures computed densely, one sequence at a time, in double precision."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.special import logsumexp
from scipy.stats import rankdata

from distill_core.config import EvaluateConfig
from distill_core.engine import evaluation, generation, row_pass
from distill_core.engine.data import TokenDataset
from distill_core.engine.evaluation import EvaluationTarget, evaluate
from distill_core.engine.results import compare, figures, power_flags
from distill_core.errors import DataError, DistillError, PluginError, VocabularyError
from distill_core.interfaces import EvaluationContext, Measurement, VocabularyInfo
from distill_core.registry import get_registry
from distill_core.store import vocabulary_info
from distill_evaluation.language_model import LanguageModel
from tests.conftest import make_tiny_llama
from tests.evaluation.conftest import write_sequences

ALL = [{"use": "language-model"}, {"use": "fidelity", "overlap_k": 4}, {"use": "calibration", "bins": 5}]


def targets(models: dict[str, Any], tokenizer: Any) -> dict[str, EvaluationTarget]:
    return {
        name: EvaluationTarget(model, is_teacher=name == "teacher", tokenizer=tokenizer)
        for name, model in models.items()
    }


def run(chosen: dict[str, EvaluationTarget], data: TokenDataset, directory: Path, **options: Any) -> dict[str, Any]:
    config = EvaluateConfig.model_validate(
        {"evaluators": options.pop("evaluators", ALL), "batch_sequences": options.pop("batch_sequences", 4)}
        | options.pop("config", {})
    )
    return evaluate(
        chosen,
        data=data,
        config=config,
        registry=get_registry(),
        directory=directory,
        measure_speed=options.pop("measure_speed", False),
        **options,
    )


def dense_rows(model: Any, data: TokenDataset) -> tuple[np.ndarray, np.ndarray, list[str]]:
    """Log-probabilities [N, V] in float64, labels [N], document of each row; one sequence at a time, no padding."""
    logp, labels, documents = [], [], []
    for sequence in data:
        with torch.no_grad():
            logits = model(torch.tensor(sequence.input_ids[None].astype(np.int64))).logits[0].double().numpy()
        for position in range(len(sequence) - 1):
            if sequence.labels[position + 1] != -100:
                logp.append(logits[position] - logsumexp(logits[position]))
                labels.append(int(sequence.labels[position + 1]))
                documents.append(sequence.document)
    return np.array(logp), np.array(labels), documents


@pytest.fixture(scope="module")
def results(models: dict[str, Any], tokenizer: Any, held_out: TokenDataset, tmp_path_factory: Any) -> dict[str, Any]:
    directory = tmp_path_factory.mktemp("evaluate")
    found = run(
        targets(models, tokenizer), held_out, directory, prompts=["The state"], max_new_tokens=5, measure_speed=True
    )
    assert json.loads((directory / "results.json").read_text(encoding="utf-8")) == found
    found["directory"] = directory
    return found


def value(results: dict[str, Any], model: str, metric: str) -> float:
    return float(results["models"][model]["metrics"][metric]["value"])


def test_language_model_figures(results: dict[str, Any], models: Any, held_out: TokenDataset, tokenizer: Any) -> None:
    n_bytes = sum(
        len(tokenizer.decode([t for t in s.labels[1:].tolist() if t != -100]).encode("utf-8")) for s in held_out
    )
    for name, model in models.items():
        logp, labels, _ = dense_rows(model, held_out)
        nats = -logp[np.arange(len(labels)), labels]
        assert value(results, name, "cross_entropy") == pytest.approx(nats.mean(), rel=1e-5)
        assert value(results, name, "perplexity") == pytest.approx(math.exp(nats.mean()), rel=1e-5)
        assert value(results, name, "bits_per_byte") == pytest.approx(nats.sum() / math.log(2) / n_bytes, rel=1e-5)
        assert value(results, name, "accuracy") == pytest.approx((logp.argmax(1) == labels).mean())
        assert results["models"][name]["metrics"]["cross_entropy"]["n"] == len(labels) == results["data"]["rows"]


def test_fidelity_figures(results: dict[str, Any], models: Any, held_out: TokenDataset) -> None:
    teacher, _, _ = dense_rows(models["teacher"], held_out)
    for name in ("student", "random"):
        logp, _, _ = dense_rows(models[name], held_out)
        forward = (np.exp(teacher) * (teacher - logp)).sum(1)
        reverse = (np.exp(logp) * (logp - teacher)).sum(1)
        overlap = [len({*np.argsort(-p)[:4]} & {*np.argsort(-q)[:4]}) / 4 for p, q in zip(teacher, logp, strict=True)]
        assert value(results, name, "forward_kl") == pytest.approx(forward.mean(), rel=1e-4)
        assert value(results, name, "reverse_kl") == pytest.approx(reverse.mean(), rel=1e-4)
        assert value(results, name, "top1_agreement") == pytest.approx((teacher.argmax(1) == logp.argmax(1)).mean())
        assert value(results, name, "top4_overlap") == pytest.approx(np.mean(overlap))
        bins = results["models"][name]["metrics"]["forward_kl"]["detail"]["by_position"]
        assert sum(b["n"] for b in bins) == len(forward)
        assert sum(b["n"] * b["value"] for b in bins) == pytest.approx(forward.sum(), rel=1e-4)
    assert "forward_kl" not in results["models"]["teacher"]["metrics"]


def test_first_bin_holds_position_zero_alone(results: dict[str, Any], models: Any, held_out: TokenDataset) -> None:
    """The first row of every sequence (but the one with a masked prompt) is at position 0."""
    first = results["models"]["random"]["metrics"]["forward_kl"]["detail"]["by_position"][0]
    assert (first["start"], first["stop"], first["n"]) == (0, 1, len(held_out) - 1)
    values = []
    for sequence in held_out:
        if sequence.labels[1] == -100:
            continue
        p, q = (
            model(torch.tensor(sequence.input_ids[None].astype(np.int64))).logits[0, 0].detach().double().log_softmax(0)
            for model in (models["teacher"], models["random"])
        )
        values.append(float((p.exp() * (p - q)).sum()))
    assert first["value"] == pytest.approx(np.mean(values), rel=1e-4)


def test_calibration_figures(results: dict[str, Any], models: Any, held_out: TokenDataset) -> None:
    logp, labels, _ = dense_rows(models["random"], held_out)
    confidence, correct = np.exp(logp.max(1)), logp.argmax(1) == labels
    # Two sequences begin alike: their rows tie (up to rounding) and must share a bin.
    first_rank = rankdata(np.round(confidence, 6), method="min").astype(int) - 1
    assert len(set(first_rank)) < len(first_rank)
    bins = first_rank * 5 // len(first_rank)
    gaps = [abs((correct[bins == b] - confidence[bins == b]).sum()) for b in range(5)]
    assert value(results, "random", "ece") == pytest.approx(sum(gaps) / len(labels), rel=1e-4)
    curve = results["models"]["random"]["metrics"]["ece"]["detail"]["reliability"]
    assert [b["n"] for b in curve] == [int((bins == b).sum()) for b in range(5)]


def test_errors_are_clustered_and_comparisons_paired(results: Any, models: Any, held_out: TokenDataset) -> None:
    losses, documents = {}, []
    for name in ("student", "random"):
        logp, labels, documents = dense_rows(models[name], held_out)
        losses[name] = -logp[np.arange(len(labels)), labels]
    names = sorted(set(documents))
    count = np.array([documents.count(d) for d in names])
    sums = {n: np.array([losses[n][np.array(documents) == d].sum() for d in names]) for n in losses}
    residual = sums["student"] - count * sums["student"].sum() / count.sum()
    error = math.sqrt(5 / 4 * (residual**2).sum()) / count.sum()
    metric = results["models"]["student"]["metrics"]["cross_entropy"]
    assert metric["standard_error"] == pytest.approx(error, rel=1e-4)
    assert metric["n_documents"] == 5
    gap = sums["student"] - sums["random"]
    residual = gap - count * gap.sum() / count.sum()
    paired = next(c for c in results["comparisons"] if (c["metric"], c["baseline"]) == ("cross_entropy", "random"))
    assert paired["model"] == "student"
    assert paired["difference"] == pytest.approx(gap.sum() / count.sum(), rel=1e-3)
    assert paired["standard_error"] == pytest.approx(math.sqrt(5 / 4 * (residual**2).sum()) / count.sum(), rel=1e-3)
    kl = next(c for c in results["comparisons"] if (c["metric"], c["baseline"]) == ("forward_kl", "random"))
    assert kl["verdict"] == "better"
    assert not any(c["metric"] == "perplexity" for c in results["comparisons"])
    assert results["warnings"] and "5 documents" in results["warnings"][0]


def test_documents_file_recomputes_every_figure(results: dict[str, Any]) -> None:
    lines = [json.loads(line) for line in (results["directory"] / "documents.jsonl").read_text().splitlines()]
    for name, model in results["models"].items():
        for metric, entry in model["metrics"].items():
            if entry["derived_from"]:
                continue
            mine = [line for line in lines if (line["model"], line["metric"]) == (name, metric)]
            ratio = sum(line["sum"] for line in mine) / sum(line["denominator"] for line in mine)
            assert ratio == pytest.approx(entry["value"], rel=1e-9, abs=1e-12)


def test_speed_samples_and_settings(results: dict[str, Any], models: Any, tokenizer: Any) -> None:
    assert set(results["efficiency"]["models"]) == set(models)
    for speed in results["efficiency"]["models"].values():
        low, high = speed["decode_range"]
        assert 0 < low <= speed["decode_tokens_per_s"] <= high
    ids = tokenizer("The state", return_tensors="pt")["input_ids"]
    for _ in range(5):
        with torch.no_grad():
            ids = torch.cat([ids, models["random"](ids).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
    length = tokenizer("The state", return_tensors="pt")["input_ids"].shape[1]
    written = ids[0, length:].tolist()
    if tokenizer.eos_token_id in written:
        written = written[: written.index(tokenizer.eos_token_id)]
    (sample,) = results["generations"]["samples"]
    assert sample["outputs"]["random"] == tokenizer.decode(written, skip_special_tokens=True)
    assert results["settings"]["batch_sequences"] == 4
    assert results["settings"]["dtype"]["student"] == "float32"
    assert results["models"]["student"]["parameters"] == sum(p.numel() for p in models["student"].parameters())


@pytest.mark.parametrize("batch_sequences", [1, 9])
def test_batch_size_does_not_move_figures(
    results: dict[str, Any], models: Any, tokenizer: Any, held_out: Any, tmp_path: Path, batch_sequences: int
) -> None:
    again = run(targets(models, tokenizer), held_out, tmp_path, batch_sequences=batch_sequences)
    for name, model in results["models"].items():
        for metric in model["metrics"]:
            assert value(again, name, metric) == pytest.approx(value(results, name, metric), rel=2e-4, abs=1e-6)


def test_a_copy_of_the_teacher_is_perfectly_faithful(
    models: Any, tokenizer: Any, held_out: TokenDataset, tmp_path: Path
) -> None:
    both = {"teacher": models["teacher"], "student": models["teacher"]}
    found = run(targets(both, tokenizer), held_out, tmp_path)
    assert abs(value(found, "student", "forward_kl")) <= 1e-6
    assert value(found, "student", "top1_agreement") == value(found, "student", "top4_overlap") == 1.0
    assert all(c["verdict"] == "no clear difference" for c in found["comparisons"])


def test_the_teacher_runs_once_per_batch_and_chunks_stay_small(
    models: Any, tokenizer: Any, held_out: TokenDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(row_pass, "CHUNK_BYTES", 7 * 4 * 1024)  # seven rows at the least width it reckons with
    calls = {name: 0 for name in models}
    widest = []
    for name, model in models.items():

        def count(*_: Any, name: str = name) -> None:
            calls[name] += 1

        model.model.register_forward_hook(count)
        model.lm_head.register_forward_hook(count)
    original = row_pass.Scorer.head

    def head(self: Any, hidden_nD: torch.Tensor) -> torch.Tensor:
        widest.append(len(hidden_nD))
        return original(self, hidden_nD)

    monkeypatch.setattr(row_pass.Scorer, "head", head)
    scorer_probes = 3  # proving what the head does runs model, head and decoder once each
    found = run(targets(models, tokenizer), held_out, tmp_path)
    for model in models.values():
        model.model._forward_hooks.clear()
        model.lm_head._forward_hooks.clear()
    batches = math.ceil(len(held_out) / 4)
    assert all(count == batches + scorer_probes for count in calls.values()), calls
    assert max(widest) <= 7 < found["data"]["rows"]


def test_without_a_teacher_fidelity_is_named_as_not_measured(
    models: Any, tokenizer: Any, held_out: TokenDataset, tmp_path: Path
) -> None:
    chosen = targets({"student": models["student"], "random": models["random"]}, tokenizer)
    found = run(chosen, held_out, tmp_path)
    (entry,) = found["not_measured"]
    assert (entry["evaluator"], entry["models"]) == ("fidelity", "student, random")
    assert "no teacher was given" in entry["reason"]
    assert "cross_entropy" in found["models"]["student"]["metrics"]


def test_a_live_teacher_that_is_not_evaluated_still_gives_the_reference(
    results: Any, models: Any, tokenizer: Any, held_out: TokenDataset, tmp_path: Path
) -> None:
    class Live:
        model = models["teacher"]

        def vocabulary(self) -> VocabularyInfo:
            return vocabulary_info(tokenizer)

    found = run(targets({"student": models["student"]}, tokenizer), held_out, tmp_path, teacher=Live())
    assert value(found, "student", "forward_kl") == pytest.approx(value(results, "student", "forward_kl"), rel=1e-6)
    assert list(found["models"]) == ["student"]


def test_a_teacher_of_another_tokenizer_is_left_out_by_name(
    models: Any, tokenizer: Any, held_out: TokenDataset, tmp_path: Path
) -> None:
    class Live:
        model = models["teacher"]

        def vocabulary(self) -> VocabularyInfo:
            return VocabularyInfo(len(tokenizer), "0" * 32, "another")

    found = run(targets({"student": models["student"]}, tokenizer), held_out, tmp_path, teacher=Live())
    assert "bits_per_byte" in found["models"]["student"]["metrics"]
    assert "forward_kl" not in found["models"]["student"]["metrics"]
    (entry,) = found["not_measured"]
    assert entry["evaluator"] == "fidelity" and "the teacher has another tokenizer" in entry["reason"]
    assert any("bits_per_byte compares across tokenizers" in warning for warning in found["warnings"])


def test_a_head_that_cannot_be_chunked_gives_the_same_figures(
    results: Any, models: Any, tokenizer: Any, held_out: TokenDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from distill_core.errors import TrainingError

    def refuse(model: Any) -> None:
        raise TrainingError("a head of another kind")

    monkeypatch.setattr(row_pass, "head_spec", refuse)
    found = run(targets(models, tokenizer), held_out, tmp_path)
    assert set(found["settings"]["logits"].values()) == {"by-sequence"}
    for metric in ("cross_entropy", "forward_kl"):
        assert value(found, "student", metric) == pytest.approx(value(results, "student", metric), rel=1e-5)


def test_padding_rows_of_a_head(models: Any, tokenizer: Any, held_out: TokenDataset, tmp_path: Path) -> None:
    """Twelve rows beyond the tokenizer on the student's head: in its tail forwards, left out backwards."""
    wide = make_tiny_llama(vocab_size=len(tokenizer) + 12, seed=5)
    found = run(targets({"teacher": models["teacher"], "student": wide}, tokenizer), held_out, tmp_path)
    teacher, _, _ = dense_rows(models["teacher"], held_out)
    logp, _, _ = dense_rows(wide, held_out)
    shared = logp[:, : len(tokenizer)]
    assert value(found, "student", "forward_kl") == pytest.approx(
        (np.exp(teacher) * (teacher - shared)).sum(1).mean(), rel=1e-4
    )
    inside = shared - logsumexp(shared, axis=1, keepdims=True)
    assert value(found, "student", "reverse_kl") == pytest.approx(
        (np.exp(inside) * (inside - teacher)).sum(1).mean(), rel=1e-4
    )


def test_free_form_evaluators_run_beside(models: Any, tokenizer: Any, held_out: TokenDataset, tmp_path: Path) -> None:
    class Length:
        def evaluate(self, context: EvaluationContext) -> list[Measurement]:
            sums: dict[str, tuple[float, float]] = {}
            for batch in context.batches():
                for document, mask_T in zip(batch.documents, batch.attention_mask_BT, strict=True):
                    total, count = sums.get(document, (0.0, 0.0))
                    sums[document] = (total + float(mask_T.sum()), count + 1)
            total = sum(t for t, _ in sums.values()) / sum(c for _, c in sums.values())
            return [Measurement("length", total, "token", len(held_out), True, sums, {})]

    class Registry:
        def build(self, kind: str, ref: Any) -> Any:
            return Length()

    config = EvaluateConfig.model_validate({"evaluators": [{"use": "length"}]})
    found = evaluate(
        targets(models, tokenizer),
        data=held_out,
        config=config,
        registry=Registry(),
        directory=tmp_path,
        measure_speed=False,
    )
    assert value(found, "random", "length") == pytest.approx(held_out.n_tokens / len(held_out))


def test_an_evaluator_alone_gives_what_the_shared_pass_gives(
    results: Any, models: Any, tokenizer: Any, held_out: TokenDataset
) -> None:
    context = EvaluationContext("student", models["student"], tokenizer, lambda: held_out.batches(4), None)
    found = {m.metric: m.value for m in LanguageModel().evaluate(context)}
    assert found["cross_entropy"] == pytest.approx(value(results, "student", "cross_entropy"), rel=1e-6)


def test_one_document_has_no_error_and_no_verdict(models: Any, tokenizer: Any, tmp_path: Path) -> None:
    data = write_sequences(tmp_path / "one", [("only", [5, 9, 30, 41, 7], None)])
    found = run(targets(models, tokenizer), data, tmp_path)
    metric = found["models"]["student"]["metrics"]["cross_entropy"]
    assert metric["value"] > 0 and metric["standard_error"] is None and metric["interval"] == [None, None]
    assert {c["verdict"] for c in found["comparisons"]} == {"undecidable"}
    assert "no standard error" in found["warnings"][0]


def test_nothing_to_evaluate_is_refused(models: Any, tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="has no sequences"):
        run(targets(models, tokenizer), write_sequences(tmp_path / "none", []), tmp_path)
    silent = write_sequences(tmp_path / "silent", [("a", [5, 9, 30], [False] * 3)])
    with pytest.raises(DataError, match="no token"):
        run(targets(models, tokenizer), silent, tmp_path)
    assert not (tmp_path / "results.json").exists()


def test_models_of_different_tokenizers_are_refused(
    models: Any, tokenizer: Any, held_out: TokenDataset, tmp_path: Path
) -> None:
    class Other:
        def get_vocab(self) -> dict[str, int]:
            return {"a": 0, "b": 1}

    chosen = targets(models, tokenizer)
    chosen["random"] = EvaluationTarget(models["random"], tokenizer=Other())
    with pytest.raises(VocabularyError, match=r"teacher, student / random"):
        run(chosen, held_out, tmp_path)


def test_two_teachers_are_refused(models: Any, tokenizer: Any, held_out: TokenDataset, tmp_path: Path) -> None:
    chosen = {name: EvaluationTarget(model, is_teacher=True, tokenizer=tokenizer) for name, model in models.items()}
    with pytest.raises(ValueError, match="at most one"):
        run(chosen, held_out, tmp_path)


def test_a_directory_is_loaded_and_weighed(tiny_model_dir: Path, held_out: TokenDataset, tmp_path: Path) -> None:
    found = run(
        {"student": EvaluationTarget(tiny_model_dir)}, held_out, tmp_path, evaluators=[{"use": "language-model"}]
    )
    size = (tiny_model_dir / "model.safetensors").stat().st_size
    assert found["models"]["student"]["bytes_on_disk"] == size
    assert found["models"]["student"]["source"] == str(tiny_model_dir)
    assert found["schema"] == evaluation.SCHEMA


def test_a_directory_without_a_model_is_named(held_out: TokenDataset, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(DistillError, match=r"student cannot be loaded from .*empty"):
        run({"student": EvaluationTarget(tmp_path / "empty")}, held_out, tmp_path)


def test_two_evaluators_of_one_metric_are_refused(
    models: Any, tokenizer: Any, held_out: TokenDataset, tmp_path: Path
) -> None:
    twice = [{"use": "language-model"}, {"use": "language-model"}]
    with pytest.raises(PluginError, match="both measure 'cross_entropy'"):
        run(targets(models, tokenizer), held_out, tmp_path, evaluators=twice)


def test_a_broken_model_gives_no_figure_and_no_verdict(
    models: Any, tokenizer: Any, held_out: TokenDataset, tmp_path: Path
) -> None:
    broken = make_tiny_llama(vocab_size=len(tokenizer), seed=3)
    with torch.no_grad():
        broken.model.norm.weight.fill_(math.nan)
    found = run(targets({"teacher": models["teacher"], "student": broken}, tokenizer), held_out, tmp_path)
    assert found["models"]["student"]["metrics"]["forward_kl"]["value"] is None
    assert {c["verdict"] for c in found["comparisons"] if c["metric"] == "cross_entropy"} == {"undecidable"}
    assert found["models"]["teacher"]["metrics"]["cross_entropy"]["value"] > 0


def test_speed_stops_at_its_budget_and_names_its_rounds(models: Any) -> None:
    one = {"student": models["student"]}
    assert generation.speeds(one, prefill_tokens=8, decode_tokens=2, rounds=4)["student"].rounds == 4
    assert generation.speeds(one, prefill_tokens=8, decode_tokens=2, rounds=9, budget_s=0.0)["student"].rounds == 2
    with pytest.raises(ValueError, match="decode_tokens must be at least 1"):
        generation.speeds(one, decode_tokens=0)


def test_greedy_sets_the_models_own_sampling_aside(models: Any, tokenizer: Any) -> None:
    from transformers import GenerationConfig

    model = models["random"]
    plain = generation.greedy(model, tokenizer, "We meet", max_new_tokens=8)
    own, model.generation_config = model.generation_config, GenerationConfig(do_sample=True, temperature=9.0)
    try:
        assert generation.greedy(model, tokenizer, "We meet", max_new_tokens=8) == plain
        assert model.generation_config.temperature == 9.0, "put back afterwards"
    finally:
        model.generation_config = own
    with pytest.raises(ValueError, match="has no tokens"):
        generation.greedy(model, tokenizer, "", max_new_tokens=8)


class Shuffled:
    """A tokenizer's tokens under other ids; everything else is the tokenizer's."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer, vocabulary = tokenizer, tokenizer.get_vocab()
        order = np.random.default_rng(0).permutation(len(vocabulary)).tolist()
        self._vocabulary = {token: order[index] for token, index in vocabulary.items()}

    def get_vocab(self) -> dict[str, int]:
        return self._vocabulary

    def __len__(self) -> int:
        return len(self._tokenizer)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)


def test_a_shuffled_tokenizer_beside_a_student_is_flagged_and_not_used(
    models: Any, tokenizer: Any, held_out: TokenDataset, tmp_path: Path
) -> None:
    chosen = targets(models, tokenizer)
    honest = run(chosen, held_out, tmp_path / "honest", tokenizer=tokenizer)
    assert "shuffled-tokenizer" not in {flag["flag"] for flag in honest["flags"]}
    chosen["student"] = EvaluationTarget(models["student"], tokenizer=Shuffled(tokenizer))
    found = run(chosen, held_out, tmp_path / "shuffled", tokenizer=tokenizer)
    (flag,) = [flag for flag in found["flags"] if flag["flag"] == "shuffled-tokenizer"]
    assert flag["severity"] == "error" and flag["evidence"]["model"] == "student"
    assert value(found, "student", "cross_entropy") == value(honest, "student", "cross_entropy")
    assert value(found, "student", "bits_per_byte") == value(honest, "student", "bits_per_byte")


def test_a_difference_that_too_few_documents_would_miss_is_flagged() -> None:
    """Differences of +-0.3 around 0 on six documents; the teacher is 2 nats away, so 0.1 would matter."""
    levels = {"teacher": [3.0] * 6, "student": [5.3, 4.7, 5.3, 4.7, 5.3, 4.7], "base": [5.0] * 6}
    measured = {
        name: [
            Measurement("loss", float(np.mean(v)), "nat", 6, False, {str(i): (x, 1.0) for i, x in enumerate(v)}, {},
                        primary=True)
        ]
        for name, v in levels.items()
    }  # fmt: skip
    models = {name: {"metrics": {"loss": figures(one, 0.95)}} for name, (one,) in measured.items()}
    comparisons = compare(measured, student="student", teacher="teacher")
    (flag,) = power_flags(comparisons, models, teacher="teacher")
    error = 0.3 * math.sqrt(6 / 5) / math.sqrt(6)
    assert flag.evidence["detectable"] == pytest.approx((stats.t.ppf(0.975, 5) + stats.t.ppf(0.8, 5)) * error)
    assert flag.evidence["margin"] == pytest.approx(0.1) and flag.severity == "warning"
    (alone,) = power_flags([one for one in comparisons if one["baseline"] == "base"], models, teacher=None)
    assert alone.evidence["margin"] == pytest.approx(0.25), "without a teacher: of the baseline's own figure"
    models["base"]["metrics"]["loss"]["primary"] = False
    assert power_flags(comparisons, models, teacher="teacher") == []


def test_every_evaluator_is_timed(results: dict[str, Any]) -> None:
    seconds = results["seconds"]
    assert set(seconds) >= {"(shared pass)", "language-model", "fidelity", "calibration"}
    assert all(value > 0 for value in seconds.values())
