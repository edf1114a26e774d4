"""What every contestant reads: one teacher, one initial student, one order of sequences, held-out sequences.

Legend: B sequences, T token positions, N rows (B * (T - 1) predictions), D hidden, V vocabulary, K support.

All of it lies in one directory, made once; `settings.json` is written last and says what it was made of.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from distill_core.engine.data import SCHEMA, TOKENS_FILE, TokenDataset
from distill_core.engine.microbatches import MicroBatches
from distill_core.store import sequence_key

SETTINGS = "settings.json"
STUDENT_LAYERS = {"tiny": [0, 3], "smollm2": [0, 10, 19, 29]}
ROWS_AT_ONCE = 256


@dataclass(frozen=True)
class Settings:
    """What is compared; equal settings make equal worlds."""

    size: str
    batch: int
    length: int
    steps: int
    warm_up: int
    lr_warm_up: int
    learning_rate: float
    held_out: int
    seed: int
    topk: int
    threshold: int

    @property
    def sequences(self) -> int:
        """Of one epoch: every step reads new ones."""
        return self.batch * self.steps


@dataclass(frozen=True)
class World:
    """A directory and the settings it was made with."""

    directory: Path
    settings: Settings

    @classmethod
    def open(cls, directory: Path) -> World:
        """The world that :func:`make` left there."""
        return cls(directory, Settings(**json.loads((directory / SETTINGS).read_text(encoding="utf-8"))))

    def of_round(self, number: int) -> World:
        """The same with the order of the data, and the samples, of a round."""
        return World(self.directory, replace(self.settings, seed=self.settings.seed + number))

    @property
    def expected(self) -> dict[str, float]:
        """What :func:`expected_first_losses` found for round 0."""
        found: dict[str, float] = json.loads((self.directory / "expected.json").read_text(encoding="utf-8"))
        return found

    @property
    def teacher(self) -> Path:
        return self.directory / "teacher"

    @property
    def student(self) -> Path:
        return self.directory / "student"

    @cached_property
    def data(self) -> TokenDataset:
        return TokenDataset.open(self.directory / "data")

    def tokenizer(self) -> Any:
        from transformers import AutoTokenizer

        return AutoTokenizer.from_pretrained(self.teacher)

    def sequences(self) -> list[list[int]]:
        """Token ids in the order in which our trainer reads them, for those who are handed a list."""
        s = self.settings
        order = MicroBatches(self.data, batch_sequences=s.batch, accumulation_steps=1, total_steps=s.steps, seed=s.seed)
        return [self.data[index].input_ids.tolist() for step in range(s.steps) for index in order.of_step(step)]

    def held_out(self) -> tuple[Tensor, Tensor]:
        """[B, T] token ids and the teacher's [B, T - 1, D] hidden states."""
        found = torch.load(self.directory / "held_out.pt", weights_only=True)
        return found["ids"], found["hidden"]


def make(directory: Path, settings: Settings) -> World:
    """The world of these settings, made if it is not there yet.

    Raises:
        SystemExit: the directory holds a world of other settings.
    """
    if (directory / SETTINGS).exists():
        world = World.open(directory)
        if world.settings != settings:
            raise SystemExit(f"{directory} was made with {world.settings}, not {settings}: name another --work")
        return world
    from distill_core.engine.student import keep_layers

    directory.mkdir(parents=True, exist_ok=True)
    world = World(directory, settings)
    model, tokenizer, ids_BT = _tiny(settings) if settings.size == "tiny" else _smollm2(settings)
    student = keep_layers(model, STUDENT_LAYERS[settings.size])
    for path, one in ((world.teacher, model), (world.student, student)):
        one.save_pretrained(path)
        tokenizer.save_pretrained(path)
    train_BT, held_out_BT = ids_BT[: settings.sequences], ids_BT[settings.sequences :]
    _write_data(directory / "data", train_BT)
    torch.save({"ids": held_out_BT, "hidden": decoded(model, held_out_BT)}, directory / "held_out.pt")
    first_BT = torch.tensor(world.sequences()[: settings.batch])
    expected = expected_first_losses(model, student, first_BT, settings)
    (directory / "expected.json").write_text(json.dumps(expected), encoding="utf-8")
    (directory / SETTINGS).write_text(json.dumps(asdict(settings)), encoding="utf-8")
    return world


def _smollm2(settings: Settings) -> tuple[Any, Any, Tensor]:
    """The packaged teacher; training windows of speeches, held-out windows of the last tenth of them."""
    from benchmarks.real_models import load_teacher
    from benchmarks.real_text import documents, windows

    model, tokenizer = load_teacher()
    found, _ = documents("speeches")
    cut = len(found) * 9 // 10
    parts = []
    for texts, wanted in ((found[:cut], settings.sequences), (found[cut:], settings.held_out)):
        step = max(1, len(texts) // wanted)
        rows = windows([text[: 16 * settings.length] for text in texts[::step]], tokenizer, settings.length)
        chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(settings.seed))[:wanted]
        if len(chosen) < wanted:
            raise SystemExit(f"the speeches have {len(rows)} windows of {settings.length} tokens here, {wanted} needed")
        parts.append(rows[chosen])
    return model, tokenizer, torch.cat(parts)


