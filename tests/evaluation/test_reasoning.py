"""Pass@k against enumeration, damaged chains against models that are known to read them or not, equations by eval."""

from __future__ import annotations

import itertools
import random
import re
from collections.abc import Mapping
from typing import Any

import pytest

from distill_core.engine.statistics import estimate
from distill_core.errors import DataError, SignalError
from distill_core.interfaces import Verdict
from distill_evaluation import chain_corruption, pass_at_k
from distill_evaluation.chain_corruption import ChainCorruption, corrupted
from distill_evaluation.pass_at_k import PassAtK
from distill_evaluation.reasoning_options import ChainCorruptionOptions, PassAtKOptions, StepValidityOptions
from distill_evaluation.step_validity import StepValidity, arithmetic, equations
from tests.conftest import make_tiny_llama
from tests.evaluation.rows import bare_context

REFS = {"questions": {"use": "list"}, "checker": {"use": "last-number"}}


class Source:
    def __init__(self, records: list[dict[str, Any]]) -> None:
        self.given = records

    def records(self) -> Any:
        return iter(self.given)


class LastNumber:
    """Right where the last number of the answer is the record's."""

    def check(self, record: Mapping[str, Any], answer: str) -> Verdict:
        return Verdict(float(re.findall(r"\d+", answer)[-1:] == [record["answer"]]))

    def canonical(self, answer: str) -> str:
        return " ".join(re.findall(r"\d+", answer)[-1:])


def context(records: list[dict[str, Any]], **options: Any) -> Any:
    return bare_context(build=lambda kind, ref: Source(records) if kind == "source" else LastNumber(), **options)


@pytest.mark.parametrize(("samples", "right"), [(1, 0), (1, 1), (5, 0), (5, 2), (5, 5), (7, 1)])
def test_pass_at_k_is_that_of_drawing_k_of_the_samples(samples: int, right: int) -> None:
    for k in range(1, samples + 1):
        draws = list(itertools.combinations([True] * right + [False] * (samples - right), k))
        assert pass_at_k.pass_at_k(samples, right, k) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_pass_at_k_is_unbiased() -> None:
    """Questions solved with chance 0.3 a try: pass@4 is 1 - 0.7^4 = 0.76; 20,000 worlds, error below 0.003."""
    draw = random.Random(0)
    values = [pass_at_k.pass_at_k(6, sum(draw.random() < 0.3 for _ in range(6)), 4) for _ in range(20_000)]
    assert sum(values) / len(values) == pytest.approx(1 - 0.7**4, abs=0.009)


def test_pass_at_k_counts_by_question_and_clusters_by_document(monkeypatch: Any, tokenizer: Any) -> None:
    records = [{"question": f"{i}?", "answer": str(i), "document": f"d{i % 2}"} for i in range(4)]
    written = {0: ["0", "0", "1", "2"], 1: ["1", "x", "x", "x"], 2: ["9"] * 4, 3: ["3"] * 4}

    def fake(context: Any, prompts: Any, **options: Any) -> list[str]:
        assert [number for number, _ in prompts] == list(range(16)) and options["temperature"] == 0.8
        return [text for own in written.values() for text in own]

    monkeypatch.setattr(pass_at_k, "drawn", fake)
    options = PassAtKOptions.model_validate({**REFS, "samples": 4, "k": [1, 2]})
    one, two = PassAtK(options).evaluate(context(records, tokenizer=tokenizer))
    expected = {1: [2 / 4, 1 / 4, 0, 1], 2: [1 - 1 / 6, 1 / 2, 0, 1]}
    for k, m in ((1, one), (2, two)):
        assert (m.metric, m.n) == (f"pass_at_{k}", 4)
        assert m.value == pytest.approx(sum(expected[k]) / 4) == estimate(m.document_sums).value
        assert m.document_sums["d0"] == pytest.approx((expected[k][0] + expected[k][2], 2))


