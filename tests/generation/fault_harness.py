"""Runs `evol-instruct` over a server, each time in a process of its own that gets killed: python -m ... CACHE

Reads lines `URL DIRECTORY RECORDS_FILE TOKENS` from its standard input (TOKENS: budget, 0: none). For each it forks a
process, prints its id, and when it has ended its status. The records are written one a line, then the summary.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

from distill_core.registry import get_registry
from distill_synthesis.generation.evol_instruct import EvolInstruct
from distill_teachers.openai import OpenAITeacher
from tests.generation.scribe import context
from tests.teachers.faults import ask_harness

N = 80
SOURCE = [{"prompt": f"Question number {n} of the test.", "document": f"q{n}"} for n in range(N)]
OPTIONS = {
    "generations": 2,
    "max_new_tokens": 20,
    "answer": {"max_new_tokens": 20},
    "window": 16,
    "filters": [{"use": "exact-dedup"}],
}


def synthesize(url: str, cache: str, directory: Path, records: Path, tokens: int) -> None:
    teacher = OpenAITeacher(ask_harness.options(url, cache, None))
    synthesizer = get_registry().build(
        "synthesizer", {"use": "evol-instruct", **OPTIONS, **({"budget": {"tokens": tokens}} if tokens else {})}
    )
    assert isinstance(synthesizer, EvolInstruct)
    synthesizer.build(context(teacher))
    with records.open("w", encoding="utf-8") as file:
        for record in synthesizer.synthesize(iter(SOURCE), directory):
            file.write(json.dumps(record) + "\n")
            file.flush()
        file.write(json.dumps(synthesizer.summary()) + "\n")
    teacher.close()


def main(cache: str) -> None:
    for line in sys.stdin:
        url, directory, records, tokens = line.split()
        child = os.fork()
        if not child:
            try:
                synthesize(url, cache, Path(directory), Path(records), int(tokens))
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        print(child, flush=True)
        print(os.waitpid(child, 0)[1], flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
