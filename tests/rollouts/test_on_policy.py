"""The rollout in a training: whose sequences, what is masked, resumed bit for bit, one denominator."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from torch import Tensor

from distill_core.engine.data import TokenDataset
from distill_core.errors import DataError, SignalError, TrainingError, VocabularyError
from distill_core.interfaces import BuildContext, VocabularyInfo
from distill_core.options import Options
from distill_core.plugin import Needs
from distill_core.registry import Registry, get_registry
from distill_core.store import sequence_key
from distill_core.types import IGNORE, RowInfo, RowTarget, TeacherSignals, TokenBatch
from distill_objectives.row_weights.options import WritersOptions
from distill_objectives.row_weights.writers import Writers
from tests.conftest import make_tiny_llama
from tests.train.setting import objectives, registry_with_objectives, run_training, tiny_teacher, write_data
from tests.train.test_checkpoints import Stop, stop_after

SOURCES = {0: "data", 1: "student", 2: "teacher"}


class Watch:
    """Cross-entropy that keeps the batches it was shown."""

    seen: ClassVar[list[TokenBatch]] = []

    def __init__(self, options: Options) -> None: ...

    def prepare(self, batch: TokenBatch, signals: TeacherSignals, rows: RowInfo) -> Mapping[str, Tensor]:
        self.seen.append(batch)
        return {}

    def rows(self, support: Any, target: RowTarget | None, rows: RowInfo) -> Tensor:
        value: Tensor = support.cross_entropy()
        return value


def registry() -> Registry:
    """The tests' own objectives beside the installed rollout and objectives."""
    found, installed = registry_with_objectives(), get_registry()
    found.register("objective", "watch", Watch, needs=Needs(targets=()))
    for kind, name in (
        ("rollout", "on-policy"),
        ("objective", "minillm"),
        ("objective", "distillm-2"),
        ("row-weight", "writers"),
    ):
        entry = installed.find(kind, name)
        module, attribute = entry.component.target.split(":")
        options_module, options = entry.component.options.split(":")
        target = getattr(__import__(module, fromlist=[attribute]), attribute)
        model = getattr(__import__(options_module, fromlist=[options]), options)
        found.register(kind, name, target, options=model, needs=entry.component.needs)
    return found


def rollout(**options: Any) -> dict[str, Any]:
    return {"use": "on-policy", "max_new_tokens": 7, "prefix_tokens": 4, **options}


def config(written: dict[str, Any] | None, *names: Any, **changes: Any) -> dict[str, Any]:
    return {
        "teacher": "live",
        "max_steps": 4,
        "batch_sequences": 3,
        "accumulation_steps": 2,
        "save_steps": 2,
        "rollout": written,
        "objectives": objectives(*names),
        **changes,
    }


def trained(directory: Path, settings: dict[str, Any], student: Path, sequences: TokenDataset, **changes: Any) -> Any:
    arguments = {"teacher": tiny_teacher(), "registry": registry(), **changes}
    return run_training(directory, student_dir=student, data=sequences, config=settings, **arguments)


def lines(result: Any) -> list[dict[str, Any]]:
    """The metrics but for what the clock decides."""
    found = [json.loads(text) for text in Path(result.metrics).read_text().splitlines()]
    for line in found:
        line.pop("tokens_per_s")
        line["reported"] = {k: v for k, v in line.get("reported", {}).items() if not k.endswith(("seconds", "per_s"))}
    return found


@pytest.fixture
def seen() -> list[TokenBatch]:
    Watch.seen.clear()
    return Watch.seen


