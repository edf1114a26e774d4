"""Runs `sequence-kd` with a teacher that kills the process in the middle of a shard: `python -m ... DIRECTORY SHARD`.

Prints the records as JSON lines and, at the end, the ids that were asked. SHARD < 0: nobody is killed.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from distill_core.completions import Completion, GenerationParameters, GenerationRequest
from distill_core.interfaces import SynthesisContext
from distill_synthesis.sequence_kd import SequenceKD
from distill_synthesis.sequence_kd_options import SequenceKDOptions

RECORDS = [{"prompt": f"Question {n}?", "document": f"d{n}", "level": n % 3} for n in range(10)]


class Teacher:
    """Answers with what it was asked; the process dies half through shard number ``fatal``."""

    def __init__(self, fatal: int = -1) -> None:
        self.fatal, self.shards, self.asked = fatal, 0, list[str]()

    def identity(self) -> str:
        return "echo@1"

    def generate(self, requests: Iterable[GenerationRequest], parameters: GenerationParameters) -> Iterator[Completion]:
        given = list(requests)
        for position, request in enumerate(given):
            if self.shards == self.fatal and position == len(given) // 2:
                os.kill(os.getpid(), signal.SIGKILL)
            self.asked.append(request.id)
            yield Completion(request.id, f" Answer to {request.prompt} (of {len(given)})")
        self.shards += 1


def context(teacher: Any, seed: int = 0) -> SynthesisContext:
    return SynthesisContext(
        seed=seed, build=lambda kind, ref: None, teacher=lambda name: teacher, tokenizer=lambda: None, say=print
    )


def main(directory: str, fatal: str) -> None:
    teacher = Teacher(int(fatal))
    synthesizer = SequenceKD(SequenceKDOptions(shard_prompts=3))
    synthesizer.build(context(teacher))
    for record in synthesizer.synthesize(iter(RECORDS), Path(directory)):
        print(json.dumps(record))
    print(json.dumps(teacher.asked))


if __name__ == "__main__":
    main(*sys.argv[1:])
