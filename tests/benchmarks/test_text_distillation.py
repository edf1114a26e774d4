"""`text_distillation`: every method makes a set and is judged, files resume, sets are what they are called."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers import AutoTokenizer, BertConfig, BertForSequenceClassification

from benchmarks import text_distillation as bench
from benchmarks.__main__ import parse
from benchmarks.set_accuracy import accuracy_table

CHAPTERS = {"red": "cherry rose brick", "green": "grass leaf moss", "blue": "sea sky ink"}
SMALL = ["--texts", "6", "--sets", "2", "--networks", "2", "--draws", "3"]
QUICK = {
    "networks": 1,
    "network_steps": 2,
    "network_states": 1,
    "candidates": 2,
    "wrong_label": "keep",
    "language_model": {"steps": 2, "hidden_size": 8, "heads": 2, "layers": 1},
}


def records(part: str) -> list[dict[str, Any]]:
    names = list(CHAPTERS)
    return [
        {
            "text": " ".join(CHAPTERS[names[i % 3]].split()[(i // 3 + j) % 3] for j in range(1 + i % 4)),
            "label": names[i % 3],
            "document": f"{part}-{i}",
        }
        for i in range(24 if part == "train" else 9)
    ]


def classifier(seed: int) -> Any:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        table = torch.randn(320, 8)
        torch.manual_seed(seed)
        config = BertConfig(
            vocab_size=320,
            hidden_size=8,
            intermediate_size=8,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_labels=3,
            max_position_embeddings=64,
        )
        model = BertForSequenceClassification(config)
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(table)
    return model


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch, tmp_path, tiny_tokenizer_dir):
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_dir)
    monkeypatch.setattr(bench, "tokenizer", lambda: tokenizer)
    monkeypatch.setattr(bench, "CHAPTERS", CHAPTERS)
    monkeypatch.setattr(bench, "records", records)
    monkeypatch.setattr(bench, "new_classifier", classifier)
    monkeypatch.setattr(bench, "STEPS", 2)
    monkeypatch.setattr(bench, "STEPS_OF_ALL", 2)
    for method, options in bench.SYNTHESIZERS.items():
        iterations = {"iterations": min(1, options.get("iterations", 1))}
        own = {"samples": 3} if options["use"] == "generator-matching" else {"inner_steps": 1}
        monkeypatch.setitem(bench.SYNTHESIZERS, method, {**options, **QUICK, **own, **iterations})
    return ["text_distillation", *SMALL, "--json", str(tmp_path / "found.json"), "--work", str(tmp_path / "work")]


def test_every_method_of_text_is_measured_once_and_a_file_goes_on(
    small: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    some = bench.run(parse([*small, "--only", "random", "gradient matching"]))
    assert len(some["measurements"]) == 3 * 2 + 2 * 2
    result = bench.run(parse(small))
    assert result["measurements"][: len(some["measurements"])] == some["measurements"]
    keys = [(row["method"], row["set"], row["network"]) for row in result["measurements"]]
    assert len(set(keys)) == len(keys) == len(list(bench.units(parse(small))))
    assert {row["method"] for row in result["measurements"]} == set(bench.METHODS)
    with monkeypatch.context() as patch:
        patch.setattr(bench, "records", None)
        assert bench.run(parse(small)) == result
    with pytest.raises(SystemExit, match="other settings"):
        bench.run(parse([*small[:2], "9", *small[3:]]))


def test_attention_labels_are_those_of_the_records_and_are_learned_from(small: list[str]) -> None:
    """The loss on them is the cross-entropy and the divergence, read from the model's own attentions."""
    scene = bench.Scene(parse(small))
    data = scene.training_set("gradient matching, soft and attention labels", 0)
    assert data.attention_NSHT is not None and data.attention_NSHT.shape[:3] == (len(data), 1, 2)
    torch.testing.assert_close(data.attention_NSHT.sum(-1), torch.ones(len(data), 1, 2), rtol=0, atol=1e-4)
    assert float((data.attention_NSHT * (1 - data.mask_NT[:, None, None])).abs().sum()) == 0
    model, rows = classifier(3).eval(), torch.tensor([1, 0])
    found = scene.loss(model, data, rows)
    plain = bench.TrainingSet(data.embeddings_NTD, data.mask_NT, data.shares_NK)
    output = model(inputs_embeds=data.embeddings_NTD[rows], attention_mask=data.mask_NT[rows], output_attentions=True)
    p, q = data.attention_NSHT[rows, 0], output.attentions[0][:, :, 0]
    divergence = torch.special.xlogy(p, p).sum(-1) - torch.special.xlogy(p, q).sum(-1)
    torch.testing.assert_close(found, scene.loss(model, plain, rows) + divergence.mean())


def test_sets_of_text_are_what_they_are_called(small: list[str]) -> None:
    scene = bench.Scene(parse(small))
    for method in bench.BASELINES:
        data = scene.training_set(method, 0)
        assert len(data) == 6
        for row in range(6):
            same = [
                i
                for i in range(len(scene.real))
                if torch.equal(scene.real.embeddings_NTD[i], data.embeddings_NTD[row])
                and int(scene.class_N[i]) == row // 2
            ]
            assert same, f"{method}: row {row} is no real text of its class"
        soft = method == "random, soft labels"
        assert bool((data.shares_NK.max(1).values == 1).all()) is not soft
    assert torch.equal(scene.training_set("random", 1).mask_NT, scene.training_set("random, soft labels", 1).mask_NT)
    soft = scene.encoded(
        [
            {"text": "sea", "label": "blue", "document": "d", "weight": 0.75},
            {"text": "sea", "label": "red", "document": "d", "weight": 0.25},
        ]
    )
    assert soft.shares_NK.tolist() == [[0.25, 0, 0.75]] and len(soft) == 1


def test_difference_to_random_in_standard_errors() -> None:
    def row(method: str, number: int, value: float) -> dict[str, Any]:
        return {"method": method, "set": number, "network": 0, "accuracy": value}

    lines = [row("random", n, 0.6 + 0.1 * n) for n in range(2)]  # 65 ± 5
    lines += [row("full", n, 0.95) for n in range(2)]
    lines += [row("gradient matching", n, 0.8 + 0.1 * n) for n in range(2)]  # 85 ± 5: 20 over random, of 7.07
    table = accuracy_table(lines, bench.METHODS, over_random=True)
    assert "| gradient matching | 85.0 ± 5.0 | 89.5 | 67 ± 17 | +2.8 | 2 x 1 |" in table
    assert "| random | 65.0 ± 5.0 | 68.4 | 0 ± 17 |  | 2 x 1 |" in table