def test_what_a_written_batch_holds(
    tmp_path: Path,
    student_dir: Path,
    data: TokenDataset,
    seen: list[TokenBatch],
) -> None:
    """Prompts are the data's and masked; numbers are those of dense forward passes; keys are of the new tokens."""
    settings = config(rollout(student_share=0.4, teacher_share=0.3, score=False), "watch", max_steps=6)
    result = trained(tmp_path, {**settings, "learning_rate": 1e-30}, student_dir, data)
    student, teacher = make_tiny_llama(seed=1), tiny_teacher().model
    prompts = {}
    for sequence in data:
        masked = sequence.labels[0] == IGNORE
        prompts[sequence.document] = sequence.input_ids[: 3 if masked else 4].tolist()
    originals = {sequence.document: sequence for sequence in data}
    counts = dict.fromkeys(SOURCES.values(), 0)
    for batch in seen:
        for row, document in enumerate(batch.documents):
            source = SOURCES[int(batch.per_sequence["source"][row])]
            counts[source] += 1
            length = int(batch.attention_mask_BT[row].sum())
            ids, labels = batch.input_ids_BT[row, :length], batch.labels_BT[row]
            assert batch.keys[row] == sequence_key(ids.tolist())
            assert bool((labels[length:] == IGNORE).all())
            prompt = prompts[document]
            assert ids[: len(prompt)].tolist() == prompt
            own = {name: value_BT[row] for name, value_BT in batch.per_token.items()}
            if source == "data":
                assert ids.tolist() == originals[document].input_ids.tolist()
                assert labels[:length].tolist() == originals[document].labels.tolist()
                assert all(bool(value_T.isnan().all()) for value_T in own.values())
                continue
            assert length == len(prompt) + 7
            assert labels[:length].tolist() == [IGNORE] * len(prompt) + ids[len(prompt) :].tolist()
            writer, other = (student, "teacher_logp") if source == "student" else (teacher, "student_logp")
            logits_TV = writer(input_ids=ids[None]).logits[0, :-1].detach()
            expected_T = logits_TV.log_softmax(-1).gather(1, ids[1:, None])[:, 0][len(prompt) - 1 :]
            torch.testing.assert_close(own[f"{source}_logp"][len(prompt) : length], expected_T, rtol=1e-4, atol=1e-4)
            torch.testing.assert_close(own["behaviour_logp"][len(prompt) : length], expected_T, rtol=1e-4, atol=1e-4)
            assert bool(own[other].isnan().all())
    assert sum(counts.values()) == 36 and all(7 <= counts[name] <= 18 for name in counts), counts
    reported = json.loads(Path(result.metrics).read_text().splitlines()[0])["reported"]
    assert reported["rollout.tokens_per_s"] > 0 and reported["rollout.max_new_tokens"] == 7


def test_the_direction_is_chosen_by_the_writer_of_the_prefix(
    tmp_path: Path, student_dir: Path, data: TokenDataset, seen: list[TokenBatch]
) -> None:
    """The logged sums are those of the rows of each writer alone; the weights of a row add up over the objectives."""
    own = {"use": "kl", "name": "on-data", "row_weights": {"use": "writers", "student": 0}}
    rest = {"use": "kl", "name": "on-student", "row_weights": {"use": "writers", "data": 0, "teacher": 0}}
    settings = config(rollout(student_share=0.5), "watch", own, rest, {"use": "kl", "name": "everywhere"}, max_steps=2)
    result = trained(tmp_path, settings, student_dir, data)
    sources = torch.cat([batch.per_sequence["source"] for batch in seen]).tolist()
    assert {0, 1} == set(sources)
    for line in lines(result):
        found = line["objectives"]
        parts = found["on-data"] + found["on-student"]
        assert min(found["on-data"], found["on-student"]) > 0
        assert parts == pytest.approx(found["everywhere"], rel=1e-5)


