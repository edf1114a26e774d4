"""Every synthesizer of the room with a teacher that answers from a script: rows, provenance, funnel, resumption."""

from __future__ import annotations

import hashlib
import json
import random
from pathlib import Path
from typing import Any

import pytest

from distill_core.completions import GenerationRequest, request_seed, uniform
from distill_synthesis.generation.options import IN_DEPTH, PROMPTS
from distill_synthesis.generation.rouge import common_length, rouge_l
from tests.generation.scribe import Answer, Scribe, made, prompt_of, step

SEEDS = [{"prompt": f"Explain the word number {n} of the list.", "document": f"seed-{n}"} for n in range(7)]
WORDS = ("amber", "birch", "cedar", "daisy", "ember", "fern", "grass", "hazel", "iris", "jasper", "kelp", "lotus")


def some_words(text: str, n: int) -> str:
    draw = random.Random(text)
    return " ".join(draw.choice(WORDS) for _ in range(n))


def instructions(request: GenerationRequest) -> Answer:
    """Two new instructions that depend on the prompt; or an answer."""
    prompt = prompt_of(request)
    if request.id.endswith("#answer"):
        return f"About {prompt}"
    n = prompt.count("\nTask ") + 1
    first, second = some_words(prompt, 9), some_words(prompt + "!", 9)
    return f" Tell of {first}.\nTask {n + 1}: Sing of {second}.\nTask {n + 2}: cut of"


# self-instruct ------------------------------------------------------------------------------------------------------


def test_self_instruct_grows_a_pool_of_new_instructions(tmp_path: Path) -> None:
    teacher = Scribe(lambda r: (instructions(r), "stop" if "#answer" in r.id else "length"))  # type: ignore[arg-type,return-value]
    records, summary = made("self-instruct", teacher, tmp_path, SEEDS, requests=6, requests_per_round=2)
    expected = ["self-instruct-0.0", "self-instruct-0.1", "self-instruct-1.0"]
    assert [record["document"] for record in records][:3] == expected
    first = records[0]
    assert first["completion"] == f"About {first['prompt']}" and first["prompt"].startswith("Tell of")
    origin = first["provenance"]
    assert origin["synthesizer"] == "self-instruct" and origin["teacher"] == "scribe@1" and origin["seed"] == 0
    assert len(origin["parents"]) == 6 and set(origin["parents"]) <= {seed["document"] for seed in SEEDS}
    assert origin["requests"] == ["self-instruct-0", "self-instruct-0.0#answer"]
    assert origin["prompts"] == {
        f"{name}.j2": hashlib.sha256((PROMPTS / f"{name}.j2").read_bytes()).hexdigest()
        for name in ("instructions", "answer")
    }
    assert origin["parameters"]["instruction"]["top_p"] == 0.5 and origin["parameters"]["answer"]["temperature"] == 0
    (check,) = origin["checks"]
    assert check["name"] == "novelty" and check["passed"] and 0 <= check["score"] < 0.7
    later = [record for record in records if record["document"].startswith("self-instruct-4")]
    assert all(sum(p.startswith("self-instruct") for p in r["provenance"]["parents"]) == 2 for r in later)
    assert step(summary, "instructions")["made"] == 6  # the third of each text was cut
    assert not any("cut of" in record["prompt"] for record in records)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("Explain the word number 3 of this list.", "like one of the pool"),
        ("Do it now.", "too short"),
        ("word " * 151, "too long"),
        ("Describe the image of a dog in the park.", "needs more than text"),
    ],
)
def test_self_instruct_drops(tmp_path: Path, text: str, reason: str) -> None:
    good = "Which bird of the northern woods sings the longest songs?"
    teacher = Scribe(lambda r: "Yes." if "#answer" in r.id else f" {text}\nTask 8: {good}")
    records, summary = made("self-instruct", teacher, tmp_path, SEEDS, requests=1)
    assert [record["prompt"] for record in records] == [good]
    assert step(summary, "novelty")["reasons"] == {reason: 1}
    (dropped,) = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    assert dropped["step"] == "novelty" and dropped["reason"].startswith(reason)
    assert dropped["provenance"]["checks"][0]["passed"] is False