def test_drawn_answers_do_not_depend_on_the_batch(tokenizer: Any) -> None:
    records = [{"question": "one" * (1 + i % 3), "answer": "1"} for i in range(5)]
    model = make_tiny_llama(vocab_size=len(tokenizer), seed=0).eval()
    given = context(records, tokenizer=tokenizer, model=model)
    found = []
    for batch in (1, 16):
        options = PassAtKOptions.model_validate({**REFS, "samples": 3, "k": [1], "batch_questions": batch})
        texts: list[str] = []
        PassAtK(options).evaluate(given)
        prompts = [(i, tokenizer(r["question"], add_special_tokens=False)["input_ids"]) for i, r in enumerate(records)]
        texts += pass_at_k.drawn(given, prompts, max_new_tokens=6, temperature=0.8, seed=0, batch=batch)
        found.append(texts)
    assert found[0] == found[1] and len(set(found[0])) > 1


def test_what_pass_at_k_refuses(tokenizer: Any) -> None:
    with pytest.raises(ValueError, match="k = 9 tries need as many samples"):
        PassAtKOptions.model_validate({**REFS, "k": [9]})
    options = PassAtKOptions.model_validate(REFS)
    with pytest.raises(DataError, match="pass-at-k: the source list yields no question"):
        PassAtK(options).evaluate(context([], tokenizer=tokenizer))
    with pytest.raises(DataError, match=r"document x of the source list has no question; its fields: document"):
        PassAtK(options).evaluate(context([{"document": "x"}], tokenizer=tokenizer))
    with pytest.raises(SignalError, match="gives no `build`"):
        PassAtK(options).evaluate(bare_context(tokenizer=tokenizer))


STEP_END = r"(?<=[.;])\s+"


def test_how_chains_are_damaged() -> None:
    chains = ["a. b. c. d.", "e. f.", "g.", ""]
    assert corrupted(chains, "intact", STEP_END, 0) == chains
    assert corrupted(chains, "none", STEP_END, 0) == [""] * 4
    assert corrupted(chains, "truncated", STEP_END, 0) == ["a. b.", "e.", "", ""]
    assert corrupted(chains, "foreign", STEP_END, 0) == ["e. f.", "g.", "", "a. b. c. d."]
    shuffled = corrupted(chains, "shuffled", STEP_END, 0)
    assert shuffled[0] != chains[0] and sorted(shuffled[0].split()) == ["a.", "b.", "c.", "d."]
    assert shuffled[1:] == ["f. e.", "g.", ""] and shuffled == corrupted(chains, "shuffled", STEP_END, 0)
    assert corrupted(["a. a."], "shuffled", STEP_END, 0) == ["a. a."]  # no other order there is


@pytest.mark.parametrize("reads_chain", [True, False])
def test_a_model_that_reads_its_chain_is_told_from_one_that_does_not(monkeypatch: Any, reads_chain: bool) -> None:
    """The reader answers with the last number of the chain before it, the other with what the question says."""
    records = [{"question": f"{i} + {i + 1}", "answer": str(2 * i + 1), "document": f"d{i}"} for i in range(6)]

    def fake(model: Any, tokenizer: Any, prompts: Any, max_new_tokens: int, batch: int) -> tuple[list[str], int]:
        texts = []
        for prompt in prompts:
            asked = [int(x) for x in re.findall(r"\d+", prompt.split("\n")[0])]
            chain = prompt.partition("\n")[2]
            if not prompt.endswith("Answer:"):
                texts.append(f"start at {asked[0]}. then {sum(asked)}. Answer: {sum(asked)}")
            else:
                numbers = re.findall(r"\d+", chain)
                texts.append(f" {numbers[-1] if numbers else 'none'}\n" if reads_chain else f" {sum(asked)}\n")
        return texts, 0

    monkeypatch.setattr(chain_corruption, "write", fake)
    options = ChainCorruptionOptions.model_validate(REFS)
    found = {m.metric: m for m in ChainCorruption(options).evaluate(context(records))}
    assert found["chain_accuracy_intact"].value == 1.0 and found["chain_accuracy_intact"].n == 6
    for name in ("none", "truncated", "shuffled", "foreign"):
        # Question 0's chain starts at 0, so its truncated chain is wrong too; shuffled ones end at the first number.
        assert found[f"chain_changed_{name}"].value == (1.0 if reads_chain else 0.0)
        assert found[f"chain_accuracy_{name}"].value == (0.0 if reads_chain else 1.0)
        assert estimate(found[f"chain_changed_{name}"].document_sums).n_documents == 6


