"""Evaluating model directories on text files, without a run file: what ``distill evaluate --teacher ... --text`` does.

Everything is written below one directory: ``data/eval`` (the tokenised text), ``evaluate`` (results) and
``evaluate/manifest.json``; the report reads them as it reads a run.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from distill_core.engine.manifest import (
    Manifest,
    environment,
    file_sha256,
    fingerprint,
    list_outputs,
    now,
    output_digest,
)
from distill_core.errors import DataError, DistillError, VocabularyError

if TYPE_CHECKING:
    from distill_core.config import EvaluateConfig
    from distill_core.engine.data import TokenDataset
    from distill_core.engine.progress import Progress
    from distill_core.registry import Registry

Documents = Literal["file", "paragraph", "line"]
"""What counts as one document of a plain text file."""


@dataclass(frozen=True)
class Cut:
    """How texts become sequences; see ``data`` in the run file."""

    sequence_length_tokens: int = 256
    min_sequence_tokens: int = 16
    overlong: Literal["cut", "error"] = "cut"
    add_bos: bool = False


def evaluate_directories(
    *,
    teacher: Path | None,
    student: Path,
    baselines: Mapping[str, Path],
    texts: Sequence[Path],
    directory: Path,
    config: EvaluateConfig,
    registry: Registry,
    progress: Progress,
    documents: Documents = "file",
    cut: Cut | None = None,
    limit_sequences: int | None = None,
    prompts: Sequence[str] = (),
) -> dict[str, Any]:
    """Measure a student, its teacher and baselines on text files; returns the results.

    Args:
        teacher: model directory, or None where there is none.
        student: model directory.
        baselines: further model directories by name.
        texts: ``.jsonl`` files (a record a line), text files, or directories of them.
        directory: where data, results and manifest go.
        config: evaluators, batch size, confidence.
        registry: builds evaluators.
        progress: shows progress and messages.
        documents: what is one document of a plain text file.
        cut: how texts become sequences; default: up to 256 tokens.
        limit_sequences: use the first so many sequences.
        prompts: prompts for greedy sample continuations.

    Raises:
        DistillError: a directory is no model.
        DataError: a text file is missing, empty or unreadable.
        VocabularyError: the tokenizers differ.
    """
    models = ({} if teacher is None else {"teacher": teacher}) | {"student": student} | dict(baselines)
    for name, path in models.items():
        check_model_directory(name, path)
    files = text_files(texts)
    tokenizer = common_tokenizer(models)
    cut = cut or Cut()
    started, began = now(), time.monotonic()
    data = _prepare(files, documents, tokenizer, cut, limit_sequences, directory / "data" / "eval", progress)
    from distill_core.engine.evaluation import EvaluationTarget
    from distill_core.engine.evaluation import evaluate as evaluate_models

    results = evaluate_models(
        {
            name: EvaluationTarget(source=str(path), is_teacher=name == "teacher" and teacher is not None)
            for name, path in models.items()
        },
        data=data,
        config=config,
        registry=registry,
        progress=progress,
        directory=directory / "evaluate",
        prompts=prompts,
    )
    parts: dict[str, Any] = {f"model {name}": str(path) for name, path in models.items()}
    parts |= {f"text {path}": file_sha256(path) for path in files}
    parts |= {"documents": documents, "sequence_length_tokens": cut.sequence_length_tokens}
    manifest = Manifest("evaluate", "finished", fingerprint(parts), parts, environment=environment(), started=started)
    manifest.notes = {"models": list(models), "tokenizer": results["settings"]["vocabulary"]}
    manifest.outputs = list_outputs(directory / "evaluate")
    manifest.output_digest = output_digest(manifest.outputs)
    manifest.seconds, manifest.finished = time.monotonic() - began, now()
    manifest.write(directory / "evaluate")
    return results


def check_model_directory(name: str, path: Path) -> None:
    """
    Raises:
        DistillError: the path is no directory that ``save_pretrained`` wrote.
    """
    if not path.is_dir():
        raise DistillError(
            f"--{_option(name)} {path}: {'this is a file' if path.exists() else 'there is nothing there'}; expected a "
            "model directory that `save_pretrained` wrote (config.json, weights, tokenizer)"
        )
    if not (path / "config.json").is_file():
        inside = sorted(entry.name for entry in path.iterdir())[:5]
        hint = f"; did you mean {path / 'model'}?" if (path / "model" / "config.json").is_file() else ""
        raise DistillError(
            f"--{_option(name)} {path}: no config.json there (it holds {', '.join(inside) or 'nothing'}); expected a "
            f"model directory that `save_pretrained` wrote{hint}"
        )


def _option(name: str) -> str:
    return name if name in ("teacher", "student") else f"baseline {name}"


def common_tokenizer(models: Mapping[str, Path]) -> Any:
    """The tokenizer that all models share.

    Raises:
        DistillError: a directory brings no tokenizer that can be loaded.
        VocabularyError: two tokenizers differ.
    """
    from transformers import AutoTokenizer

    from distill_core.store.tokenizer import vocabulary_info

    found: dict[str, Any] = {}
    for name, path in models.items():
        try:
            found[name] = AutoTokenizer.from_pretrained(path)
        except (OSError, ValueError, KeyError) as error:
            raise DistillError(
                f"--{_option(name)} {path}: its tokenizer cannot be loaded ({str(error).splitlines()[0]}); save it "
                "beside the model: tokenizer.save_pretrained(DIRECTORY)"
            ) from error
    infos = {name: vocabulary_info(tokenizer) for name, tokenizer in found.items()}
    first, *others = infos.items()
    for name, info in others:
        if info.fingerprint != first[1].fingerprint:
            vocabularies = [found[one].get_vocab() for one in (first[0], name)]
            shuffled = vocabularies[0] != vocabularies[1] and vocabularies[0].keys() == vocabularies[1].keys()
            hint = " (the same tokens under other ids: one is not what its model learned with)" if shuffled else ""
            raise VocabularyError(
                f"{first[0]} ({models[first[0]]}: {first[1].size:,} tokens, {first[1].fingerprint}) and {name} "
                f"({models[name]}: {info.size:,} tokens, {info.fingerprint}) have different tokenizers{hint}: the "
                "text is tokenised once for all, so figures per token would not be of the same tokens. Evaluate models "
                "of one tokenizer together; across tokenizers, evaluate each alone and compare bits_per_byte with "
                "`distill compare`"
            )
    return found[first[0]]


def text_files(texts: Sequence[Path]) -> list[Path]:
    """The files named, those of directories included, each once.

    Raises:
        DataError: none is given, one is missing, or a directory holds none.
    """
    files: list[Path] = []
    for path in texts:
        if path.is_dir():
            inside = sorted(entry for entry in path.iterdir() if entry.suffix in (".jsonl", ".txt", ".md"))
            if not inside:
                raise DataError(f"--text {path}: the directory holds no .jsonl, .txt or .md file")
            files += inside
        elif path.is_file():
            files.append(path)
        else:
            raise DataError(f"--text {path}: there is no such file; expected a .jsonl or text file, or a directory")
    if not files:
        raise DataError("no text was given: name held-out files with --text FILE")
    return list(dict.fromkeys(files))


def read_records(files: Sequence[Path], documents: Documents) -> Iterator[tuple[str, dict[str, Any]]]:
    """(document, record) of each file in order; a record of JSON lines may name its ``document``.

    Raises:
        DataError: no UTF-8, no JSON, no object, or a file with nothing in it.
    """
    names = [path.name for path in files]
    for path in files:
        label = path.name if names.count(path.name) == 1 else str(path)
        count = 0
        for number, record in _jsonl(path) if path.suffix == ".jsonl" else _plain(path, documents):
            count += 1
            whole = path.suffix != ".jsonl" and documents == "file"
            yield str(record.get("document", label if whole else f"{label}:{number}")), record
        if not count:
            raise DataError(f"--text {path}: the file is empty: nothing can be measured on it")


def _text(path: Path) -> str:
    content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise DataError(
            f"--text {path}: byte {content[error.start]:#04x} at offset {error.start} is no UTF-8"
        ) from None
    return text.replace("\r\n", "\n")


def _plain(path: Path, documents: Documents) -> Iterator[tuple[int, dict[str, Any]]]:
    text = _text(path)
    separator = {"file": None, "paragraph": "\n\n", "line": "\n"}[documents]
    parts = [text] if separator is None else text.split(separator)
    for number, part in enumerate(parts, 1):
        if part.strip():
            yield number, {"text": part}


def _jsonl(path: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    for number, line in enumerate(_text(path).split("\n"), 1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except ValueError as error:
            raise DataError(f"--text {path}, line {number}: no JSON ({error}); expected an object a line") from None
        if not isinstance(record, dict):
            raise DataError(f"--text {path}, line {number}: a {type(record).__name__}, expected an object a line")
        yield number, record


def _prepare(
    files: Sequence[Path],
    documents: Documents,
    tokenizer: Any,
    cut: Cut,
    limit_sequences: int | None,
    directory: Path,
    progress: Progress,
) -> TokenDataset:
    from distill_core.engine.data import TokenDataset
    from distill_core.engine.prepare import DataCounts, write_sequences
    from distill_core.engine.records import FORMS, cut_record

    counts = DataCounts()

    def counted() -> Iterator[tuple[str, Mapping[str, Any]]]:
        for document, record in read_records(files, documents):
            counts.records_in += 1
            yield document, record

    write_sequences(
        "eval",
        counted(),
        counts,
        lambda record, document: cut_record(record, tokenizer=tokenizer, data=cut, document=document),
        directory,
        progress=progress,
        limits=(limit_sequences, None),
        nothing_left=lambda: f"--text: no sequence left ({counts.sentence()}); a record needs {FORMS}",
    )
    progress.say(f"text: {counts.sequences} sequences, {counts.tokens} tokens of {len(counts.documents)} documents")
    return TokenDataset.open(directory)
