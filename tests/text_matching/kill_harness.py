"""Runs a synthesizer that kills its process after some steps.

`python -m ... NAME KIND TOKENIZER DIRECTORY STEPS OPTIONS`
"""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from tests.text_matching.conftest import context, make, text_records, tokenizer_of

STEP = {"gradient-matching-text": "_round", "generator-matching": "_step"}


def main(name: str, kind: str, tokenizer: str, directory: str, steps: str, options: str) -> None:
    """STEPS < 0: nobody is killed. Prints the records."""
    made, left = make(name, context(tokenizer_of(tokenizer), kind), **json.loads(options)), [int(steps)]
    step = getattr(made, STEP[name])

    def fatal(*arguments):
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return step(*arguments)

    setattr(made, STEP[name], fatal)
    for record in made.synthesize(iter(text_records()), Path(directory)):
        print(json.dumps(record))


if __name__ == "__main__":
    main(*sys.argv[1:])
