"""The synthesizer ``sequence-kd``: the student learns from what the teacher would have answered."""

from __future__ import annotations

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from distill_core.completions import GenerationParameters, GenerationRequest
from distill_core.errors import DataError, SignalError
from distill_core.files import append_line
from distill_core.interfaces import SynthesisContext
from distill_synthesis.sequence_kd_options import SequenceKDOptions

COMPLETIONS_FILE = "completions.jsonl"

PROMPT_FIELDS = ("text", "prompt", "completion", "messages", "parts")
"""Fields of a record that are replaced; all others are kept."""


@dataclass(frozen=True)
class Written:
    """A completion as it is kept."""

    text: str
    finish_reason: str


class SequenceKD:
    """Sequence-level distillation (Kim & Rush 2016, arXiv 1606.07947): hard labels from the teacher's own output.

    Every record's prompt is completed by the teacher, and the completion takes the place of the record's answer. A
    record may have ``prompt`` (its ``completion`` is not looked at), ``messages`` (the last turn, if it is the
    assistant's, is written anew), or ``text`` with ``prefix_words``.

    Completions are kept in shards as they come; a run that was killed goes on behind the last whole shard, and what it
    makes is what an uninterrupted run would have made. Each record says where it comes from (``provenance``).

    Args:
        options: how to write, and what becomes of completions that were cut.
    """

    def __init__(self, options: SequenceKDOptions) -> None:
        self.options = options
        self.counts: Counter[str] = Counter()
        self.teacher: Any = None

    def build(self, ctx: SynthesisContext) -> None:
        """
        Raises:
            SignalError: the teacher cannot write.
        """
        self.teacher = ctx.teacher(self.options.teacher)
        if not callable(getattr(self.teacher, "generate", None)):
            raise SignalError(
                f"sequence-kd asks a teacher for text, but {type(self.teacher).__name__} does not write (it has no "
                "generate()): use hf, openai, vllm or answers"
            )
        self.identity = str(self.teacher.identity())
        self.parameters = GenerationParameters(
            max_new_tokens=self.options.max_new_tokens,
            temperature=self.options.temperature,
            top_p=self.options.top_p,
            stop=tuple(self.options.stop),
            seed=ctx.seed,
        )

    def synthesize(self, source: Iterable[Mapping[str, Any]], directory: Path) -> Iterator[dict[str, Any]]:
        """Records with the teacher's completions, in the order of the source.

        Raises:
            DataError: a record without a prompt, or a damaged file of completions.
        """
        if self.teacher is None:
            raise RuntimeError("sequence-kd asks a teacher: call build(ctx) first")
        directory.mkdir(parents=True, exist_ok=True)
        kept = Completions(directory / COMPLETIONS_FILE)
        asked = self._asked(source)
        while shard := list(islice(asked, self.options.shard_prompts)):
            yield from self._shard(shard, kept)

    def summary(self) -> dict[str, Any]:
        """What was written and what was dropped."""
        return {"sequence-kd": {"teacher": self.identity, **dict(sorted(self.counts.items()))}}

    def _asked(self, source: Iterable[Mapping[str, Any]]) -> Iterator[tuple[Mapping[str, Any], GenerationRequest]]:
        for index, record in enumerate(source):
            prompt = self._prompt(record, str(record.get("document", f"record {index}")))
            for sample in range(self.options.samples):
                yield record, GenerationRequest(f"{index}#{sample}", **prompt)

    def _prompt(self, record: Mapping[str, Any], document: str) -> dict[str, Any]:
        messages = record.get("messages")
        if isinstance(messages, list) and messages:
            turns = messages[:-1] if messages[-1].get("role") == "assistant" else messages
            if turns:
                return {"messages": tuple(turns)}
        if isinstance(record.get("prompt"), str) and record["prompt"]:
            return {"prompt": record["prompt"]}
        if isinstance(record.get("text"), str) and self.options.prefix_words is not None:
            text = first_words(record["text"], self.options.prefix_words)
            if text:
                return {"prompt": text}
        hint = "; for plain text set prefix_words" if "text" in record else ""
        raise DataError(
            f"document {document}: no prompt for the teacher to complete; expected `prompt` or `messages` with a turn "
            f"before the assistant's, received the fields {sorted(record)}{hint}"
        )

    def _shard(
        self, shard: list[tuple[Mapping[str, Any], GenerationRequest]], kept: Completions
    ) -> Iterator[dict[str, Any]]:
        key = self._key([request for _, request in shard])
        written = kept.found.get(key)
        if written is None:
            answers = self.teacher.generate([request for _, request in shard], self.parameters)
            written = [Written(answer.text, answer.finish_reason) for answer in answers]
            if len(written) != len(shard):
                raise SignalError(f"the teacher {self.identity} gave {len(written)} answers to {len(shard)} requests")
            kept.add(key, written)
        for (record, request), completion in zip(shard, written, strict=True):
            made = self._record(record, request, completion)
            if made is not None:
                yield made

    def _key(self, requests: list[GenerationRequest]) -> str:
        """What a shard of completions depends on."""
        asked = [[request.id, request.prompt, [dict(turn) for turn in request.messages]] for request in requests]
        text = json.dumps([self.identity, vars(self.parameters), asked], sort_keys=True, ensure_ascii=False)
        return hashlib.sha256(text.encode()).hexdigest()

    def _record(
        self, record: Mapping[str, Any], request: GenerationRequest, completion: Written
    ) -> dict[str, Any] | None:
        """The new record; None if it is dropped, which is counted."""
        cut = completion.finish_reason == "length"
        if not completion.text:
            self.counts["dropped: empty"] += 1
            return None
        if cut and (self.options.unfinished == "drop" or request.messages):
            self.counts["dropped: cut"] += 1  # an answer in a conversation always ends with the template's end of turn
            return None
        self.counts["kept, cut" if cut else "kept"] += 1
        made = {name: value for name, value in record.items() if name not in PROMPT_FIELDS}
        if request.messages:
            made["messages"] = [*map(dict, request.messages), {"role": "assistant", "content": completion.text}]
        elif cut:  # the last part is not predicted, so no end token is put behind the completion
            made["parts"] = [
                {"text": request.prompt, "predict": False},
                {"text": completion.text, "predict": True},
                {"text": "", "predict": False},
            ]
        else:
            made["prompt"], made["completion"] = request.prompt, completion.text
        made["provenance"] = {
            "synthesizer": "sequence-kd",
            "teacher": self.identity,
            "request": request.id,
            "finish_reason": completion.finish_reason,
            **{name: value for name, value in vars(self.parameters).items() if name not in ("top_logprobs", "stop")},
            "stop": list(self.parameters.stop),
        }
        return made