def test_rouge_against_the_textbook() -> None:
    draw = random.Random(1)
    for _ in range(300):
        a, b = ([draw.choice("abcd") for _ in range(draw.randrange(0, 90))] for _ in range(2))
        table = [[0] * (len(b) + 1) for _ in range(len(a) + 1)]
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                table[i + 1][j + 1] = table[i][j] + 1 if x == y else max(table[i][j + 1], table[i + 1][j])
        assert common_length(a, b) == table[-1][-1]
        total = len(a) + len(b)
        assert rouge_l(a, b) == (2 * table[-1][-1] / total if a and b else 0.0)


# evol-instruct ------------------------------------------------------------------------------------------------------


def evolve(request: GenerationRequest) -> Answer:
    prompt = prompt_of(request)
    if request.id.endswith("#evolve"):
        old = prompt.split("\n\n")[-1]
        return f'"{old} And {some_words(prompt, 3)}."'
    return f"Answer to {prompt}"


def test_evol_instruct_goes_on_from_what_it_made(tmp_path: Path) -> None:
    sources = [{"question": f"Name fact {n}.", "answer": "old", "document": f"d{n}", "level": n} for n in range(3)]
    records, summary = made("evol-instruct", Scribe(evolve), tmp_path, sources, generations=3)
    assert [record["document"] for record in records] == [f"d{n}/evol-{g}" for g in (1, 2, 3) for n in range(3)]
    last = records[-1]
    assert last["prompt"].startswith("Name fact 2. And ") and last["prompt"].count(" And ") == 3
    assert last["completion"] == f"Answer to {last['prompt']}"
    assert last["provenance"]["parents"] == ["d2/evol-2"] and records[0]["provenance"]["parents"] == ["d0"]
    assert last["level"] == 2 and "answer" not in last and "question" not in last
    operations = [record["provenance"]["details"]["operation"] for record in records]
    names = [*IN_DEPTH, "breadth"]
    expected = [names[int(uniform(request_seed(0, f"d{n}/evol-{g}"), 0) * 5)] for g in (1, 2, 3) for n in range(3)]
    assert operations == expected and len(set(operations)) > 1
    assert step(summary, "evolution asked")["in"] == 9


@pytest.mark.parametrize(
    ("evolved", "answer", "where", "reason"),
    [
        (" name   FACT 0.", "Yes.", "evolution", "unchanged"),
        ("Here is the #Rewritten Prompt#: more", "Yes.", "evolution", "speaks of the prompt"),
        ("  ", "Yes.", "evolution", "empty"),
        (("Name a long", "length"), "Yes.", "evolution", "cut"),
        ("Name fact 0 twice.", "Sorry, I cannot.", "elimination", "refused"),
        ("Name fact 0 twice.", "to the - of", "elimination", "no words"),
        ("Name fact 0 twice.", ("a long", "length"), "answers", "cut"),
    ],
)
def test_a_failed_evolution_is_dropped_and_the_old_one_goes_on(
    tmp_path: Path, evolved: Answer, answer: Answer, where: str, reason: str
) -> None:
    def write(request: GenerationRequest) -> Answer:
        if "d0/evol-1" in request.id:
            return evolved if request.id.endswith("#evolve") else answer
        return evolve(request)

    source = [{"prompt": "Name fact 0.", "document": "d0"}]
    records, summary = made("evol-instruct", Scribe(write), tmp_path, source, generations=2)
    assert [record["document"] for record in records] == ["d0/evol-2"]
    assert records[0]["provenance"]["parents"] == ["d0"] and records[0]["prompt"].startswith("Name fact 0. And")
    assert step(summary, where)["reasons"] == {reason: 1}


