"""Runs a synthesizer that kills its process after some steps: `python -m ... NAME DIRECTORY STEPS OPTIONS`."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path

from tests.matching.conftest import image_records, make


def main(name: str, directory: str, steps: str, options: str) -> None:
    """STEPS < 0: nobody is killed. Prints the records."""
    made, left = make(name, **json.loads(options)), [int(steps)]
    step = made.gradients

    def fatal(*arguments):
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        left[0] -= 1
        return step(*arguments)

    made.gradients = fatal
    for record in made.synthesize(image_records(), Path(directory)):
        print(json.dumps(record))


if __name__ == "__main__":
    main(*sys.argv[1:])
