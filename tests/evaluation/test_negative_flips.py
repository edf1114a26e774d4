"""Flips and moved rows between two revisions, against plain counting one sequence at a time."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.stats import entropy

from distill_core.engine.data import TokenDataset
from distill_core.engine.statistics import estimate
from distill_evaluation.continual_options import NegativeFlipsOptions
from distill_evaluation.negative_flips import NegativeFlips
from tests.evaluation.evaluating import dense_rows
from tests.evaluation.rows import bare_context


def test_flips_and_moved_rows(models: Any, tokenizer: Any, held_out: TokenDataset, tmp_path: Path) -> None:
    new, old = (copy.deepcopy(models[name]) for name in ("student", "teacher"))
    with torch.no_grad():  # untrained, both are almost never right: make them so at one token
        bias = held_out[0].labels[3]
        for model, scale in ((new, 0.3), (old, 0.35)):
            model.lm_head.weight[int(bias)] += scale
    old.save_pretrained(tmp_path / "old")
    given = bare_context(model=new, tokenizer=tokenizer, batches=lambda: held_out.batches(4))
    options = NegativeFlipsOptions(before={"student": str(tmp_path / "old")}, bound_nat=0.05)
    found = {m.metric: m for m in NegativeFlips(options).evaluate(given)}
    (logp_new, labels, documents), (logp_old, _, _) = dense_rows(new, held_out), dense_rows(old, held_out)
    right_new, right_old = (logp.argmax(1) == labels for logp in (logp_new, logp_old))
    moved = entropy(np.exp(logp_new), np.exp(logp_old), axis=1)
    expected = {
        "negative_flips": right_old & ~right_new,
        "positive_flips": ~right_old & right_new,
        "revision_kl": moved,
        "relabelled_share": moved > 0.05,
    }
    for metric, values in expected.items():
        one = found[metric]
        assert one.value == pytest.approx(values.mean(), rel=1e-3, abs=1e-9), metric
        assert one.n == len(labels) and set(one.document_sums) == set(documents)
        assert estimate(one.document_sums).value == pytest.approx(one.value)
    assert 0 < found["relabelled_share"].value < 1
    change = right_new.mean() - right_old.mean()
    assert found["positive_flips"].value - found["negative_flips"].value == pytest.approx(change, abs=1e-9)


def test_nothing_moves_between_equal_revisions(models: Any, tokenizer: Any, held_out: Any, tmp_path: Path) -> None:
    models["random"].save_pretrained(tmp_path / "same")
    given = bare_context(model=models["random"], tokenizer=tokenizer, batches=lambda: held_out.batches(4))
    options = NegativeFlipsOptions(before={"student": str(tmp_path / "same")})
    assert [m.value for m in NegativeFlips(options).evaluate(given)] == pytest.approx([0.0] * 4, abs=1e-6)
    other = NegativeFlipsOptions(before={"teacher": str(tmp_path / "same")})
    assert NegativeFlips(other).evaluate(given) == []