def test_weights_by_writer() -> None:
    weight = Writers(WritersOptions(student=0.5, teacher=2.0, data=0.0))
    rows = RowInfo(torch.tensor([5, 6, 7]), torch.tensor([2, 0, 1]), torch.tensor([0, 0, 0]), 0, 1)
    ids_BT = torch.ones(3, 2, dtype=torch.int64)
    batch = TokenBatch(ids_BT, ids_BT, ids_BT, keys=(b"", b"", b""))
    signals = TeacherSignals()
    assert weight.weights(batch, signals, rows).tolist() == [0.0] * 3  # no rollout: the data's own
    for sources, expected in (([0, 1, 2], [2.0, 0.0, 0.5]), ([1, 1, 1], [0.5] * 3)):
        told = replace(batch, per_sequence={"source": torch.tensor(sources)})
        assert weight.weights(told, signals, rows).tolist() == expected
    with pytest.raises(TrainingError, match=r"know the sources 0 .data., 1 .student. and 2 .teacher., but .* \[9\]"):
        weight.weights(replace(batch, per_sequence={"source": torch.tensor([0, 9, 1])}), signals, rows)


def test_pairs_have_both_write_for_every_prompt(
    tmp_path: Path,
    student_dir: Path,
    data: TokenDataset,
    seen: list[TokenBatch],
) -> None:
    settings = config(rollout(pairs=True), "watch", {"use": "distillm-2"}, max_steps=1)
    trained(tmp_path, settings, student_dir, data)
    assert [len(batch.keys) for batch in seen] == [6, 6]
    for batch in seen:
        assert batch.per_sequence["source"].tolist() == [2.0, 1.0] * 3
        assert batch.documents[::2] == batch.documents[1::2]


MIXED = rollout(student_share=0.5, teacher_share=0.3, teacher_mix=0.2)


@pytest.mark.parametrize(
    ("written", "names"),
    [
        (MIXED, ("kl", "minillm")),
        (
            rollout(
                pairs=True, score=True, length_curriculum={"start_tokens": 2, "step_tokens": 2, "max_entropy": 4.4}
            ),
            ({"use": "distillm-2", "adaptive_alpha": True},),
        ),
    ],
    ids=["mixed", "contrastive"],
)
def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(
    tmp_path: Path,
    student_dir: Path,
    data: TokenDataset,
    written: dict[str, Any],
    names: tuple[Any, ...],
) -> None:
    settings = config(written, *names, max_steps=7)
    whole = trained(tmp_path / "whole", settings, student_dir, data)
    with pytest.raises(Stop):
        trained(tmp_path / "killed", settings, student_dir, data, on_step=stop_after(5))
    for path in (tmp_path / "killed" / "rollout").glob("*.jsonl"):  # killed while it wrote the responses of a step
        content = path.read_bytes()
        path.write_bytes(content[: content.rstrip(b"\n").rfind(b"\n") + 30])
    resumed = trained(tmp_path / "killed", settings, student_dir, data)
    assert resumed.resumed_from_step == 4
    assert lines(resumed) == lines(whole)
    assert any(line["reported"]["rollout.teacher_sequences"] for line in lines(whole))


