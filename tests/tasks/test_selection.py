"""Selection where a run has a task: classes balance what is kept, and scores are a classifier's."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForImageClassification, AutoModelForSequenceClassification

from distill_core.engine.data import IGNORE, TokenDataset
from tests.tasks.conftest import Bench
from tests.tasks.test_runs import distill


def selected(one: Bench, selector: dict[str, Any], sequences: int = 6) -> tuple[list[int], list[float | None]]:
    """Classes of what was kept, and all scores."""
    select = {"selector": selector, "budget": {"sequences": sequences}}
    code, _, err = distill("select", one.write(lambda run: run.update(select=select)), "-q")
    assert code == 0, err
    table = pa.ipc.open_file(str(one.output / "select" / "decisions.arrow")).read_all()
    kept = TokenDataset.open(one.output / "select")
    return [int(s.labels[s.labels != IGNORE][0]) for s in kept], table["score"].to_pylist()


@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_classes_take_turns(bench: Callable[[str], Bench], kind: str) -> None:
    one = bench(kind)
    for selector in (
        {"use": "class-mean"},
        {"use": "herding", "per_class": True},
        {"use": "k-center", "per_class": True},
        {"use": "stratified", "by": "class", "allocation": "equal"},
    ):
        classes, _ = selected(one, selector)
        assert Counter(classes) == {0: 2, 1: 2, 2: 2}, selector


@pytest.mark.parametrize("kind", ["bert", "vit"])
def test_errors_of_a_classifier_by_its_own_logits(bench: Callable[[str], Bench], kind: str) -> None:
    one = bench(kind)
    _, errors = selected(one, {"use": "el2n"})
    _, norms = selected(one, {"use": "grand"})
    auto = AutoModelForSequenceClassification if kind == "bert" else AutoModelForImageClassification
    model = auto.from_pretrained(one.output / "student").double().eval()
    layers = [module for module in model.modules() if isinstance(module, torch.nn.Linear)]
    parameters = [parameter for layer in layers for parameter in layer.parameters()]
    from distill_core.engine.run_file.validate import load_run_file
    from distill_core.registry import get_registry

    registry = get_registry()
    task = registry.build("task", load_run_file(one.directory / "run.yaml", registry=registry).config.task)
    pool = TokenDataset.open(one.output / "data" / "train", inputs=getattr(task, "inputs", None))
    for index in (0, 5, 11):
        (batch,) = pool.batches(1, [index])
        inputs = {k: v.double() if v.is_floating_point() else v for k, v in batch.model_inputs().items()}
        logits, label = model(**inputs).logits[0], batch.rows().labels_N[0]
        error = (logits.softmax(-1) - torch.nn.functional.one_hot(label, 3)).norm()
        assert errors[index] == pytest.approx(float(error.detach()), rel=1e-4)
        gradients = torch.autograd.grad(-logits.log_softmax(-1)[label], parameters)
        norm = torch.cat([gradient.flatten() for gradient in gradients]).norm()
        assert norms[index] == pytest.approx(float(norm), rel=1e-3)
