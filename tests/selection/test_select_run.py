"""The select stage in a run: what it writes, what reuses it, what it refuses."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from distill_core.engine.data import TokenDataset
from distill_core.engine.features import Features
from distill_core.engine.progress import Progress
from distill_core.engine.run import run
from distill_core.engine.selection import budget_of, checked_order
from distill_core.errors import ConfigError, DataError, PluginError
from distill_core.interfaces import Budget, Ranking
from distill_core.registry import get_registry
from distill_core.store import store_info
from tests.run.conftest import ROWS, Workshop, write_rows


@pytest.fixture
def workshop(tmp_path: Path) -> Workshop:
    """For what needs no model: a directory that validates as one."""
    directory = tmp_path / "teacher"
    directory.mkdir()
    (directory / "config.json").write_text('{"model_type": "llama", "max_position_embeddings": 64}')
    return Workshop(tmp_path, directory)


@pytest.fixture
def tiny(tmp_path: Path, tiny_model_dir: Path) -> Workshop:
    workshop = Workshop(tmp_path, tiny_model_dir)
    workshop.good["select"] = {"selector": {"use": "random"}, "budget": {"sequences": 5}}
    return workshop


def done(workshop: Workshop, *overrides: str, upto: str | None = "select") -> dict[str, str]:
    checked = workshop.check(None, *overrides)
    result = run(checked, registry=get_registry(), progress=Progress(quiet=True), upto=upto)
    return {outcome.stage: outcome.action for outcome in result.outcomes}


def decisions(workshop: Workshop) -> Any:
    return pa.ipc.open_file(str(workshop.output / "select" / "decisions.arrow")).read_all()


def notes(workshop: Workshop) -> Any:
    return json.loads((workshop.output / "select" / "manifest.json").read_text())["notes"]


def test_what_is_kept_and_what_is_said(tiny: Workshop) -> None:
    assert done(tiny) == {"data:train": "ran", "select": "ran"}
    pool, kept = TokenDataset.open(tiny.output / "data" / "train"), TokenDataset.open(tiny.output / "select")
    table = decisions(tiny)
    rows = table.to_pylist()
    assert len(kept) == 5 and len(rows) == len(pool) > 5
    assert [row["key"] for row in rows] == [sequence.key for sequence in pool]
    assert [one.key for one in kept] == [row["key"] for row in rows if row["kept"]]
    assert all(row["kept"] == (row["rank"] < 5) == (row["reason"] == "within the budget") for row in rows)
    scores = [row["score"] for row in sorted(rows, key=lambda row: row["rank"])]
    assert scores == sorted(scores, reverse=True)
    assert table.schema.metadata[b"selector"] == b"random" and b"random number" in table.schema.metadata[b"score"]
    assert notes(tiny)["reasons"] == {"beyond the budget": len(pool) - 5, "within the budget": 5}
    summary = kept.summary
    assert summary["pool"] == summary["sequences"] + sum(summary["dropped"].values()) == len(pool)
    assert summary["tokens"] == kept.n_tokens and sum(summary["documents"].values()) == 5
    assert summary["predicted_tokens"] == sum(len(one) - 1 for one in kept)


def test_stages_are_reused_and_what_changed_is_done_again(tiny: Workshop) -> None:
    done(tiny)
    before = decisions(tiny)
    assert set(done(tiny).values()) == {"reused"}
    assert done(tiny, "select.budget.sequences=4") == {"data:train": "reused", "select": "ran"}
    assert done(tiny, "select.batch_sequences=2", "select.budget.sequences=4")["select"] == "reused"
    done(tiny)
    assert decisions(tiny).equals(before)  # the same seed, the same set
    assert done(tiny, "seed=1")["select"] == "ran"


def test_the_rest_of_the_run_learns_from_the_selection(tiny: Workshop) -> None:
    tiny.good["data"]["target"] = {"source": {"use": "jsonl", "path": str(tiny.directory / "target.jsonl")}}
    write_rows(tiny.directory / "target.jsonl", [text.upper() for text in ROWS[:2]])
    tiny.good["select"]["selector"] = {"use": "dsir"}
    assert set(done(tiny, upto=None).values()) == {"ran"}
    assert store_info(tiny.output / "capture" / "main").n_sequences == 5
    page = (tiny.output / "report" / "index.html").read_text()
    assert "beyond the budget" in page and notes(tiny)["likeness"][:40] in page
    changed = done(tiny, "select.budget.sequences=4", upto=None)
    reused = {stage for stage, action in changed.items() if action == "reused"}
    assert reused == {"data:train", "data:eval", "data:target", "student"}


@pytest.mark.parametrize(
    ("use", "options"),
    [("herding", {}), ("k-center", {}), ("class-mean", {"per_class": False})],
    ids=["herding", "k-center", "class-mean"],
)
def test_selectors_on_features_in_a_run(tiny: Workshop, use: str, options: dict[str, Any]) -> None:
    tiny.good["select"]["selector"] = {"use": use, **options}
    assert done(tiny) == {"data:train": "ran", "student": "ran", "select": "ran"}
    assert len(TokenDataset.open(tiny.output / "select")) == 5
    (values,) = (tiny.output / "features").glob("*/features.npy")
    hidden = np.load(values)
    pool = TokenDataset.open(tiny.output / "data" / "train")
    assert hidden.shape[0] == len(pool) and np.isfinite(hidden).all()
    time = values.stat().st_mtime_ns
    other = "k-center" if use == "herding" else "herding"
    assert done(tiny, f"select.selector={{use: {other}}}")["select"] == "ran"
    assert values.stat().st_mtime_ns == time  # another selector shares the features


def test_budgets() -> None:
    from distill_core.config import BudgetConfig

    lengths = np.array([4, 5, 6, 5])
    assert budget_of(BudgetConfig(share=0.5), lengths) == Budget(sequences=2)
    assert budget_of(BudgetConfig(share=0.01), lengths) == Budget(sequences=1)
    assert budget_of(BudgetConfig(share=1), lengths) == Budget(sequences=4)
    assert budget_of(BudgetConfig(tokens=10), lengths) == Budget(sequences=4, tokens=10)
    assert Budget(sequences=4, tokens=10).fitting(lengths) == 2
    assert Budget(sequences=4, tokens=9).fitting(lengths) == 2
    assert Budget(sequences=4, tokens=8).fitting(lengths) == 1
    assert Budget(sequences=4, tokens=3).fitting(lengths) == 0
    assert Budget(sequences=4, tokens=14).most(lengths) == 3
    assert Budget(sequences=1, tokens=14).fitting(lengths) == 1
    with pytest.raises(DataError, match=r"select.budget.sequences is 5, but data.train has 4 sequences"):
        budget_of(BudgetConfig(sequences=5), lengths)
    with pytest.raises(DataError, match=r"select.budget.tokens is 21, but data.train has 20 tokens"):
        budget_of(BudgetConfig(tokens=21), lengths)


def test_a_token_budget_is_never_exceeded(tiny: Workshop) -> None:
    """What is kept is the longest start of the selector's order that fits."""
    write_rows(tiny.directory / "train.jsonl", [text[: 12 + 7 * i] for i, text in enumerate(ROWS)])
    for tokens in (30, 45, 60, 80, 100):
        tiny.good["select"]["budget"] = {"tokens": tokens}
        done(tiny)
        rows = sorted(decisions(tiny).to_pylist(), key=lambda row: row["rank"])
        sums = np.cumsum([row["tokens"] for row in rows])
        assert len(set(np.diff(sums))) > 1, "sequences of one length would show nothing"
        assert [row["kept"] for row in rows] == (sums <= tokens).tolist()
        assert TokenDataset.open(tiny.output / "select").n_tokens <= tokens
    with pytest.raises(DataError, match=r"select.budget.tokens is 2, less than the shortest sequence"):
        done(tiny, "select.budget.tokens=2")
    with pytest.raises(DataError, match=r"select.budget.tokens is 99999, but data.train has"):
        done(tiny, "select.budget.tokens=99999")


