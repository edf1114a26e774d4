"""The fused head on real architectures: handled exactly, or refused by name."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from transformers import AutoConfig, AutoModelForCausalLM, LlamaForCausalLM

from distill_core.config import InitConfig, PeftSection, StudentConfig
from distill_core.engine.data import TokenDataset
from distill_core.engine.head import HeadSpec, decoder_of, head_spec, install_fused_head, remove_fused_head
from distill_core.engine.student import load_student
from distill_core.errors import TrainingError
from distill_core.plugin import Needs
from distill_core.types import TeacherSignals, TokenBatch
from tests.conftest import make_tiny_llama
from tests.train.setting import HardLabels, objectives, run_training
from tests.train.test_exactness import head_pass_of

TINY: dict[str, Any] = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "initializer_range": 0.3,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}

ARCHITECTURES: dict[str, tuple[dict[str, Any], HeadSpec]] = {
    "llama-untied": ({"model_type": "llama", "tie_word_embeddings": False}, HeadSpec()),
    "llama-tied": ({"model_type": "llama", "tie_word_embeddings": True}, HeadSpec()),
    "gemma2-softcap": (
        {"model_type": "gemma2", "head_dim": 8, "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 8},
        HeadSpec(softcap=3.0),
    ),
    "gemma2-no-softcap": ({"model_type": "gemma2", "head_dim": 8, "final_logit_softcapping": None}, HeadSpec()),
    "granite-divides": ({"model_type": "granite", "logits_scaling": 4.0}, HeadSpec(logit_scale=0.25)),
    "cohere-multiplies": ({"model_type": "cohere", "logit_scale": 0.0625}, HeadSpec(logit_scale=0.0625)),
    "phi-bias": ({"model_type": "phi"}, HeadSpec()),
    "gpt2": ({"model_type": "gpt2", "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}, HeadSpec()),
    "gpt-neox": ({"model_type": "gpt_neox"}, HeadSpec()),
    "qwen3-tied": ({"model_type": "qwen3", "head_dim": 8, "tie_word_embeddings": True}, HeadSpec()),
}


def build(fields: dict[str, Any]) -> Any:
    given = {**TINY, **fields}
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(given.pop("model_type"), **given))
    head = model.get_output_embeddings()
    if head.bias is not None:
        nn.init.normal_(head.bias)
    return model.float().train()


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_fused_loss_is_the_models_own(name: str, data: TokenDataset) -> None:
    fields, expected_spec = ARCHITECTURES[name]
    model = build(fields).double().eval()
    reference = copy.deepcopy(model)
    assert install_fused_head(model) == expected_spec
    batch = next(data.batches(3))
    inputs = {"input_ids": batch.input_ids_BT, "attention_mask": batch.attention_mask_BT}
    out = model(**inputs, head_pass=head_pass_of(batch, TeacherSignals(), ("hard", HardLabels(None), Needs())))  # type: ignore[arg-type]
    out["loss"].backward()
    rows = batch.rows()
    dense = nn.functional.cross_entropy(
        rows.select(reference(**inputs).logits).double(), rows.labels_N, reduction="sum"
    )
    dense.backward()
    assert float(out["loss"].detach()) == pytest.approx(float(dense.detach()), rel=1e-6)
    assert dict(model.named_parameters()).keys() == dict(reference.named_parameters()).keys()
    for (key, parameter), other in zip(model.named_parameters(), reference.parameters(), strict=True):
        if other.grad is None:
            assert parameter.grad is None, key
        else:  # some of these models compute their logits in float32 whatever their dtype
            torch.testing.assert_close(parameter.grad, other.grad, rtol=1e-4, atol=1e-4, msg=key)


def test_without_a_pass_the_model_is_as_before() -> None:
    model = make_tiny_llama()
    ids = torch.randint(3, 97, (2, 7))
    before = model(ids).logits
    generated = model.generate(ids, max_new_tokens=4, do_sample=False)
    install_fused_head(model)
    assert torch.equal(model(ids).logits, before)
    assert torch.equal(model.generate(ids, max_new_tokens=4, do_sample=False), generated)
    remove_fused_head(model)
    assert type(model.lm_head) is nn.Linear and "forward" not in vars(model) and "spec" not in vars(model.lm_head)
    assert torch.equal(model(ids).logits, before)


def test_probe_leaves_mode_and_random_state_alone() -> None:
    model = make_tiny_llama(attention_dropout=0.5).train()
    state = torch.get_rng_state()
    head_spec(model)
    assert torch.equal(torch.get_rng_state(), state)
    assert model.training and all(module.training for module in model.modules())


class Squared(LlamaForCausalLM):
    """Does something to its logits that no config field tells."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = output.logits * output.logits.abs()
        return output


class Rescaled(LlamaForCausalLM):
    """Scales the hidden states between decoder and head, as MiniCPM does."""

    def forward(self, input_ids: Tensor, **kwargs: Any) -> Any:
        output = self.model(input_ids=input_ids)
        output.logits = self.lm_head(output.last_hidden_state / 2)
        return output


