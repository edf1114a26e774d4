"""Students from a model, from a config, and from layers of the teacher."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertForSequenceClassification,
)

from distill_core.config import FromTeacher, InitConfig, StudentConfig
from distill_core.engine.student import initialise_student, keep_layers, load_student
from distill_core.errors import TrainingError
from tests.conftest import make_tiny_llama
from tests.train.test_head import TINY


def initialise(directory: Path, *, teacher: str | None = None, seed: int = 0, **init: Any) -> Path:
    config = StudentConfig(init=InitConfig(**init))
    return initialise_student(config, teacher_source=teacher, directory=directory, seed=seed)


@pytest.fixture(scope="module")
def teacher_dir(tmp_path_factory: pytest.TempPathFactory, tiny_tokenizer_dir: Path) -> Path:
    directory = tmp_path_factory.mktemp("teacher")
    make_tiny_llama(vocab_size=320, num_hidden_layers=5, tie_word_embeddings=True).save_pretrained(directory)
    AutoTokenizer.from_pretrained(tiny_tokenizer_dir).save_pretrained(directory)
    return directory


def test_layers_of_the_teacher_make_a_student(tmp_path: Path, teacher_dir: Path) -> None:
    layers = [0, 3, 4]
    path = initialise(tmp_path / "student", teacher=str(teacher_dir), from_teacher=FromTeacher(layers=layers))
    student, teacher = AutoModelForCausalLM.from_pretrained(path), AutoModelForCausalLM.from_pretrained(teacher_dir)
    assert student.config.num_hidden_layers == 3 == len(student.model.layers)
    assert student.lm_head.weight is student.model.embed_tokens.weight  # tied as the teacher's
    for new, old in enumerate(layers):
        for mine, its in zip(
            student.model.layers[new].parameters(), teacher.model.layers[old].parameters(), strict=True
        ):
            assert torch.equal(mine, its)
    # the same function: the teacher's embeddings, chosen layers and norm, run by hand
    ids = torch.randint(3, 320, (2, 9))
    hidden = teacher.model.embed_tokens(ids)
    rotary = teacher.model.rotary_emb(hidden, torch.arange(9)[None])
    mask = torch.full((9, 9), float("-inf")).triu(1)[None, None]
    for layer in layers:
        output = teacher.model.layers[layer](hidden, attention_mask=mask, position_embeddings=rotary)
        hidden = output if isinstance(output, torch.Tensor) else output[0]
    torch.testing.assert_close(student(ids).logits, teacher.lm_head(teacher.model.norm(hidden)), rtol=1e-4, atol=1e-4)
    generated = student.generate(ids, max_new_tokens=3, do_sample=False)  # layer_idx fits the cache
    assert generated.shape == (2, 12)
    assert len(AutoTokenizer.from_pretrained(path)) == 320
    assert (path / "model.safetensors").exists()


def test_lists_with_an_entry_per_layer_are_cut() -> None:
    types = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    config = AutoConfig.for_model(
        **{**TINY, "model_type": "gemma2", "num_hidden_layers": 4, "head_dim": 8, "layer_types": types}
    )
    teacher = AutoModelForCausalLM.from_config(config)
    student = keep_layers(teacher, [1, 2, 3])
    assert student.config.layer_types == ["full_attention", "sliding_attention", "full_attention"]
    assert teacher.config.layer_types == types
    assert [layer.self_attn.layer_idx for layer in student.model.layers] == [0, 1, 2]
    assert [layer.self_attn.sliding_window is not None for layer in student.model.layers] == [False, True, False]


@pytest.mark.parametrize("model_type", ["gpt2", "gpt_neox", "phi", "qwen3", "granite", "cohere"])
def test_other_architectures_are_cut_too(model_type: str) -> None:
    fields = {**TINY, "num_hidden_layers": 4, "head_dim": 8}
    if model_type == "gpt2":
        fields = {"vocab_size": 97, "n_embd": 32, "n_layer": 4, "n_head": 4, "n_positions": 64}
    teacher = AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **fields))
    student = keep_layers(teacher, [0, 3])
    assert student(torch.tensor([[3, 4, 5]])).logits.shape == (1, 3, 97)
    everything = keep_layers(teacher, [0, 1, 2, 3])
    ids = torch.randint(3, 97, (2, 7))
    torch.testing.assert_close(everything.eval()(ids).logits, teacher.eval()(ids).logits)


def test_a_classifier_is_cut_and_keeps_its_head() -> None:
    """It has no generation config, and its labels come along."""
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=4, num_attention_heads=2, intermediate_size=24,
                        max_position_embeddings=32, id2label={0: "a", 1: "b", 2: "c"})  # fmt: skip
    teacher = BertForSequenceClassification(config).eval()
    student = keep_layers(teacher, [0, 3]).eval()
    assert student.config.num_hidden_layers == 2 and student.config.id2label == {0: "a", 1: "b", 2: "c"}
    assert torch.equal(student.classifier.weight, teacher.classifier.weight)
    ids = torch.randint(0, 50, (2, 7))
    torch.testing.assert_close(keep_layers(teacher, [0, 1, 2, 3]).eval()(ids).logits, teacher(ids).logits)
    assert student(ids).logits.shape == (2, 3)


def test_a_student_of_a_model_is_that_model(tmp_path: Path, teacher_dir: Path) -> None:
    path = initialise(tmp_path / "student", model=str(teacher_dir))
    mine, its = (AutoModelForCausalLM.from_pretrained(source).state_dict() for source in (path, teacher_dir))
    assert all(torch.equal(mine[name], its[name]) for name in its)


def test_a_student_of_a_config_is_random_by_seed(tmp_path: Path, teacher_dir: Path) -> None:
    fields = {key: value for key, value in TINY.items() if key != "vocab_size"} | {"model_type": "llama"}
    made = [
        load_student(
            initialise(tmp_path / str(i), teacher=str(teacher_dir), seed=seed, config=fields),
            StudentConfig(init=InitConfig(config=fields)),
        )
        for i, seed in enumerate((1, 1, 2))
    ]
    weights = [model.lm_head.weight for model in made]
    assert weights[0].shape == (320, 32)  # the tokenizer's size where the config does not say
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])


def test_low_precision_weights_are_trained_in_float32(tmp_path: Path) -> None:
    make_tiny_llama().bfloat16().save_pretrained(tmp_path)
    config = StudentConfig(init=InitConfig(model=str(tmp_path)))
    assert load_student(tmp_path, config).dtype == torch.float32
    assert load_student(tmp_path, config.model_copy(update={"dtype": "bfloat16"})).dtype == torch.bfloat16


def test_wrong_requests_are_sentences(tmp_path: Path, teacher_dir: Path) -> None:
    teacher = str(teacher_dir)
    with pytest.raises(
        TrainingError, match=r"layers: \[5, 9\] is out of range, LlamaForCausalLM has the layers 0 \.\. 4"
    ):
        initialise(tmp_path / "a", teacher=teacher, from_teacher=FromTeacher(layers=[0, 5, 9]))
    with pytest.raises(TrainingError, match="the teacher is no Transformers model"):
        initialise(tmp_path / "a", from_teacher=FromTeacher(layers=[0]))
    with pytest.raises(TrainingError, match=r"vocab_size is 100, but the tokenizer has 320 tokens"):
        initialise(tmp_path / "a", teacher=teacher, config={**TINY, "model_type": "llama", "vocab_size": 100})
    with pytest.raises(TrainingError, match="makes no causal language model"):
        initialise(tmp_path / "a", teacher=teacher, config={"model_type": "no-such-architecture"})
    with pytest.raises(TrainingError, match="cannot be loaded"):
        initialise(tmp_path / "a", model=str(tmp_path / "nothing"))
    assert not (tmp_path / "a").exists()


def test_layers_that_are_not_interchangeable_are_refused() -> None:
    experts = {
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
    }
    ranks = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 8, "qk_nope_head_dim": 8, "v_head_dim": 8}
    depth = {"num_hidden_layers": 4, "first_k_dense_replace": 2}
    config = AutoConfig.for_model("deepseek_v3", **{**TINY, **depth, **experts, **ranks})
    teacher = AutoModelForCausalLM.from_config(config)
    with pytest.raises(TrainingError, match=r"DeepseekV3ForCausalLM cannot be cut to the layers \[0, 3\]"):
        keep_layers(teacher, [0, 3])  # layer 3 is a mixture of experts, the student's layer 1 would be dense