def test_evol_instruct_asks_whether_anything_was_gained(tmp_path: Path) -> None:
    def write(request: GenerationRequest) -> Answer:
        if request.id.endswith("#equal"):
            return {"d0": "Equal", "d1": "Not equal.", "d2": "who knows"}[request.id.split("/")[0]]
        return evolve(request)

    source = [{"prompt": f"Name fact {n}.", "document": f"d{n}"} for n in range(3)]
    records, summary = made("evol-instruct", Scribe(write), tmp_path, source, generations=1, equal_check=True)
    assert [record["document"] for record in records] == ["d1/evol-1"]
    assert step(summary, "gain")["reasons"] == {"equal to its parent": 1, "unparsable judgement": 1}
    assert records[0]["provenance"]["checks"][0]["name"] == "gain"


# magpie -------------------------------------------------------------------------------------------------------------

TEMPLATE = (
    "{{ bos_token }}{% for m in messages %}<|{{ m['role'] }}|>\n{{ m['content'] }}</s>\n{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
)


class Chatting(Scribe):
    """A scribe with a chat template."""

    def __init__(self, tokenizer: Any, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._tokenizer = tokenizer

    def tokenizer(self) -> Any:
        return self._tokenizer


@pytest.fixture(scope="module")
def chat_tokenizer(tiny_tokenizer_dir: Path) -> Any:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def test_magpie_begins_the_users_turn_and_answers_it(tmp_path: Path, chat_tokenizer: Any) -> None:
    def write(request: GenerationRequest) -> Answer:
        if request.prompt is not None:
            return {"magpie-1#instruction": ("What is", "length"), "magpie-2#instruction": "\n"}.get(
                request.id, f" Question {request.id}? "
            )
        return f"Answer to {prompt_of(request)}"

    teacher = Chatting(chat_tokenizer, write)
    records, summary = made("magpie", teacher, tmp_path, count=5, system="Be brief.", form="messages")
    asked = teacher.asked[0]
    assert asked.prompt == "<bos><|system|>\nBe brief.</s>\n<|user|>\n"
    assert teacher.parameters[0].stop == ("</s>",) and teacher.parameters[0].temperature == 1.0
    assert [record["document"] for record in records] == ["magpie-0", "magpie-3", "magpie-4"]
    assert records[0]["messages"] == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Question magpie-0#instruction?"},
        {"role": "assistant", "content": "Answer to Question magpie-0#instruction?"},
    ]
    assert teacher.asked[5].messages == tuple(records[0]["messages"][:2])
    assert step(summary, "instructions")["reasons"] == {"cut": 1, "empty": 1}


def test_magpie_leaves_out_a_bos_that_the_tokenizer_writes_itself(chat_tokenizer: Any) -> None:
    from distill_synthesis.generation.magpie import user_turn

    class WithBos:
        bos_token, bos_token_id = "<bos>", 1
        apply_chat_template = chat_tokenizer.apply_chat_template

        def __call__(self, text: str) -> dict[str, list[int]]:
            return {"input_ids": [1, *chat_tokenizer(text)["input_ids"]]}

    assert user_turn(WithBos(), None) == ("<|user|>\n", "</s>")
    assert user_turn(chat_tokenizer, None) == ("<bos><|user|>\n", "</s>")


def test_magpie_goes_on_with_a_prefix_where_there_is_no_template(tmp_path: Path) -> None:
    teacher = Scribe(lambda r: " Yes." if "#answer" in r.id else " Say yes.")
    options = {"prefix": "Instruction:", "ask_as": "text", "count": 2}
    records, _ = made("magpie", teacher, tmp_path, **options)
    assert [(r["prompt"], r["completion"]) for r in records] == [("Say yes.", "Yes.")] * 2
    assert teacher.asked[0].prompt == "Instruction:" and teacher.parameters[0].stop == ("\n",)


# attributed-prompts -------------------------------------------------------------------------------------------------