def _tiny(settings: Settings) -> tuple[Any, Any, Tensor]:
    """A random Llama of four layers, V = 4,096, D = 64, and random tokens."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = 4096
    words = Tokenizer(WordLevel({f"t{i}": i for i in range(vocabulary)}, unk_token="t0"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="t0", eos_token="t1", bos_token="t2")
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=settings.length,
        initializer_range=0.2,
        tie_word_embeddings=True,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=1,
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(settings.seed)
        model = LlamaForCausalLM(config).float().eval()
    shape = settings.sequences + settings.held_out, settings.length
    ids_BT = torch.randint(3, vocabulary, shape, generator=torch.Generator().manual_seed(settings.seed))
    return model, tokenizer, ids_BT


def _write_data(directory: Path, ids_BT: Tensor) -> None:
    """In the format of the data stage."""
    rows = []
    for number, ids_T in enumerate(ids_BT.numpy().astype(np.int32)):
        own = {"input_ids": ids_T.tolist(), "document": str(number), "key": sequence_key(ids_T), "domain": ""}
        rows.append(own)
    directory.mkdir(parents=True, exist_ok=True)
    with pa.OSFile(str(directory / TOKENS_FILE), "wb") as sink, pa.ipc.new_file(sink, SCHEMA) as writer:
        writer.write_table(pa.Table.from_pylist(rows, schema=SCHEMA))


@torch.inference_mode()
def decoded(model: Any, ids_BT: Tensor) -> Tensor:
    """[B, T - 1, D] hidden states of the positions that predict, a few sequences at a time."""
    decoder = model.get_decoder()
    parts = [decoder(input_ids=part, use_cache=False).last_hidden_state[:, :-1] for part in ids_BT.split(4)]
    return torch.cat(parts).clone()


def log_probs(hidden_ND: Tensor, teacher_ND: Tensor, heads: tuple[Tensor, Tensor]) -> Iterator[tuple[Tensor, Tensor]]:
    """Dense fp64 log-probabilities [n, V] of teacher and student, a few rows at a time."""
    student_VD, teacher_VD = heads
    for first in range(0, len(hidden_ND), ROWS_AT_ONCE):
        rows = slice(first, first + ROWS_AT_ONCE)
        yield (
            (teacher_ND[rows] @ teacher_VD.T).double().log_softmax(1),
            (hidden_ND[rows] @ student_VD.T).double().log_softmax(1),
        )


def _heads(student: Any, teacher: Any) -> tuple[Tensor, Tensor]:
    return student.get_output_embeddings().weight, teacher.get_output_embeddings().weight


@torch.inference_mode()
def expected_first_losses(teacher: Any, student: Any, ids_BT: Tensor, settings: Settings) -> dict[str, float]:
    """Losses of the first step, by dense fp64 formulas on fp32 logits.

    `full`: sum_v p (log p - log q), what TRL computes at beta = 0. `topk`: the same on the K largest entries and one
    bucket for the rest, never more than `full`. `threshold`: its mean is `full`; `threshold_sd` bounds the standard
    deviation of the mean over rows by treating each row's sample as multinomial with as many entries.
    """
    hidden_ND, teacher_ND = decoded(student, ids_BT).flatten(0, 1), decoded(teacher, ids_BT).flatten(0, 1)
    full, coarse, variance = [], [], []
    for logp_nV, logq_nV in log_probs(hidden_ND, teacher_ND, _heads(student, teacher)):
        p_nV, gap_nV = logp_nV.exp(), logp_nV - logq_nV
        full.append((p_nV * gap_nV).sum(1))
        top_nK = logp_nV.topk(settings.topk, dim=1).indices
        tails = [x.scatter(1, top_nK, -torch.inf).logsumexp(1) for x in (logp_nV, logq_nV)]
        coarse.append(
            (p_nV.gather(1, top_nK) * gap_nV.gather(1, top_nK)).sum(1) + tails[0].exp() * (tails[0] - tails[1])
        )
        spread_n = (p_nV * logq_nV.square()).sum(1) - (p_nV * logq_nV).sum(1).square()
        variance.append(spread_n / settings.threshold)
    rows = len(hidden_ND)
    return {
        "full": float(torch.cat(full).mean()),
        "topk": float(torch.cat(coarse).mean()),
        "threshold_sd": float((torch.cat(variance).sum() / rows**2).sqrt()),
    }


@torch.inference_mode()
def held_out_kl(world: World, student_dir: Path) -> list[float]:
    """Mean KL to the teacher of every held-out sequence, in nat, over the whole vocabulary, fp64 sums."""
    from transformers import AutoModelForCausalLM

    student = AutoModelForCausalLM.from_pretrained(student_dir, dtype=torch.float32).eval()
    teacher = AutoModelForCausalLM.from_pretrained(world.teacher, dtype=torch.float32).eval()
    ids_BT, teacher_BTD = world.held_out()
    hidden_BTD = decoded(student, ids_BT)
    pairs = log_probs(hidden_BTD.flatten(0, 1), teacher_BTD.flatten(0, 1), _heads(student, teacher))
    kl_N = torch.cat([(logp_nV.exp() * (logp_nV - logq_nV)).sum(1) for logp_nV, logq_nV in pairs])
    means: list[float] = kl_N.view(len(ids_BT), -1).mean(1).tolist()
    return means