class Own(nn.Linear):
    pass


def test_what_the_fused_head_cannot_do_is_refused_by_name() -> None:
    config = make_tiny_llama().config
    with pytest.raises(TrainingError, match=r"Squared \(llama\).*changes its logits after the head.*logits_scaling"):
        install_fused_head(Squared(config))
    with pytest.raises(TrainingError, match=r"Rescaled \(llama\).*between them"):
        install_fused_head(Rescaled(config))
    custom = make_tiny_llama()
    custom.lm_head.__class__ = Own
    with pytest.raises(TrainingError, match=r"LlamaForCausalLM.*its head is a .*Own"):
        install_fused_head(custom)
    with pytest.raises(TrainingError, match=r"LlamaModel.*no output embedding"):
        install_fused_head(make_tiny_llama().model)
    with pytest.raises(TrainingError, match=r"LlamaModel.*no decoder of its own"):
        decoder_of(make_tiny_llama().model)


def test_a_soft_cap_that_the_config_hides_is_found_out() -> None:
    model = build(ARCHITECTURES["gemma2-softcap"][0])

    class Forgetful(type(model)):  # type: ignore[misc]
        """Caps at 3 whatever the config says: invisible on the small logits of a fresh model."""

        def forward(self, *args: Any, **kwargs: Any) -> Any:
            self.config.final_logit_softcapping = 3.0
            try:
                return super().forward(*args, **kwargs)
            finally:
                self.config.final_logit_softcapping = None

    model.__class__ = Forgetful
    model.config.final_logit_softcapping = None
    with pytest.raises(TrainingError, match="changes its logits after the head"):
        install_fused_head(model)


def student_config(student_dir: Path, **changes: Any) -> StudentConfig:
    return StudentConfig(init=InitConfig(model=str(student_dir)), **changes)


def test_lora_student_trains_and_is_exported_merged(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    result = run_training(
        tmp_path / "run",
        student_dir=student_dir,
        data=data,
        student=student_config(student_dir, peft=PeftSection(r=2, target_modules="all-linear")),
        config={"objectives": objectives("hard"), "max_steps": 4, "gradient_checkpointing": True},
    )
    before = AutoModelForCausalLM.from_pretrained(student_dir).state_dict()
    after = AutoModelForCausalLM.from_pretrained(result.model).state_dict()
    assert set(before) == set(after)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {name for name in before if "_proj" in name}
    assert (tmp_path / "run" / "adapter" / "adapter_model.safetensors").exists()
    from peft import PeftModel

    adapted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(student_dir), tmp_path / "run" / "adapter")
    ids = torch.randint(3, 97, (2, 9))
    merged = AutoModelForCausalLM.from_pretrained(result.model)
    torch.testing.assert_close(adapted(ids).logits, merged(ids).logits, rtol=1e-5, atol=1e-5)


def test_lora_on_the_head_is_refused(student_dir: Path) -> None:
    config = student_config(student_dir, peft=PeftSection(target_modules=["lm_head", "q_proj"]))
    model = load_student(student_dir, config)
    with pytest.raises(TrainingError, match=r"the head is wrapped by PEFT.*leave lm_head out of student\.peft"):
        install_fused_head(model.get_base_model())


@pytest.mark.parametrize("freeze", [False, True])
def test_a_frozen_head_stays_and_skips_its_gradient(
    tmp_path: Path, student_dir: Path, data: TokenDataset, freeze: bool
) -> None:
    result = run_training(
        tmp_path / "run",
        student_dir=student_dir,
        data=data,
        config={"objectives": objectives("hard"), "freeze_head": freeze},
    )
    before = AutoModelForCausalLM.from_pretrained(student_dir)
    after = AutoModelForCausalLM.from_pretrained(result.model)
    assert torch.equal(before.lm_head.weight, after.lm_head.weight) == freeze
    assert not torch.equal(before.model.layers[0].mlp.up_proj.weight, after.model.layers[0].mlp.up_proj.weight)


def test_bfloat16_autocast_runs_on_a_cpu(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    losses = {}
    for precision in ("float32", "bfloat16"):
        result = run_training(
            tmp_path / precision,
            student_dir=student_dir,
            data=data,
            config={"objectives": objectives("hard"), "precision": precision},
        )
        losses[precision] = result.loss
        assert AutoModelForCausalLM.from_pretrained(result.model).dtype == torch.float32
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=2e-2)
    assert losses["bfloat16"] != losses["float32"]  # it did run in bfloat16


def test_float16_on_a_cpu_is_refused(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    with pytest.raises(TrainingError, match=r"train\.precision is float16"):
        run_training(tmp_path, student_dir=student_dir, data=data, config={"precision": "float16"})


def test_all_rows_of_a_batch_reach_the_head_in_order(data: TokenDataset) -> None:
    batch: TokenBatch = next(data.batches(2))
    rows = batch.rows()
    assert rows.labels_N.tolist() == [
        *(int(x) for x in data[0].input_ids[3:]),
        *(int(x) for x in data[1].input_ids[1:]),
    ]