def test_wrong_rankings_are_refused() -> None:
    scores = np.zeros(3)
    good = Ranking(np.array([2, 0]), scores, "m")
    assert checked_order(good, 3, "x").tolist() == [2, 0]
    for order in ([0, 0], [3], [-1], [[0]]):
        with pytest.raises(PluginError, match="no list of distinct indices from 0 to 2"):
            checked_order(Ranking(np.array(order), scores, "m"), 3, "x")
    with pytest.raises(PluginError, match=r"scores of shape \(3,\) for a pool of 4"):
        checked_order(good, 4, "x")
    with pytest.raises(PluginError, match="returned list, expected a Ranking"):
        checked_order([0], 3, "x")


def test_what_is_refused_before_anything_runs(workshop: Workshop) -> None:
    def with_select(**changes: Any) -> Any:
        return lambda run: run.update(select={"selector": {"use": "random"}, "budget": {"sequences": 2}, **changes})

    for change, message in [
        (with_select(budget={}), "exactly one of sequences, tokens and share"),
        (with_select(budget={"share": 0.5, "tokens": 3}), "given: tokens, share"),
        (with_select(budget={"share": 1.5}), "select.budget.share"),
        (with_select(selector={"use": "randon"}), "Did you mean .random."),
        (with_select(selector={"use": "herding", "per_class": True}), r"needs a class per sequence.*no `task:`"),
        (with_select(selector={"use": "class-mean"}), "needs a class per sequence"),
        (with_select(selector={"use": "stratified", "by": "class"}), "needs a class per sequence"),
        (with_select(selector={"use": "dsir"}), "aims at a target, but the file has none"),
        (lambda run: run["data"].update(target=run["data"]["eval"]), "has no `select:` section: remove it"),
        (
            lambda run: (with_select()(run), run["data"].update(target=run["data"]["eval"])),
            "synthesis:random reads none: remove it",
        ),
    ]:
        with pytest.raises(ConfigError, match=f"(?s){message}"):
            workshop.check(change)


