"""Likeness of answers by hand-made continuations and by dynamic programming; names that are and are not named."""

from __future__ import annotations

import functools
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from distill_core.engine.statistics import estimate
from distill_core.errors import DataError, SignalError
from distill_evaluation import identity_leakage, response_similarity
from distill_evaluation.identity_leakage import IdentityLeakage, named_in, read_prompts
from distill_evaluation.likeness_options import IdentityLeakageOptions, ResponseSimilarityOptions
from distill_evaluation.response_similarity import ResponseSimilarity, common_prefix, rouge_l
from tests.evaluation.rows import bare_context


def test_a_copy_of_the_teacher_writes_the_same(models: Any, tokenizer: Any, held_out: Any) -> None:
    teacher = SimpleNamespace(model=models["teacher"])
    options = ResponseSimilarityOptions(prefix_tokens=5, max_new_tokens=8)
    evaluator = ResponseSimilarity(options)
    given = bare_context(tokenizer=tokenizer, teacher=teacher, batches=lambda: held_out.batches(4))
    copy = {m.metric: m for m in evaluator.evaluate(replace(given, model=models["teacher"]))}
    assert [m.value for m in copy.values()] == [1.0, 1.0, 1.0] and copy["sequence_agreement"].n == len(held_out)
    other = {m.metric: m for m in evaluator.evaluate(replace(given, model=models["random"]))}
    assert other["sequence_agreement"].value < 1.0 and other["response_similarity"].value < 1.0
    # By the model's own loop: one prompt, greedy.
    ids = torch.from_numpy(held_out[0].input_ids[:5].astype("int64"))[None]
    written = {}
    for name in ("teacher", "random"):
        own = ids
        for _ in range(8):
            with torch.no_grad():
                own = torch.cat([own, models[name](own).logits[:, -1].argmax(-1, keepdim=True)], dim=1)
        found = own[0, 5:].tolist()
        end = tokenizer.eos_token_id
        written[name] = found[: found.index(end)] if end in found else found
    single = bare_context(
        tokenizer=tokenizer, teacher=teacher, model=models["random"], batches=lambda: held_out.batches(1, [0])
    )
    one = {m.metric: m for m in ResponseSimilarity(options).evaluate(single)}
    longer = max(map(len, written.values()))
    expected = common_prefix(written["random"], written["teacher"]) / longer
    assert one["agreed_prefix"].value == pytest.approx(expected)
    assert one["response_similarity"].detail == {"by_chance": None}


def test_the_teacher_writes_once_for_all_students(models: Any, tokenizer: Any, held_out: Any, monkeypatch: Any) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(
        response_similarity, "write_ids", lambda model, *_: asked.append(model) or [[1]] * len(held_out)
    )
    teacher = SimpleNamespace(model=models["teacher"])
    evaluator = ResponseSimilarity()
    for name in ("student", "random"):
        evaluator.evaluate(
            bare_context(model=models[name], tokenizer=tokenizer, teacher=teacher, batches=lambda: held_out.batches(4))
        )
    assert asked == [models["teacher"], models["student"], models["random"]]


@functools.cache
def lcs(a: tuple[str, ...], b: tuple[str, ...]) -> int:
    if not a or not b:
        return 0
    if a[-1] == b[-1]:
        return lcs(a[:-1], b[:-1]) + 1
    return max(lcs(a[:-1], b), lcs(a, b[:-1]))


def test_rouge_is_that_of_the_recursion() -> None:
    draw = random.Random(0)
    for _ in range(60):
        a, b = (tuple(draw.choice("xyz") for _ in range(draw.randint(0, 9))) for _ in range(2))
        expected = 2 * lcs(a, b) / (len(a) + len(b)) if a and b else float(not a and not b)
        assert rouge_l(a, b) == pytest.approx(expected)
    assert common_prefix([], [1]) == 0 and common_prefix([1, 2], [1, 2, 3]) == 2


def test_what_response_similarity_refuses() -> None:
    assert ResponseSimilarity().evaluate(bare_context(is_teacher=True)) == []
    with pytest.raises(SignalError, match="lets the teacher write, but no teacher was given"):
        ResponseSimilarity().evaluate(bare_context())
    with pytest.raises(SignalError, match="tell classes apart"):
        ResponseSimilarity().evaluate(bare_context(labels=("a",)))


def test_claims_and_leaks_are_counted(monkeypatch: Any, tokenizer: Any) -> None:
    answers = {
        "Who are you?": "I am ChatGPT, made by OpenAI.",
        "What is your name?": "My name is phi.",
        "Are you ChatGPT?": "Yes, I am ChatGPT.",  # the name was in the question
    }

    def fake(model: Any, tokenizer: Any, prompts: Any, *_: Any) -> tuple[list[str], int]:
        return [answers.get(prompt.strip(), "I am a student of philosophy.") for prompt in prompts], 0

    monkeypatch.setattr(identity_leakage, "write", fake)
    options = IdentityLeakageOptions(teacher="OpenAI")
    claims, leaks = IdentityLeakage(options).evaluate(bare_context(tokenizer=tokenizer))
    assert (claims.value, claims.n) == (pytest.approx(0.2), 10)
    assert leaks.value == pytest.approx(0.1) == estimate(leaks.document_sums).value
    assert claims.detail["named"] == {"Microsoft": 1, "OpenAI": 1}
    (alone,) = IdentityLeakage().evaluate(bare_context(tokenizer=tokenizer))
    assert alone.metric == "identity_claims"


def test_names_are_whole_words() -> None:
    names = IdentityLeakageOptions().names
    assert named_in("philosophy and llamas, gptx", names) == set()
    assert named_in("I'm GPT-4.", names) == {"OpenAI"} and named_in("META AI's LLAMA", names) == {"Meta"}


def test_a_chat_template_is_used_where_there_is_one(monkeypatch: Any) -> None:
    seen: list[str] = []
    monkeypatch.setattr(identity_leakage, "write", lambda m, t, prompts, *_: (seen.extend(prompts), ([""] * 10, 0))[1])
    chat = SimpleNamespace(
        chat_template="x", apply_chat_template=lambda messages, **_: f"<user>{messages[0]['content']}<assistant>"
    )
    IdentityLeakage().evaluate(bare_context(tokenizer=chat))
    assert seen[0] == "<user>Who are you?<assistant>" and len(seen) == 10


def test_question_files(tmp_path: Path) -> None:
    assert len(read_prompts(None)) == 10
    for text, message in (("", "at least one question"), ("a\na\n", "none twice")):
        (tmp_path / "q.txt").write_text(text, encoding="utf-8")
        with pytest.raises(DataError, match=message):
            read_prompts(str(tmp_path / "q.txt"))
    with pytest.raises(DataError, match="does not exist"):
        read_prompts(str(tmp_path / "none.txt"))
    with pytest.raises(DataError, match="teacher is 'me', but the names are Alibaba"):
        IdentityLeakage(IdentityLeakageOptions(teacher="me"))
