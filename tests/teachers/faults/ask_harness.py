"""Asks a server 1,000 questions and writes down the answers: run by the fault tests in a process that gets killed.

python -m tests.teachers.faults.ask_harness URL CACHE_DIRECTORY ANSWERS_FILE N MAX_TOKENS
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from distill_core.completions import GenerationParameters, GenerationRequest
from distill_teachers.openai import OpenAITeacher
from distill_teachers.openai_options import OpenAIOptions

KEY_NAME = "FAULT_TEST_KEY"
NEW_TOKENS = 20


def options(url: str, cache: str, max_tokens: int | None) -> OpenAIOptions:
    return OpenAIOptions(
        model="fake",
        base_url=url,
        api_key_env=KEY_NAME,
        cache_dir=cache,
        concurrency=16,
        timeout_s=0.6,
        backoff_s=0.005,
        max_wait_s=2.0,
        attempts=40,
        template_tokens=0,
        max_tokens=max_tokens,
    )


def requests(n: int) -> list[GenerationRequest]:
    return [GenerationRequest(f"q{i}", prompt=f"question number {i} of the test") for i in range(n)]


def main(url: str, cache: str, answers: str, n: str, max_tokens: str) -> None:
    teacher = OpenAITeacher(options(url, cache, int(max_tokens) or None))
    with Path(answers).open("w", encoding="utf-8") as file:
        for answer in teacher.generate(requests(int(n)), GenerationParameters(max_new_tokens=NEW_TOKENS)):
            file.write(json.dumps({"id": answer.id, "text": answer.text, "cached": answer.cached}) + "\n")
            file.flush()
    teacher.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
