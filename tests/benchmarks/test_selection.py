"""`selection`: parts without common documents, every method measured once, files that resume, figures of the table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import selection as bench
from benchmarks import selection_data
from benchmarks.__main__ import parse
from distill_core.engine.data import TokenSequence

SMALL = ["--pool", "40", "--share", "0.1", "--target", "4", "--window", "12", "--start-steps", "2", "--steps", "2"]
SMALL += ["--held-out", "6", "--seeds", "2"]


def texts(word: str) -> Any:
    return lambda: [(f"{word} {i}", f"{word} number {i} says {i * i} and {word} again. " * 6) for i in range(40)]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[str]:
    pair = (texts("general"), texts("target"))
    monkeypatch.setattr(selection_data, "MIXTURES", dict.fromkeys(("eras", "domains", "same", "repeats"), pair))
    for name in ("less", "trak"):
        monkeypatch.setitem(bench.SELECTORS, name, {"use": name, "dim": 8, "layers": "layers.0.*q_proj"})
    return ["selection", *SMALL, "--json", str(tmp_path / "found.json"), "--work", str(tmp_path / "work")]


def test_every_method_is_measured_once_and_a_file_goes_on(small: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    some = bench.run(parse([*small, "--only", "random", "dsir"]))
    assert [(unit["method"], unit["seed"]) for unit in some["units"]] == [
        (method, seed) for seed in (0, 1) for method in ("random", "dsir")
    ]
    result = bench.run(parse(small))
    assert result["units"][:4] == some["units"] and result["before"] == some["before"]
    keys = {(unit["method"], unit["seed"]) for unit in result["units"]}
    assert keys == {(method, seed) for method in bench.METHODS for seed in (0, 1)} and len(result["units"]) == len(keys)
    known = [unit for unit in result["units"] if unit["method"] == bench.KNOWN]
    assert all(unit["of_target"] == 1.0 for unit in known)
    assert set(result["likeness"]) == {"0", "1"} and all(0 < p <= 0.05 for p in result["likeness"].values())
    monkeypatch.setattr(bench, "Scene", None)
    assert bench.run(parse(small)) == result  # nothing is left to measure
    with pytest.raises(SystemExit, match="other settings"):
        bench.run(parse([*small, "--steps", "3"]))


def test_parts_have_no_document_in_common(small: list[str]) -> None:
    mixture = selection_data.Mixture("eras", window=12, vocabulary=270)
    parts = [mixture.start, mixture.general, mixture.hidden, mixture.examples, mixture.held_out]
    named = [{one.document for one in sequences} for sequences in parts]
    assert all(named) and sum(map(len, named)) == len(set().union(*named))
    draw = mixture.draw(3, pool=40, share=0.1, target=4)
    assert sum(one.domain == "target" for one in draw.pool) == 4 and len(draw.pool) == 40 and len(draw.target) == 4
    again = mixture.draw(3, pool=40, share=0.1, target=4)
    assert [one.key for one in again.pool] == [one.key for one in draw.pool]
    assert [one.key for one in mixture.draw(4, pool=40, share=0.1, target=4).pool] != [one.key for one in draw.pool]
    same = selection_data.Mixture("same", window=12, vocabulary=270).draw(0, pool=20, share=0.1, target=4)
    assert all(one.domain == "target" for one in same.pool)
    with pytest.raises(SystemExit, match="were asked for, but there are"):
        mixture.draw(0, pool=100_000, share=0.1, target=4)


def test_repeats_say_their_first_half_again_and_stand_in_the_start_too(small: list[str]) -> None:
    mixture, plain = (selection_data.Mixture(name, window=12, vocabulary=270) for name in ("repeats", "eras"))

    def repeated(windows: Sequence[TokenSequence]) -> list[bool]:
        return [one.input_ids[:6].tolist() == one.input_ids[6:].tolist() for one in windows]

    for windows, own in ((mixture.hidden, plain.hidden), (mixture.held_out, plain.held_out)):
        assert all(repeated(windows)) and not any(repeated(own))
        assert [one.input_ids[:6].tolist() for one in windows] == [one.input_ids[:6].tolist() for one in own]
        assert all(one.labels.tolist() == one.input_ids.tolist() and one.domain == "target" for one in windows)
    assert not any(repeated(mixture.general))
    assert repeated(mixture.start) == [index % 4 == 0 for index in range(len(mixture.start))]


def test_documents_are_parted_by_name_in_the_shares_given() -> None:
    found = np.bincount([selection_data.part(f"name {i}", (0.5, 0.2, 0.3)) for i in range(2000)], minlength=3) / 2000
    np.testing.assert_allclose(found, [0.5, 0.2, 0.3], atol=0.04)


def test_figures_of_the_table() -> None:
    """By hand: differences of pairs, their standard error, the verdict."""
    losses = {"random": [5.0, 5.1, 5.2], "dsir": [4.5, 4.7, 4.6], bench.KNOWN: [4.0, 4.0, 4.0]}
    units = [
        {"method": method, "seed": seed, "loss": loss, "of_target": 0.25, "select_cpu_s": 2.0}
        for method, values in losses.items()
        for seed, loss in enumerate(values)
    ]
    size = {"mixture": "eras", "pool": 40, "share": 0.1, "target": 4, "window": 12, "steps": 2}
    result = {"units": units, "settings": size, "before": 6.0, "machine": "here", "likeness": {"0": 0.25}}
    difference, error, said = bench.compared(result, "random")["dsir"]
    assert difference == pytest.approx(-0.5)
    assert error == pytest.approx(np.std([-0.5, -0.4, -0.6], ddof=1) / 3**0.5) and said == "better"
    assert bench.KNOWN not in bench.compared(result, "random")
    lines = bench.table(result).splitlines()
    assert "| dsir | 4.6000 | -0.5000 ± 0.0577 | better |  |  | 25.0 | 2.0 | 3 |" in lines
    assert any(line.startswith(f"| {bench.KNOWN} | 4.0000 |") for line in lines)