class Completions:
    """Shards of completions on disk, by key; a line that an interruption tore is dropped.

    Raises:
        DataError: the file is damaged before its end.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp()) / "completions.jsonl"
    >>> Completions(path).add("key", [Written("Paris", "stop")])
    >>> Completions(path).found["key"]
    [Written(text='Paris', finish_reason='stop')]
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.found: dict[str, list[Written]] = {}
        if not path.exists():
            return
        content = path.read_bytes()
        whole = content.rfind(b"\n") + 1
        for number, line in enumerate(content[:whole].splitlines(), start=1):
            try:
                shard = json.loads(line)
                self.found[shard["key"]] = [Written(**one) for one in shard["completions"]]
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(
                    f"{path}, line {number}: no completions ({type(error).__name__}): the file is damaged; delete it, "
                    "and the teacher writes them again"
                ) from error
        if whole < len(content):
            os.truncate(path, whole)

    def add(self, key: str, completions: list[Written]) -> None:
        """Keep a shard; it is on disk when this returns."""
        self.found[key] = completions
        entry = {"key": key, "completions": [vars(one) for one in completions]}
        append_line(self.path, json.dumps(entry, ensure_ascii=False))


def first_words(text: str, count: int) -> str:
    """The first words of a text, spaces between them as they are.

    >>> first_words("  The state  of the union", 3)
    'The state  of'
    """
    stripped = text.strip()
    end = 0
    for word in islice(stripped.split(), count):
        end = stripped.index(word, end) + len(word)
    return stripped[:end]
