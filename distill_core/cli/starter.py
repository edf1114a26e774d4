"""The run file and the example data that ``distill init`` writes."""

from __future__ import annotations

import json
import re
from pathlib import Path

from distill_core.engine.run_file.models_on_disk import local_config

EXAMPLES = {
    "train.jsonl": [
        {"text": "The library opens at nine. It closes at six, except on Thursdays, when it closes at eight."},
        {"text": "Bread needs four things: flour, water, salt and time. Of these, time is the one most often missing."},
        {"text": "A river that bends is slower on the inside of the bend, and there it lays down its sand."},
        {"text": "To measure a room, measure each wall twice. If the two figures differ, measure a third time."},
    ],
    "eval.jsonl": [
        {"text": "The museum opens at ten. On the first Sunday of the month nothing is charged at the door."},
        {"text": "Soup wants patience. Keep the lid on, the flame low, and taste it before you add salt."},
    ],
}
"""File name -> rows."""

TEMPLATE = """\
# A run: a teacher, data, a student; what is captured, how it is trained, how it is judged.
#   distill validate {file}      checks everything that can be checked without running
#   distill run {file}           runs what is not finished yet; run it again to resume
#   distill plugins list         shows what may stand behind every `use:`
# Any value can be changed from the command line: --set train.learning_rate=3e-4

version: 1
name: {name}
seed: 0                          # of data order, sampling and random weights
output_dir: {output_dir}         # everything is written below, relative to the present directory

teacher:
  use: hf                        # a Transformers causal language model
  model: {teacher}               # hub id or directory

data:
  train:
    source:
      use: jsonl                 # also: text-files, hf-dataset
      path: {train}
      text: text                 # name of the field; or prompt: ... and completion: ...
    filters:
      - use: exact-dedup
  eval:                          # held out: never trained on
    source: {{use: jsonl, path: {eval}}}
  sequence_length_tokens: 256    # longer documents are cut into several sequences
  min_sequence_tokens: 16        # shorter remainders are dropped

student:
  init:
    from_teacher:
      layers: {layers} # teacher layers to keep, from 0; or instead of from_teacher:
    # model: org/name            #   a model to start from
    # config: {{model_type: llama, ...}}   # or random weights of an architecture
  dtype: auto

capture:                         # teacher signals, computed once and stored
  method: threshold              # 12 sampled entries per token, unbiased; topk: the k largest and the exact tail
  k: 12
  temperatures: [1.0]

train:
  teacher: store                 # live: ask the teacher in every step instead; none: hard labels alone
  objectives:
    - use: forward-kl
      weight: 1.0
  max_steps: 100
  batch_sequences: 8
  learning_rate: 3.0e-4
  lr_schedule: cosine
  warmup_steps: 10

compare:                         # further students, equal but for what is named
  hard-labels:
    teacher: none
    objectives:
      - use: cross-entropy

evaluate:
  evaluators:
    - use: language-model        # cross-entropy, perplexity, bits per byte
    - use: fidelity              # KL to the teacher, agreement
    - use: calibration           # is its confidence deserved?

report:
  title: null                    # default: the name of the run
  prompts: ["The most important thing about"]
  max_new_tokens: 40
"""


def starter_text(*, name: str, teacher: str, data: Path) -> str:
    """The text of a commented run file."""
    plain = re.sub(r"[^A-Za-z0-9._-]", "-", name).lstrip("._-") or "run"
    return TEMPLATE.format(
        file=f"{name}.yaml",
        name=_scalar(plain),
        output_dir=_scalar(f"runs/{plain}"),
        teacher=_scalar(teacher),
        layers=_spread((local_config(teacher) or {}).get("num_hidden_layers")),
        train=_scalar(str(data / "train.jsonl")),
        eval=_scalar(str(data / "eval.jsonl")),
    )


def _spread(depth: object) -> list[int]:
    """Up to five layers spread over a teacher; of 30 layers where its depth is not known."""
    last = (depth if isinstance(depth, int) and depth > 0 else 30) - 1
    return sorted({round(last * step / 4) for step in range(5)})


def _scalar(text: str) -> str:
    """A YAML scalar; quoted (JSON is YAML) unless it is plain beyond doubt."""
    return (
        text if re.fullmatch(r"[A-Za-z./][A-Za-z0-9._/-]*", text) and text.lower() not in _WORDS else json.dumps(text)
    )


_WORDS = {"yes", "no", "on", "off", "true", "false", "null", "y", "n"}