def test_attributed_prompts_draws_by_counter(tmp_path: Path) -> None:
    attributes = {"length": ["short", "long"], "style": ["dry", "warm", "grim"]}
    options = {
        "task": "a review",
        "attributes": attributes,
        "labels": ["good", "bad"],
        "label_attributes": {"bad": {"fault": ["late", "broken"]}},
    }
    teacher = Scribe(lambda r: f"Text for {prompt_of(r)!r}")
    records, _ = made("attributed-prompts", teacher, tmp_path / "a", count=40, **options)
    assert [record["label"] for record in records] == ["good", "bad"] * 20
    assert all(set(record) == {"document", "label", "text", "provenance"} for record in records)
    drawn = [record["provenance"]["details"]["attributes"] for record in records]
    assert all(("fault" in one) == (record["label"] == "bad") for one, record in zip(drawn, records, strict=True))
    assert {one["length"] for one in drawn} == {"short", "long"} and {one["style"] for one in drawn} == {
        "dry",
        "warm",
        "grim",
    }
    prompt = prompt_of(teacher.asked[1])
    assert prompt.startswith('Write a review of the class "bad" that meets these requirements:\n1. length: ')
    assert f"3. fault: {drawn[1]['fault']}\nWrite only the text itself." in prompt
    fewer, _ = made("attributed-prompts", Scribe(teacher.write), tmp_path / "b", count=7, window=2, **options)
    assert fewer == records[:7], "a row depends on its number alone"
    other, _ = made("attributed-prompts", Scribe(teacher.write), tmp_path / "c", count=40, seed=1, **options)
    assert [one["provenance"]["details"]["attributes"] for one in other] != drawn


# back-translation ---------------------------------------------------------------------------------------------------


def test_back_translation_scores_its_pairs(tmp_path: Path) -> None:
    texts = [{"text": f"Fact {n} is true.\n", "document": f"d{n}", "weight": 0.5} for n in range(4)]
    texts.append({"text": "long " * 1000, "document": "long"})

    def write(request: GenerationRequest) -> Answer:
        if request.id.endswith("#score"):
            return {"d0": "Score: 5", "d1": "Score: 2", "d2": "It is good.", "d3": "score 4"}[request.id.split("/")[0]]
        return f'Instruction: "Tell fact {request.id[1]}."'

    records, summary = made("back-translation", Scribe(write), tmp_path, texts, min_score=4)
    assert [(r["document"], r["prompt"], r["completion"]) for r in records] == [
        ("d0/instruction", "Tell fact 0.", "Fact 0 is true."),
        ("d3/instruction", "Tell fact 3.", "Fact 3 is true."),
    ]
    assert records[0]["weight"] == 0.5 and "text" not in records[0]
    assert records[0]["provenance"]["checks"] == [{"name": "score", "passed": True, "reason": "", "score": 5}]
    assert step(summary, "texts")["reasons"] == {"too long": 1}
    assert step(summary, "scores")["reasons"] == {"score too low": 1, "unparsable score": 1}


# rejection-sampling -------------------------------------------------------------------------------------------------


def test_rejection_sampling_keeps_what_the_checker_accepts(tmp_path: Path) -> None:
    questions = [{"question": f"{n} + 1?", "answer": str(n + 1), "document": "q" if n < 2 else "r"} for n in range(3)]

    def write(request: GenerationRequest) -> Answer:
        n, draw = int(prompt_of(request).split()[0]), int(request.id[-1])
        return [f"Answer: {n + 1}", f"Well. Answer:  {n + 1}", f"Well. Answer: {n + 1}", "no", "Answer: 77", ""][draw]

    options = {
        "samples": 6,
        "keep": 1,
        "checker": {"use": "numeric-answer"},
        "answer_pattern": "Answer: (?P<answer>.*)",
    }
    records, summary = made("rejection-sampling", Scribe(write), tmp_path, questions, **options)
    assert [(r["document"], r["prompt"], r["completion"]) for r in records] == [
        ("q/answer-0", "0 + 1?", "Answer: 1"),
        ("q~2/answer-0", "1 + 1?", "Answer: 2"),
        ("r/answer-0", "2 + 1?", "Answer: 3"),
    ]
    assert records[1]["provenance"]["parents"] == ["q"] and records[0]["answer"] == "1"
    assert records[0]["provenance"]["checks"] == [
        {"name": "numeric-answer", "passed": True, "reason": "", "score": 1.0}
    ]
    assert step(summary, "answers")["reasons"] == {"no answer in the text": 3, "empty": 3}
    assert step(summary, "checker")["reasons"] == {"another number": 3}
    assert step(summary, "choice")["reasons"] == {"same as another": 3, "beyond keep": 3}
