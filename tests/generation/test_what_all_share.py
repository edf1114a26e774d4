"""What the synthesizers share: interruption, budgets, filters, own templates, order."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.generation.scribe import Scribe, adds_up, context, made, prompt_of, step
from tests.generation.test_synthesizers import SEEDS, evolve, instructions

ALL: dict[str, tuple[dict[str, Any], Any]] = {
    "self-instruct": ({"requests": 9, "requests_per_round": 3}, instructions),
    "evol-instruct": ({"generations": 2, "window": 3}, evolve),
    "magpie": ({"prefix": "Say:", "ask_as": "text", "count": 9, "window": 4}, lambda r: f" {r.id}"),
    "attributed-prompts": (
        {"task": "x", "attributes": {"a": ["b", "c"]}, "count": 9, "window": 4},
        lambda r: f" {r.id}",
    ),
    "back-translation": ({"field": "prompt", "window": 3}, lambda r: f" {r.id}"),
    "rejection-sampling": (
        {"field": "prompt", "checker": {"use": "exact-answer", "field": "document"}, "window": 8, "keep": 2},
        lambda r: r.id.split("/")[0] if int(r.id[-1]) % 2 else "no",
    ),
}
every = pytest.mark.parametrize("name", ALL)


@every
def test_an_interrupted_run_pays_nothing_twice_and_makes_the_same(name: str, tmp_path: Path) -> None:
    options, write = ALL[name]
    whole, summary = made(name, Scribe(write), tmp_path / "whole", SEEDS, **options)
    assert len(whole) >= 7
    ids: list[str] = []
    for _ in range(100):
        teacher = Scribe(write, ahead=3, die_after=4)
        try:
            records, resumed = made(name, teacher, tmp_path / "killed", SEEDS, **options)
        except KeyboardInterrupt:
            ids += [request.id for request in teacher.asked]
            with open(tmp_path / "killed" / "completions.jsonl", "ab") as file:
                file.write(b'{"key": "torn')
            continue
        ids += [request.id for request in teacher.asked]
        break
    assert records == whole and resumed["funnel"] == summary["funnel"]
    assert len(ids) == len(set(ids)) >= 7
    dropped = [(tmp_path / run / "dropped.jsonl").read_bytes() for run in ("whole", "killed")]
    assert dropped[0] == dropped[1]


@every
def test_budgets_are_kept(name: str, tmp_path: Path) -> None:
    options, write = ALL[name]
    short: dict[str, Any] = {"max_new_tokens": 6, **options}
    if name in ("self-instruct", "evol-instruct", "magpie"):
        short["answer"] = {"max_new_tokens": 6}
    whole, summary = made(name, Scribe(write), tmp_path / "whole", SEEDS, **short)
    most = summary[name]["spent"]["tokens"] // 2 + 8
    for budget, price in (({"tokens": most}, 0.0), ({"cost": most * 0.001}, 0.001)):
        teacher = Scribe(write, ahead=5, price=price)
        directory = tmp_path / f"half-{price}"
        records, told = made(name, teacher, directory, SEEDS, budget=budget, **short)
        assert told[name]["spent"]["tokens"] == teacher.paid <= most
        assert told[name]["spent"]["cost"] == pytest.approx(teacher.paid * price, abs=1e-6)
        lost = sum(one["reasons"].get("the budget of tokens or money is spent", 0) for one in told["funnel"])
        assert lost > 0 and 0 < len(records) < len(whole)
        documents = [record["document"] for record in whole]
        assert [one for one in documents if one in {r["document"] for r in records}] == [
            record["document"] for record in records
        ]
    few, told = made(name, Scribe(write), tmp_path / "few", SEEDS, budget={"rows": 4}, **options)
    assert len(few) == 4
    if name not in ("rejection-sampling", "self-instruct"):  # these may make several rows of a request
        assert sum(step["reasons"].get("beyond the budget of rows", 0) for step in told["funnel"]) == 0


@every
def test_filters_are_applied_and_recorded(name: str, tmp_path: Path) -> None:
    options, _ = ALL[name]
    same = {
        "self-instruct": instructions,
        "evol-instruct": lambda r: "Same thing again." if r.id.endswith("#evolve") else "Yes.",
        "magpie": lambda r: " same",
        "attributed-prompts": lambda r: " same",
        "back-translation": lambda r: " same",
        "rejection-sampling": lambda r: r.id.split("/")[0],
    }[name]
    source = [{**seed, "prompt": seed["prompt"] if "instruct" in name else "one text"} for seed in SEEDS]
    given = {**options, "filters": [{"use": "exact-dedup"}]}
    if name == "self-instruct":
        given["answer"] = {"max_new_tokens": 5}
    records, summary = made(name, Scribe(same), tmp_path, source, **given)
    assert all(record["provenance"]["filters"] == ["exact-dedup"] for record in records)
    dropped = [json.loads(line) for line in (tmp_path / "dropped.jsonl").read_text().splitlines()]
    refused = [one for one in dropped if one["step"] == "exact-dedup"]
    judged = step(summary, "exact-dedup")
    assert sum(judged["reasons"].values()) == len(refused) and judged["out"] == len(records)
    assert all(one["reason"] and one["provenance"]["filters"] == [] for one in refused)
    if name not in ("self-instruct", "rejection-sampling"):
        assert refused, "nothing was refused, so nothing was shown"


def test_own_templates_are_used_and_their_content_is_told(tmp_path: Path) -> None:
    own = tmp_path / "own.j2"
    own.write_text("{% raw %}{{ not a variable }}{% endraw %} {{ text }}")
    teacher = Scribe(lambda r: "An instruction.")
    options = {"templates": {"back_translation": str(own)}}
    records, summary = made("back-translation", teacher, tmp_path / "a", [{"text": "{{ 7 * 7 }}"}], **options)
    assert prompt_of(teacher.asked[0]) == "{{ not a variable }} {{ 7 * 7 }}", "a record's text is no template"
    digest = hashlib.sha256(own.read_bytes()).hexdigest()
    assert records[0]["provenance"]["prompts"] == {"own.j2": digest}
    assert summary["back-translation"]["templates"]["back_translation"] == digest


def test_answers_of_a_file(tmp_path: Path) -> None:
    """The `answers` teacher: nothing is computed, nothing is spent."""
    from distill_core.registry import get_registry

    lines = [{"id": f"d{n}/instruction", "answer": f"Tell fact {n}."} for n in range(3)]
    (tmp_path / "written.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    teacher = get_registry().build("teacher", {"use": "answers", "path": str(tmp_path / "written.jsonl")})
    texts = [{"text": f"Fact {n}.", "document": f"d{n}"} for n in range(3)]
    records, summary = made("back-translation", teacher, tmp_path / "a", texts, budget={"tokens": 1})
    assert [record["prompt"] for record in records] == [f"Tell fact {n}." for n in range(3)]
    assert summary["back-translation"]["spent"] == {"tokens": 0, "cost": 0.0}


def test_order_of_answers_within_a_window_is_that_of_the_requests(tmp_path: Path) -> None:
    """Windows, look-ahead and batches change nothing."""
    options, write = ALL["magpie"]
    found = [
        made("magpie", Scribe(write, ahead=ahead), tmp_path / f"{ahead}-{window}", **{**options, "window": window})[0]
        for ahead, window in ((1, 1), (3, 4), (50, 64))
    ]
    assert found[0] == found[1] == found[2] and len(found[0]) == 9
    assert [int(re.findall(r"\d+", record["document"])[0]) for record in found[0]] == list(range(9))


def test_the_funnel_adds_up_even_when_nothing_is_kept(tmp_path: Path) -> None:
    from distill_core.errors import DataError
    from distill_core.registry import get_registry

    synthesizer = get_registry().build("synthesizer", {"use": "magpie", "prefix": "Say:", "count": 3})
    synthesizer.build(context(Scribe(lambda r: "")))
    with pytest.raises(DataError, match=r"magpie: no row was kept: instructions dropped 3 of 3 \(empty: 3\)"):
        list(synthesizer.synthesize([], tmp_path))
    adds_up(synthesizer.summary()["funnel"], 0)
