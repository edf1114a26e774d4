"""What the synthesizers of texts write, that they resume bit for bit, read as written, and refuse wrong input."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file

from distill_core.errors import DataError, TrainingError
from distill_core.interfaces import SynthesisContext
from distill_core.registry import get_registry
from distill_synthesis.matching.state import STATE_FILE
from distill_synthesis.text_matching.gradient_matching_text import EMBEDDINGS_FILE
from distill_synthesis.text_matching.options import GeneratorMatchingOptions, GradientMatchingTextOptions
from distill_synthesis.text_matching.texts import Reader, read_texts
from tests.text_matching.conftest import COLOURS, context, make, text_records

NAMES = ("gradient-matching-text", "generator-matching")
KINDS = ("bert", "llama", "causal")


def written(made: Any, directory: Path, records: list[dict[str, Any]] | None = None) -> list[dict[str, Any]]:
    return list(made.synthesize(iter(text_records() if records is None else records), directory))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", KINDS)
def test_every_text_reads_as_it_was_written(name: str, kind: str, tokenizer: Any, tmp_path: Path) -> None:
    """The ids that were chosen and kept are those of the text, by the tokenizer and by the data stage."""
    ctx = context(tokenizer, kind)
    made = make(name, ctx, texts=7)
    kept: list[Any] = []
    choose = made._chosen
    made._chosen = lambda candidates: kept.append(choose(candidates)) or kept[0]
    records = written(made, tmp_path)
    assert 3 <= len(records) == len(kept[0][0]) <= 7
    for record, candidate in zip(records, kept[0][0], strict=True):
        (sequence,) = ctx.sequences(record)
        assert sequence.input_ids.tolist() == list(candidate.written.content)
        assert tokenizer(record["text"], add_special_tokens=False)["input_ids"] == list(candidate.written.content)
        assert tokenizer.decode(sequence.input_ids) == record["text"]
        assert len(sequence) <= 12 and set(sequence.input_ids.tolist()) <= set(range(3, 320))
        assert record["provenance"]["synthesizer"] == name and record["provenance"]["real_texts"] == 24
        assert ("label" in record) is (kind != "causal")
    assert json.loads(json.dumps(records)) == records
    assert len({record["document"] for record in records}) == len(records)
    told = made.summary()[name]
    assert told["texts"] == len(records) and told["candidates"]["kept"] == len(records)
    assert told["missing"] == 7 - len(records)


def test_ids_that_no_tokenizer_would_choose_are_repaired_or_dropped(tokenizer: Any) -> None:
    ctx = context(tokenizer)
    reader = Reader(ctx, read_texts(text_records(), ctx), 12, lambda text, number: {"text": text, "label": "red"})
    (whole,) = tokenizer(" the", add_special_tokens=False)["input_ids"]
    letters = [tokenizer.convert_tokens_to_ids(letter) for letter in ("Ġ", "t", "h", "e")]
    assert reader.written(letters, 0).content == (whole,)
    assert reader.written([whole] * 2, 0).text == " the the"
    assert reader.written([], 0) == "empty"
    half = tokenizer("é", add_special_tokens=False)["input_ids"]
    broken = [tokenizer.convert_tokens_to_ids("Ã")]
    assert tokenizer.decode(broken) == "�" and len(half) >= 1
    assert reader.written(broken, 0) == "no characters"
    assert reader.written([tokenizer.convert_tokens_to_ids("q")] * 13, 0) == "too long"
    assert reader.written([2], 0) == "not one sequence"


@pytest.mark.parametrize("name", NAMES)
def test_seeds_make_sets(name: str, tokenizer: Any, tmp_path: Path) -> None:
    one, again, other = (
        written(make(name, context(tokenizer, seed=seed)), tmp_path / str(i)) for i, seed in enumerate((0, 0, 1))
    )
    assert one == again and [r["text"] for r in one] != [r["text"] for r in other]


@pytest.mark.parametrize(
    ("name", "kind", "options"),
    [
        ("gradient-matching-text", "bert", {"labels": "soft"}),
        ("gradient-matching-text", "causal", {}),
        ("generator-matching", "bert", {}),
    ],
    ids=["embeddings", "causal", "generator"],
)
def test_killed_at_any_step_it_goes_on_bit_for_bit(
    name: str, kind: str, options: dict[str, Any], tiny_tokenizer_dir: Path, tmp_path: Path
) -> None:
    words = json.dumps({"iterations": 5, "checkpoint_iterations": 2, **options})

    def run(directory: str, steps: int) -> subprocess.CompletedProcess[str]:
        harness = [sys.executable, "-m", "tests.text_matching.kill_harness", name, kind, str(tiny_tokenizer_dir)]
        command = [*harness, str(tmp_path / directory), str(steps), words]
        return subprocess.run(command, capture_output=True, text=True)

    whole = run("whole", -1)
    assert whole.returncode == 0, whole.stderr
    assert run("cut", 3).returncode == -signal.SIGKILL
    assert torch.load(tmp_path / "cut" / STATE_FILE, weights_only=True)["iteration"] == 2
    resumed = run("cut", -1)
    assert resumed.returncode == 0, resumed.stderr
    assert resumed.stdout == whole.stdout and whole.stdout.count("\n") >= 3
    states = [torch.load(tmp_path / d / STATE_FILE, weights_only=True) for d in ("whole", "cut")]
    assert states[0]["values"] == states[1]["values"]
    for tensors in ("variables", "velocity"):
        assert states[0][tensors].keys() == states[1][tensors].keys()
        assert all(torch.equal(x, states[1][tensors][key]) for key, x in states[0][tensors].items())


@pytest.mark.parametrize("name", NAMES)
def test_a_finished_state_is_not_computed_again(name: str, tokenizer: Any, tmp_path: Path) -> None:
    first = written(make(name, context(tokenizer)), tmp_path)
    made = make(name, context(tokenizer))
    made._round = made._step = None
    assert written(made, tmp_path) == first


def test_texts_are_dealt_evenly(tokenizer: Any, tmp_path: Path) -> None:
    made = make("gradient-matching-text", context(tokenizer), texts=8, candidates=4)
    assert [record["label"] for record in written(made, tmp_path)] == ["red"] * 3 + ["green"] * 3 + ["blue"] * 2


def test_soft_labels_are_records_with_weights_that_add_up(tokenizer: Any, tmp_path: Path) -> None:
    made = make("gradient-matching-text", context(tokenizer), labels="soft", label_learning_rate=0.1, least_share=0.01)
    records = written(made, tmp_path)
    by_text: dict[str, dict[str, float]] = {}
    for record in records:
        shares = by_text.setdefault(record["document"], {})
        assert record["label"] not in shares
        shares[record["label"]] = record["weight"]
    assert len(by_text) == 3 and max(map(len, by_text.values())) > 1
    for shares in by_text.values():
        assert sum(shares.values()) == pytest.approx(1, abs=1e-5)
        assert min(shares.values()) >= made.options.least_share
    state = torch.load(tmp_path / STATE_FILE, weights_only=True)
    assert not torch.equal(state["variables"]["labels"], made._first_labels())
    # A weighted cross-entropy over these records is that of the soft label.
    ctx = context(tokenizer)
    weights = [float(ctx.sequences(record)[0].weights[0]) for record in records]
    assert weights == pytest.approx([record["weight"] for record in records])


def test_embeddings_are_kept_beside_the_texts(tokenizer: Any, tmp_path: Path) -> None:
    made = make("gradient-matching-text", context(tokenizer))
    written(made, tmp_path)
    held = load_file(tmp_path / EMBEDDINGS_FILE)
    assert held["x"].shape[:2] == held["tokens"].shape and held["class"].tolist() == [0, 0, 1, 1, 2, 2]
    inside = held["tokens"] >= 0
    rows = made.networks.networks[0].table(held["tokens"][inside])
    assert not torch.allclose(held["x"][inside], rows)
    assert bool((inside.sum(1) == torch.load(tmp_path / STATE_FILE, weights_only=True)["variables"]["lengths"]).all())


def test_no_rounds_are_real_texts(tokenizer: Any, tmp_path: Path) -> None:
    made = make("gradient-matching-text", context(tokenizer), iterations=0, candidates=4, length_tokens=30)
    real = {(record["text"], record["label"]) for record in text_records()}
    assert {(record["text"], record["label"]) for record in written(made, tmp_path)} <= real


def test_texts_of_another_class_are_never_written(tokenizer: Any, tmp_path: Path) -> None:
    made = make("gradient-matching-text", context(tokenizer), wrong_label="drop", candidates=4, network_steps=40)
    records = written(made, tmp_path)
    batch = [made.ctx.sequences(record)[0] for record in records]
    from distill_core.engine.data import collate

    votes = made.networks.votes(collate(batch)).argmax(1).tolist()
    assert [COLOURS[vote] for vote in votes] == [record["label"] for record in records]
    told: list[str] = []
    made = make("gradient-matching-text", context(tokenizer), wrong_label="drop")
    made.ctx = SynthesisContext(**{**vars(made.ctx), "say": told.append})
    made._of_their_class = lambda members, number: members if number else []
    assert len(written(made, tmp_path / "other")) == 2
    assert "1 of 3 texts are missing" in told[0] and "wrong label" in told[0]
    made._of_their_class = lambda members, number: []
    with pytest.raises(DataError, match=r"no candidate is left \(.*wrong label: \d+\): ask for more"):
        written(made, tmp_path / "none")


@pytest.mark.parametrize("choose", ["k-center", "greedy", "loss", "random"])
def test_every_choice_of_the_generator(choose: str, tokenizer: Any, tmp_path: Path) -> None:
    made = make("generator-matching", context(tokenizer), choose=choose, iterations=0, texts=6)
    records = written(made, tmp_path)
    assert len(records) == 6 and made.summary()["generator-matching"]["iterations"] == 0


def image_task() -> dict[str, Any]:
    return {"use": "image-classification", "labels": list(COLOURS), "height": 2, "width": 2, "channels": 1}


def words() -> list[dict[str, Any]]:
    return [{"tokens": ["red", "sea"], "labels": ["red", "blue"]}]


WRONG: dict[str, tuple[Callable[[Any], SynthesisContext], list[dict[str, Any]], dict[str, Any], str]] = {
    "an image task": (
        lambda tokenizer: context(None, task=image_task()),
        [{"image": [1, 2, 3, 4], "label": "red"}],
        {},
        "the task ImageClassification reads no text; .*for images use gradient-matching",
    ),
    "a class per token": (
        lambda tokenizer: context(tokenizer, task={"use": "token-classification", "labels": list(COLOURS)}),
        words(),
        {},
        "2 classes in one text, at the tokens .*expected one.*sequence-classification",
    ),
    "no labels": (
        context,
        [{"text": "cherry", "document": "d0"}],
        {},
        "document d0: the task reads the field 'label', the record has document, text",
    ),
    "another vocabulary": (
        lambda tokenizer: context(tokenizer, vocab_size=20),
        text_records(),
        {},
        r"the texts hold the token id \d+, but the student has 20 embeddings: .*another tokenizer",
    ),
    "fewer texts than classes": (context, text_records(), {"texts": 2}, "texts is 2, but there are 3 classes"),
    "a class without texts": (context, text_records()[::3], {}, "no text of the class green, blue"),
    "nothing": (context, [], {}, "the source has no text that makes a sequence"),
}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("case", WRONG)
def test_wrong_use(name: str, case: str, tokenizer: Any, tmp_path: Path) -> None:
    given, records, options, message = WRONG[case]
    with pytest.raises(DataError, match=message):
        written(make(name, given(tokenizer), **options), tmp_path, records)


def test_a_classifier_has_no_likelihood_of_tokens(tokenizer: Any, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="likelihood is `student`, but with a task the student predicts classes"):
        written(make("gradient-matching-text", context(tokenizer), likelihood="student"), tmp_path)


def test_a_context_without_the_signal_says_so(tokenizer: Any, tmp_path: Path) -> None:
    made = make("generator-matching", context(tokenizer))
    made.build(SynthesisContext(0, get_registry().build, lambda name: None, lambda: tokenizer, lambda text: None))
    with pytest.raises(DataError, match="does not declare: add the signal `model`"):
        written(made, tmp_path)


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (GradientMatchingTextOptions, {}, "texts"),
        (GradientMatchingTextOptions, {"texts": 0}, "greater than 0"),
        (GradientMatchingTextOptions, {"texts": 1, "matched": "first-block"}, "last-block"),
        (GradientMatchingTextOptions, {"texts": 1, "samples": 3}, "Extra inputs"),
        (GeneratorMatchingOptions, {"texts": 1, "top_p": 0}, "greater than 0"),
        (GeneratorMatchingOptions, {"texts": 1, "language_model": {"heads": 5}}, "multiple of twice the heads"),
    ],
    ids=str,
)
def test_wrong_options(model: Any, options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        model(**options)


@pytest.mark.parametrize("name", NAMES)
def test_a_state_of_another_run_or_a_damaged_one_is_refused(name: str, tokenizer: Any, tmp_path: Path) -> None:
    written(make(name, context(tokenizer)), tmp_path)
    with pytest.raises(DataError, match=r"belongs to other data, options or another seed"):
        written(make(name, context(tokenizer, seed=1)), tmp_path)
    (tmp_path / STATE_FILE).write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"the file is damaged; delete it"):
        written(make(name, context(tokenizer)), tmp_path)


def test_a_distance_that_is_not_finite_stops_it(tokenizer: Any, tmp_path: Path) -> None:
    made = make("gradient-matching-text", context(tokenizer))
    matched = made.matched
    made.matched = lambda *arguments: (float("nan"), *matched(*arguments)[1:])
    with pytest.raises(TrainingError, match=r"iteration 0 has a distance of nan.*lower learning_rate"):
        written(made, tmp_path)