def test_chains_of_the_record(monkeypatch: Any) -> None:
    seen: list[str] = []

    def fake(model: Any, tokenizer: Any, prompts: Any, *_: Any) -> tuple[list[str], int]:
        seen.extend(prompts)
        return [""] * len(prompts), 0

    monkeypatch.setattr(chain_corruption, "write", fake)
    options = ChainCorruptionOptions.model_validate({**REFS, "chains": "record", "corruptions": ["none"]})
    records = [{"question": "q", "answer": "1", "rationale": " r. "}]
    found = ChainCorruption(options).evaluate(context(records))
    assert seen == ["[rationale] q\nr. Answer:", "[rationale] q\nAnswer:"]
    assert [m.value for m in found] == [0.0, 0.0, 0.0]  # nothing written, wrong and unchanged
    with pytest.raises(DataError, match="has no rationale"):
        ChainCorruption(options).evaluate(context([{"question": "q", "answer": "1"}]))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2 + 2 = 4", [True]),
        ("so 12 - 5 = 7, and 7 x 3 = 20.", [True, False]),
        ("(1 + 2) * 3 = 9", [True]),
        ("10 / 4 = 2.5; 1 / 3 = 0.33", [True, False]),
        ("3 - 5 = -2", [True]),
        ("-3 + 5 = 2", [True]),
        ("1 / 0 = 0", []),
        ("(1 + 2 = 3", []),
        ("x = 4 and 4 = 4", []),
        ("007 + 1 = 8", [True]),
        ("3 \u00d7 4 = 12 \u00f7 1", [True]),
        ("", []),
    ],
)
def test_equations(text: str, expected: list[bool]) -> None:
    assert [true for _, true in equations(text)] == expected


def test_arithmetic_is_that_of_python() -> None:
    from fractions import Fraction

    draw = random.Random(1)
    for _ in range(300):
        parts = [str(draw.randint(1, 30))]
        for _ in range(draw.randint(1, 5)):
            parts += [draw.choice("+-*/"), str(draw.randint(1, 30))]
        exact = eval("".join(f"Fraction({p})" if p.isdigit() else p for p in parts), {"Fraction": Fraction})
        assert arithmetic(" ".join(parts)) == exact
    assert arithmetic("__import__('os')") is None and arithmetic("2 ** 9") is None


def test_steps_are_counted_by_equation(monkeypatch: Any) -> None:
    chains = ["1 + 1 = 2. then 2 + 2 = 5. done. Answer: 5", "2 + 3 = 5. Answer: 5", "no numbers. Answer: 1"]
    monkeypatch.setattr(chain_corruption, "write", lambda *_: (chains, 0))
    records = [{"question": "q", "document": f"d{i}"} for i in range(3)]
    options = StepValidityOptions.model_validate({"questions": {"use": "list"}})
    found = {m.metric: m for m in StepValidity(options).evaluate(context(records))}
    assert (found["valid_steps"].value, found["valid_steps"].n) == (pytest.approx(2 / 3), 3)
    assert (found["checkable_steps"].value, found["checkable_steps"].n) == (pytest.approx(3 / 5), 5)
    assert (found["valid_chains"].value, found["valid_chains"].n) == (0.5, 2)
    assert found["valid_steps"].detail["wrong"] == ["2 + 2 = 5"]
    monkeypatch.setattr(chain_corruption, "write", lambda *_: ([""] * 3, 0))
    nothing = StepValidity(options).evaluate(context(records))
    assert all(m.n == 0 and m.value != m.value for m in nothing)
