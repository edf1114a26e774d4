"""Write the SentencePiece tokenizer (32,000 tokens) that recipes/cross-tokenizer.yaml gives its student.

    pip install --no-deps mistral-common==1.13.1
    pip install sentencepiece
    python recipes/sentencepiece_tokenizer.py

The model file lies in the Python package `mistral-common` (Apache-2.0); Transformers converts it, once, to a directory
that every later run reads without either package.
"""

from __future__ import annotations

import argparse
import importlib.util
import shutil
import sys
import tempfile
from pathlib import Path

PACKAGE, FILE = "mistral_common", "data/tokenizer.model.v1"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("runs/sentencepiece-32k"), help="directory to write")
    out: Path = parser.parse_args().out
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        sys.exit("mistral-common is not installed: pip install --no-deps mistral-common==1.13.1")
    from transformers import LlamaTokenizerFast

    with tempfile.TemporaryDirectory() as directory:
        shutil.copy(Path(found.origin).parent / FILE, Path(directory) / "tokenizer.model")
        tokenizer = LlamaTokenizerFast.from_pretrained(directory)
    tokenizer.save_pretrained(out)
    print(f"{out}: {len(tokenizer):,} tokens")


if __name__ == "__main__":
    main()