def test_the_split_into_micro_batches_changes_nothing(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    """Objectives that count student rows, sequences, and all rows; equal up to float32 rounding."""
    names = ("kl", "minillm", {"use": "distillm-2", "adaptive_alpha": True})
    written = {**MIXED, "score": True}
    runs = [
        lines(
            trained(
                tmp_path / f"{sequences}x{accumulation}",
                config(written, *names, batch_sequences=sequences, accumulation_steps=accumulation, learning_rate=1e-4),
                student_dir,
                data,
            )
        )
        for sequences, accumulation in ((6, 1), (1, 6), (2, 3))
    ]
    for other in runs[1:]:
        for line, same in zip(runs[0], other, strict=True):
            assert line["tokens"] == same["tokens"]
            assert line["objectives"] == pytest.approx(same["objectives"], rel=2e-4)
            assert line["grad_norm"] == pytest.approx(same["grad_norm"], rel=2e-3)


def test_minillm_divides_by_the_rows_of_the_student(
    tmp_path: Path,
    student_dir: Path,
    data: TokenDataset,
    seen: list[TokenBatch],
) -> None:
    """The step's value against dense logits, the mean over the student's rows alone."""
    settings = config(MIXED, "watch", {"use": "minillm", "importance": "none"}, max_steps=1)
    (line,) = lines(trained(tmp_path, settings, student_dir, data, teacher=tiny_teacher()))
    student, teacher = make_tiny_llama(seed=1), tiny_teacher()
    values = []
    for batch in seen:
        rows = batch.rows()
        q_NV = rows.select(student(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits)
        p_NV = rows.select(teacher.model(input_ids=batch.input_ids_BT, attention_mask=batch.attention_mask_BT).logits)
        own_N = batch.per_sequence["source"][rows.sequence_N] == 1
        for q_V, p_V in zip(q_NV[own_N].detach().double(), p_NV[own_N].detach().double(), strict=True):
            ids = p_V.topk(teacher.k).indices
            p, q = p_V.softmax(-1), q_V.softmax(-1)
            p_K1, q_K1 = (torch.cat([one[ids], 1 - one[ids].sum()[None]]) for one in (p, q))
            values.append(float((q_K1 * (q_K1 / p_K1).log()).sum()))
    assert line["objectives"]["minillm"] == pytest.approx(float(np.mean(values)), rel=1e-4)


def test_responses_grow_while_the_teacher_is_sure(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    def lengths(max_entropy: float) -> list[float]:
        curriculum = {"start_tokens": 2, "step_tokens": 3, "max_entropy": max_entropy}
        settings = config(rollout(length_curriculum=curriculum), "kl")
        found = lines(trained(tmp_path / str(max_entropy), settings, student_dir, data))
        assert all(0 < line["reported"]["rollout.frontier_entropy"] < np.log(97) for line in found)
        return [line["reported"]["rollout.max_new_tokens"] for line in found]

    assert lengths(10.0) == [2, 5, 7, 7]
    assert lengths(0.01) == [2, 2, 2, 2]


def test_the_teacher_writes_once_per_prompt(
    tmp_path: Path,
    student_dir: Path,
    data: TokenDataset,
    seen: list[TokenBatch],
) -> None:
    """Twelve prompts, twenty-four sequences: twelve responses on disk, the second epoch reads them."""
    settings = config(rollout(student_share=0.0, teacher_share=1.0), "watch")
    trained(tmp_path, settings, student_dir, data)
    (path,) = (tmp_path / "rollout").glob("teacher-*.rank0.jsonl")
    kept = [one for text in path.read_text().splitlines() for one in json.loads(text)["responses"]]
    assert len(kept) == len({one["prompt"] for one in kept}) == 12
    texts: dict[str, set[tuple[int, ...]]] = {}
    for batch in seen:
        for row, document in enumerate(batch.documents):
            texts.setdefault(document, set()).add(tuple(batch.input_ids_BT[row, :11].tolist()))
    assert len(texts) == 12 and all(len(found) == 1 for found in texts.values())


def test_damaged_responses_are_refused(tmp_path: Path) -> None:
    from distill_objectives.rollouts.teacher_responses import Response, TeacherResponses

    responses = TeacherResponses(tmp_path, {"seed": 0})
    responses.add({b"a": Response([1], [-0.5], [-0.25])})
    responses.add({b"b": Response([2], [-0.5], [-0.25])})
    assert TeacherResponses(tmp_path, {"seed": 0}).found == responses.found
    assert TeacherResponses(tmp_path, {"seed": 1}).found == {}
    assert TeacherResponses(tmp_path, {"seed": 0}, rank=1).found == responses.found
    text = responses.path.read_text()
    responses.path.write_text(text[5:])
    with pytest.raises(DataError, match=r"line 1: no responses of a teacher .* delete it"):
        TeacherResponses(tmp_path, {"seed": 0})


# What a user is told ----------------------------------------------------------------------------------------------


def built(student: Any = None, teacher: Any = None, **options: Any) -> Any:
    made = registry().build("rollout", rollout(**options))
    tokenizer = tiny_teacher().tokenizer()
    made.build(
        BuildContext(
            make_tiny_llama() if student is None else student, None, 4, 0, lambda *a: None, tokenizer, teacher=teacher
        )
    )
    return made


def test_a_sequence_without_a_prompt(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    with pytest.raises(DataError, match=r"document d\d+: a sequence without a prompt.*set rollout.prefix_tokens"):
        trained(tmp_path, config(rollout(prefix_tokens=None), "kl"), student_dir, data)


def test_more_tokens_than_the_context(tmp_path: Path, student_dir: Path) -> None:
    with pytest.raises(TrainingError, match=r"max_new_tokens is 256, but the models have a context of 256 tokens"):
        built(max_new_tokens=256)
    long = write_data(tmp_path / "long", lengths=(60, 60))
    with pytest.raises(DataError, match=r"a prompt of 50 tokens and rollout.max_new_tokens 210 do not fit"):
        trained(
            tmp_path / "run",
            config(rollout(max_new_tokens=210, prefix_tokens=50), "kl", batch_sequences=2, accumulation_steps=1),
            student_dir,
            long,
        )


def test_a_teacher_that_cannot_write_token_by_token() -> None:
    with pytest.raises(TrainingError, match=r"with teacher_share asks a teacher, but the training has none"):
        built(student_share=0.5, teacher_share=0.5)

    class Remote:
        def vocabulary(self) -> VocabularyInfo:
            return VocabularyInfo(size=3, fingerprint="other")

    with pytest.raises(SignalError, match=r"Remote holds no model in this process: use a local teacher \(hf\)"):
        built(teacher=Remote(), score=True)
    other = tiny_teacher()
    other.vocabulary = lambda: VocabularyInfo(size=3, fingerprint="other")  # type: ignore[method-assign]
    with pytest.raises(VocabularyError, match=r"their tokenizers differ \(3 and 97 tokens\)"):
        built(teacher=other, teacher_mix=0.2)


def test_objectives_without_a_rollout(tmp_path: Path, student_dir: Path, data: TokenDataset) -> None:
    for name in ("minillm", "distillm-2"):
        with pytest.raises(TrainingError, match=r"the training has no rollout"):
            trained(tmp_path / name, config(None, name), student_dir, data)


def test_minillm_without_the_teachers_log_probabilities(
    tmp_path: Path,
    student_dir: Path,
    data: TokenDataset,
) -> None:
    with pytest.raises(TrainingError, match=r"reads teacher_logp .* set rollout.teacher_mix above 0"):
        trained(tmp_path, config(rollout(), "minillm"), student_dir, data)
    with pytest.raises(TrainingError, match=r"adaptive_alpha reads teacher_logp of every response.*score: true"):
        trained(
            tmp_path / "2",
            config(rollout(pairs=True), {"use": "distillm-2", "adaptive_alpha": True}),
            student_dir,
            data,
        )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"student_share": 0.8, "teacher_share": 0.4}, r"add up to more than 1"),
        ({"teacher_share": 0.4}, r"student_share is 1 by default"),
        ({"pairs": True, "student_share": 0.5}, r"pairs has both write for every prompt"),
        (
            {"max_new_tokens": 8, "length_curriculum": {"start_tokens": 9, "max_entropy": 1.0}},
            r"above max_new_tokens 8",
        ),
        ({"top_p": 0.0}, r"greater than 0"),
        ({"student_share": 1.5}, r"less than or equal to 1"),
    ],
)
def test_options_that_contradict_each_other(options: dict[str, Any], message: str) -> None:
    from pydantic import ValidationError

    from distill_objectives.rollouts.options import OnPolicyOptions

    with pytest.raises(ValidationError, match=message):
        OnPolicyOptions(**options)
