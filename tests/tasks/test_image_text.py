"""Image-text contrastive learning: the value, whole runs with a tiny text encoder, and wrong use.

Legend: n images, C captions, E embedding.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from transformers import AutoTokenizer, BertConfig, BertModel

from distill_core.errors import SignalError
from distill_core.interfaces import BuildContext
from distill_core.types import StudentView, TeacherSignals, TokenBatch
from distill_objectives.image_text_contrastive import ImageTextContrastive, encode, image_text_nce
from distill_objectives.image_text_options import ImageTextContrastiveOptions
from tests.tasks.conftest import TEXT_SIZE, Bench, make_model
from tests.tasks.test_runs import distill

CAPTIONS = ("bright above", "bright in the middle", "bright below")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory, tiny_model_dir: Path) -> Path:
    """A random text encoder with its tokenizer."""
    directory = tmp_path_factory.mktemp("encoder")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model_dir)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        BertModel(BertConfig(**{**TEXT_SIZE, "vocab_size": len(tokenizer)})).save_pretrained(directory)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.save_pretrained(directory)
    return directory


def written_out(image_nE: Tensor, caption_nE: Tensor, texts: list[int], tau: float) -> Tensor:
    """UniCL's equations, in loops."""
    n = len(texts)
    values = []
    for i in range(n):
        same = [k for k in range(n) if texts[k] == texts[i]]
        to_text = torch.stack([image_nE[i] @ caption_nE[k] / tau for k in range(n)])
        to_image = torch.stack([image_nE[k] @ caption_nE[i] / tau for k in range(n)])
        one = sum(to_text.exp().sum().log() - to_text[k] for k in same) / len(same)
        other = sum(to_image.exp().sum().log() - to_image[k] for k in same) / len(same)
        values.append((one + other) / 2)
    return torch.stack(values)


@pytest.mark.parametrize("texts", [[0, 1, 2, 3], [0, 1, 0, 2], [1, 1, 1, 1], [0]], ids=str)
@pytest.mark.parametrize("tau", [0.07, 1.0])
def test_value_and_gradient(texts: list[int], tau: float) -> None:
    generator = torch.Generator().manual_seed(len(texts))
    numbers_n = torch.tensor(texts)
    image_nE = torch.randn(len(texts), 5, generator=generator, dtype=torch.float64).requires_grad_()
    caption_nE = torch.randn(4, 5, generator=generator, dtype=torch.float64)[numbers_n]
    unit = torch.nn.functional.normalize
    weights_n = torch.linspace(0.5, 2, len(texts), dtype=torch.float64)
    found = image_text_nce(unit(image_nE, dim=1), unit(caption_nE, dim=1), numbers_n, temperature=tau)
    expected = written_out(unit(image_nE, dim=1), unit(caption_nE, dim=1), texts, tau)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
    (own,) = torch.autograd.grad((weights_n * found).sum(), image_nE)
    (other,) = torch.autograd.grad((weights_n * expected).sum(), image_nE)
    torch.testing.assert_close(own, other, rtol=1e-10, atol=1e-12)
    assert len(set(texts)) == 1 or bool(own.ne(0).any())


def test_captions_are_read_without_their_padding(encoder: Path) -> None:
    options = ImageTextContrastiveOptions(encoder=str(encoder), captions=CAPTIONS)
    together = encode(list(CAPTIONS), options)
    alone = torch.cat([encode([caption], options) for caption in CAPTIONS])
    torch.testing.assert_close(together, alone, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(together.norm(dim=1), torch.ones(3))


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_a_run(bench: Callable[[str], Bench], encoder: Path, kind: str) -> None:
    """Beside hard labels; the map stays in the training's checkpoint and out of the exported student."""
    from safetensors.torch import load_file

    one = bench(kind)

    def change(run: dict[str, Any]) -> None:
        contrast = {"use": "image-text-contrastive", "encoder": str(encoder), "captions": list(CAPTIONS)}
        run["train"].update(
            teacher="none", objectives=[{"use": "cross-entropy"}, contrast], batch_sequences=12, max_steps=20
        )
        del run["capture"]

    code, _, err = distill("run", one.write(change))
    assert code == 0, err
    assert one.results()["models"]["student"]["metrics"]["accuracy"]["value"] > 0.5
    metrics = (one.output / "train" / "student" / "metrics.jsonl").read_text(encoding="utf-8")
    assert "caption_found" in metrics
    exported = load_file(one.output / "train" / "student" / "model" / "model.safetensors")
    assert not [name for name in exported if "projection" in name and "patch" not in name]


def context(kind: str, **changes: Any) -> BuildContext:
    return BuildContext(make_model(kind), None, 10, changes.get("seed", 3), lambda *a: None)


def built(encoder: Path, captions: tuple[str, ...] = CAPTIONS, **changes: Any) -> ImageTextContrastive:
    made = ImageTextContrastive(ImageTextContrastiveOptions(encoder=str(encoder), captions=captions))
    made.build(context("vit", **changes))
    return made


def images(classes: list[int], **changes: Any) -> tuple[StudentView, TokenBatch]:
    n = len(classes)
    labels = torch.full((n, 3), -100)
    labels[:, 0] = torch.tensor(classes)
    ones = torch.ones(n, 3, dtype=torch.long)
    batch = TokenBatch(ones, ones, labels, keys=tuple(bytes([i]) * 16 for i in range(n)), next_token=False)
    states = torch.randn(n, 3, 32, generator=torch.Generator().manual_seed(0))
    return StudentView((states,)), batch


def test_the_map_comes_from_the_seed(encoder: Path) -> None:
    one, same, other = (built(encoder, seed=seed).state_dict()["projection.weight"] for seed in (1, 1, 2))
    assert torch.equal(one, same) and not torch.equal(one, other)
    assert set(built(encoder).state_dict()) == {"projection.weight"}


def test_classes_that_share_a_caption_are_no_negatives(encoder: Path) -> None:
    shared = built(encoder, ("dark", "bright", "dark"))
    student, batch = images([0, 1, 2])
    _, alike = images([0, 1, 0])
    totals = [shared(student, TeacherSignals(), b).total for b in (batch, alike)]
    torch.testing.assert_close(totals[0], totals[1], rtol=0, atol=0)


def test_no_images(encoder: Path) -> None:
    student, batch = images([])
    assert float(built(encoder)(student, TeacherSignals(), batch).total.detach()) == 0


def test_wrong_use(encoder: Path, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match="all 2 captions are 'a'"):
        ImageTextContrastiveOptions(encoder="x", captions=("a", "a"))
    with pytest.raises(ValidationError, match="pip install nothing-like-this"):
        ImageTextContrastiveOptions(encoder="package:nothing-like-this/model", captions=("a", "b"))
    with pytest.raises(SignalError, match=r"cannot be loaded .* give encoder a directory"):
        built(tmp_path)
    student, batch = images([0, 3])
    with pytest.raises(SignalError, match=r"class 3, but captions names 3 classes .* one caption per label"):
        built(encoder)(student, TeacherSignals(), batch)
    texts = TokenBatch(batch.input_ids_BT, batch.attention_mask_BT, batch.labels_BT, keys=batch.keys)
    with pytest.raises(SignalError, match=r"task: \{use: image-classification"):
        built(encoder)(student, TeacherSignals(), texts)
    with pytest.raises(RuntimeError, match="call build"):
        ImageTextContrastive(ImageTextContrastiveOptions(encoder="x", captions=CAPTIONS))(
            student, TeacherSignals(), batch
        )