def test_the_command(workshop: Workshop, capsys: Any) -> None:
    from distill_core.cli.application import exit_code

    assert exit_code(["select", str(workshop.write())]) == 2
    assert "no `select:` section" in capsys.readouterr().err
    assert not workshop.output.exists()


def test_an_interrupted_selection_resumes(tiny: Workshop, monkeypatch: pytest.MonkeyPatch) -> None:
    """What was made of the features stays; the result is that of a run that was never interrupted."""
    from distill_core.engine.features.sequence_model import SequenceModel

    tiny.good["select"] = {"selector": {"use": "herding"}, "budget": {"share": 0.5}, "batch_sequences": 4}
    monkeypatch.setattr("distill_core.engine.selection.Features", partial(Features, shard_rows=4))
    done(tiny)
    whole = decisions(tiny)
    shutil.rmtree(tiny.output)
    genuine, asked = SequenceModel.hidden, []

    def hidden(self: SequenceModel, batch: Any) -> Any:
        if len(asked) == 2:
            raise KeyboardInterrupt
        asked.append(batch.keys)
        return genuine(self, batch)

    monkeypatch.setattr(SequenceModel, "hidden", hidden)
    with pytest.raises(KeyboardInterrupt):
        done(tiny)
    before = list(asked)
    monkeypatch.setattr(SequenceModel, "hidden", lambda self, batch: asked.append(batch.keys) or genuine(self, batch))
    assert done(tiny) == {"data:train": "reused", "student": "reused", "select": "resumed"}
    assert decisions(tiny).equals(whole)
    keys = [key for keys in asked for key in keys]
    assert len(before) == 2 and len(keys) == len(set(keys))  # no sequence was asked for twice
