"""Students narrower than their teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from distill_core.config import FromTeacher, InitConfig, StudentConfig, Width
from distill_core.engine.narrow import narrow
from distill_core.engine.student import initialise_student
from distill_core.errors import TrainingError
from distill_core.planning.shape import shape_of_config

FIELDS = {
    "vocab_size": 97, "hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 3, "head_dim": 8, "max_position_embeddings": 64, "rms_norm_eps": 1e-12,
}  # fmt: skip
IDS = torch.randint(3, 97, (2, 7), generator=torch.Generator().manual_seed(0))


def teacher_of(model_type: str = "llama", **fields: Any) -> Any:
    torch.manual_seed(1)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **{**FIELDS, **fields})).eval()


def test_full_widths_change_nothing() -> None:
    teacher = teacher_of()
    same = narrow(teacher, Width(hidden_size=24, intermediate_size=40, key_value_heads=3)).eval()
    assert torch.equal(same(IDS).logits, teacher(IDS).logits)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("model_type", ["llama", "qwen2", "qwen3", "mistral"])
def test_what_adds_nothing_is_dropped_and_the_function_stays(model_type: str, tied: bool) -> None:
    teacher = teacher_of(model_type, tie_word_embeddings=tied)
    channels, neurons, group = [0, 5, 17, 23], [1, 2, 30], 1
    with torch.no_grad():
        teacher.model.embed_tokens.weight[:, channels] = 0
        for index, layer in enumerate(teacher.model.layers):
            for parameter in layer.mlp.parameters():
                parameter.mul_(3)
            layer.mlp.down_proj.weight[:, [neuron + index for neuron in neurons]] = 0
            layer.self_attn.o_proj.weight[:, 16 * group : 16 * (group + 1)] = 0
            for writer in (layer.mlp.down_proj, layer.self_attn.o_proj):
                writer.weight[channels] = 0
    student = narrow(teacher, Width(hidden_size=20, intermediate_size=37, key_value_heads=2)).eval()
    config = student.config
    assert (config.hidden_size, config.intermediate_size, config.num_key_value_heads) == (20, 37, 2)
    assert (config.num_attention_heads, config.head_dim) == (4, 8)
    torch.testing.assert_close(student(IDS).logits, teacher(IDS).logits, rtol=1e-4, atol=1e-5)
    assert (student.lm_head.weight is student.model.embed_tokens.weight) is tied
    assert student.generate(IDS, max_new_tokens=2, do_sample=False).shape == (2, 9)


def test_the_weightiest_neurons_stay_in_their_order() -> None:
    teacher = teacher_of()
    mlp = teacher.model.layers[0].mlp
    importance = mlp.gate_proj.weight.norm(dim=1) * mlp.up_proj.weight.norm(dim=1) * mlp.down_proj.weight.norm(dim=0)
    kept = importance.topk(7).indices.sort().values
    student = narrow(teacher, Width(intermediate_size=7))
    assert torch.equal(student.model.layers[0].mlp.up_proj.weight, mlp.up_proj.weight[kept])
    assert torch.equal(student.model.layers[0].mlp.down_proj.weight, mlp.down_proj.weight[:, kept])


@pytest.mark.parametrize("writer", ["mlp.down_proj", "self_attn.o_proj"])
def test_a_channel_counts_by_what_layers_write_to_it(writer: str) -> None:
    teacher = teacher_of()
    channels = [2, 9, 21]
    with torch.no_grad():
        teacher.model.embed_tokens.weight[:, channels] = 0  # by the embedding alone they would go first
        teacher.model.layers[1].get_submodule(writer).weight[channels] = 50
        teacher.model.embed_tokens.weight[:, [0, 1, 4]] *= 1e-3
    student = narrow(teacher, Width(hidden_size=18))
    left_out = [4, 0, 1]
    kept = [channel for channel in range(24) if channel not in left_out]
    mine = student.model.layers[1].get_submodule(writer).weight[:, 0]
    its = teacher.model.layers[1].get_submodule(writer).weight[:, 0]
    assert set(mine.tolist()) <= set(its[kept].tolist()) and mine.eq(50).sum() == 3


def test_a_run_file_asks_for_it(tmp_path: Path, tiny_tokenizer_dir: Path) -> None:
    teacher = tmp_path / "teacher"
    teacher_of(vocab_size=320).save_pretrained(teacher)
    AutoTokenizer.from_pretrained(tiny_tokenizer_dir).save_pretrained(teacher)
    cut = FromTeacher(layers=[1], width=Width(hidden_size=18))
    config = StudentConfig(init=InitConfig(from_teacher=cut))
    path = initialise_student(config, teacher_source=str(teacher), directory=tmp_path / "student", seed=0)
    student = AutoModelForCausalLM.from_pretrained(path)
    assert student.config.hidden_size == 18 == student.lm_head.weight.shape[1] and len(student.model.layers) == 1


def test_wrong_requests_are_sentences() -> None:
    with pytest.raises(TrainingError, match=r"width.hidden_size is 25, but the teacher has 24"):
        narrow(teacher_of(), Width(hidden_size=25))
    with pytest.raises(TrainingError, match=r"width.hidden_size is 16, which 6 attention heads do not divide"):
        narrow(teacher_of(), Width(hidden_size=16))
    fields = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    neox = AutoModelForCausalLM.from_config(AutoConfig.for_model("gpt_neox", intermediate_size=64, **fields))
    with pytest.raises(TrainingError, match=r"has no self_attn.q_proj: only models with"):
        narrow(neox, Width(hidden_size=16))


def test_the_plan_counts_the_narrower_student() -> None:
    teacher = teacher_of()
    student = narrow(teacher, Width(hidden_size=16, intermediate_size=20, key_value_heads=2))
    counted = shape_of_config(teacher.config.to_dict(), teacher.num_parameters(), label="teacher")
    planned = counted.with_width(hidden=16, feed_forward=20, key_value_heads=2)
    assert planned.parameters == pytest.approx(student.num_parameters(), rel=0.01)
