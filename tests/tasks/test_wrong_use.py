"""What a user is told: before anything runs where that can be known, and always with what to do."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from distill_core.engine.run_file.validate import load_run_file
from distill_core.errors import ConfigError, DataError
from distill_core.registry import get_registry
from tests.conftest import make_tiny_llama
from tests.tasks.conftest import COLOURS, Bench, make_model
from tests.tasks.test_runs import distill

Change = Callable[[dict[str, Any]], Any]


def refused(bench: Bench, change: Change) -> str:
    with pytest.raises(ConfigError) as caught:
        load_run_file(bench.write(change), registry=get_registry())
    return "\n".join(caught.value.problems)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda run: run["teacher"].update(use="hf"), "hf answers over tokens, the student predicts classes"),
        (lambda run: run.pop("task"), "hf-classifier answers over classes, the student predicts tokens: set `task`"),
        (lambda run: run["train"].update(vocabulary="truncate"), "classes cannot be bridged"),
        (lambda run: run["student"].update(peft={"r": 2}), "train all weights with a `task`"),
        (lambda run: run.update(report={"prompts": ["x"]}), "a task predicts classes: leave it out"),
        (lambda run: run["task"].pop("labels"), "task.labels"),
        (lambda run: run["task"].update(labels=["red", "red"]), "a class is listed twice: red"),
        (lambda run: run["task"].update(use="regression"), "task.use"),
        (lambda run: run["teacher"].update(model="./nowhere"), "train the teacher first"),
    ],
)
def test_a_run_file_is_refused(bench: Callable[[str], Bench], change: Change, said: str) -> None:
    assert said in refused(bench("bert"), change)


def test_evaluators_default_to_those_of_classifiers(bench: Callable[[str], Bench]) -> None:
    one = bench("bert")
    checked = load_run_file(one.write(), registry=get_registry())
    assert [ref.use for ref in checked.config.evaluate.evaluators] == ["classification", "fidelity", "calibration"]
    named = load_run_file(
        one.write(lambda run: run.update(evaluate={"evaluators": [{"use": "calibration"}]})), registry=get_registry()
    )
    assert [ref.use for ref in named.config.evaluate.evaluators] == ["calibration"]


@pytest.mark.parametrize(
    ("row", "said"),
    [
        (
            {"text": "cherry", "label": "rde", "doc": "d9"},
            "document d9: the label 'rde' is none of the 3 of task.labels",
        ),
        ({"text": "cherry", "label": None, "doc": "d9"}, "the task reads the field 'label'"),
    ],
)
def test_labels_that_are_unknown_or_missing(bench: Callable[[str], Bench], row: dict[str, Any], said: str) -> None:
    one = bench("bert")
    with open(one.directory / "train.jsonl", "a", encoding="utf-8") as file:
        file.write(json.dumps(row) + "\n")
    code, _, err = distill("capture", one.write())
    assert code == 2 and said in err and "Traceback" not in err


def test_a_teacher_with_other_labels(bench: Callable[[str], Bench]) -> None:
    one = bench("bert")
    one.save_teacher(make_model("bert", labels=("green", "red", "blue")))
    code, _, err = distill("capture", one.write())
    assert code == 2 and "the same labels in another order" in err
    one.save_teacher(make_model("bert", labels=("red", "green", "pink")))
    code, _, err = distill("capture", one.write())
    assert code == 2 and "other labels (not the teacher's: ['blue']; not the task's: ['pink'])" in err


def test_a_store_of_another_task_is_refused(bench: Callable[[str], Bench]) -> None:
    """A store knows a fingerprint alone: labels, their order and the tokenizer are in it."""
    from distill_core.engine.stored import StoredSignals
    from distill_core.engine.tasks import with_labels
    from distill_core.errors import VocabularyError
    from distill_objectives.tasks.image_classification import ImageClassification
    from distill_objectives.tasks.options import ImageClassificationOptions

    one = bench("vit")
    code, _, err = distill("capture", one.write())
    assert code == 0, err
    store = StoredSignals(one.output / "capture" / "main")

    def task(labels: tuple[str, ...]) -> ImageClassification:
        return ImageClassification(ImageClassificationOptions(labels=labels, height=8, width=8, channels=1))

    assert "share 3 classes" in with_labels(store, task(COLOURS), None)[1]
    with pytest.raises(VocabularyError, match="labels, their order, or the tokenizer differ"):
        with_labels(store, task(("green", "red", "blue")), None)


def test_a_causal_model_cannot_be_the_teacher_of_a_task(bench: Callable[[str], Bench]) -> None:
    one = bench("bert")
    one.save_teacher(make_tiny_llama(vocab_size=320))
    code, _, err = distill("capture", one.write())
    assert code == 2 and "LlamaForCausalLM" in err and "for language models use hf" in err


def test_a_decoder_with_the_class_at_its_first_token(bench: Callable[[str], Bench]) -> None:
    one = bench("llama")
    code, _, err = distill("capture", one.write(lambda run: run["task"].update(position="first")))
    assert code == 2 and "position: last" in err


@pytest.mark.parametrize(
    ("image", "said"),
    [
        ([[0, 1], [2, 3]], "shape [2, 2]"),
        ([[0, 1], [2]], "ragged"),
        ([[0.5] * 8] * 8, "type float64"),
        ([[256] * 8] * 8, "from 256 to 256"),
    ],
)
def test_images_that_do_not_fit(image: Any, said: str) -> None:
    task = get_registry().build(
        "task", {"use": "image-classification", "labels": ["a", "b"], "height": 8, "width": 8, "channels": 1}
    )
    with pytest.raises(DataError, match="document d") as caught:
        task.pieces({"image": image, "label": "a"}, tokenizer=None, length_tokens=1, document="d")
    assert said in str(caught.value)


def test_texts_that_are_no_text() -> None:
    build = get_registry().build
    words = build("task", {"use": "token-classification", "labels": ["a", "b"]})
    one = build("task", {"use": "sequence-classification", "labels": ["a", "b"]})
    for task, record, said in (
        (words, {"tokens": ["x", "\ud800"], "labels": ["a", "b"]}, r"`tokens\[1\]` holds half of a surrogate pair"),
        (words, {"tokens": ["x", 7], "labels": ["a", "b"]}, r"tokens\[1\] must be a string, received int 7"),
        (one, {"text": "\udfff", "label": "a"}, "`text` holds half of a surrogate pair"),
    ):
        with pytest.raises(DataError, match=said):
            task.pieces(record, tokenizer=None, length_tokens=9, document="d")


def test_words_and_labels_of_different_number() -> None:
    task = get_registry().build("task", {"use": "token-classification", "labels": ["a", "b"]})
    with pytest.raises(DataError, match="received a list of 2 and a list of 1"):
        task.pieces({"tokens": ["x", "y"], "labels": ["a"]}, tokenizer=None, length_tokens=9, document="d")
