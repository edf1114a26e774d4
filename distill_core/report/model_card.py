"""The model card of an exported student: ``README.md`` with Hugging Face metadata, made from ``report.json``'s content.

It says what the model is, what it was made of, how it compares with its teacher and its baselines, and what the figures
do not show. It is written beside the weights by the report, after the evaluation.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill_core.files import write_text
from distill_core.report.collect import CollectedRun
from distill_core.report.summary import metric_rows
from distill_core.report.text import MISSING, difference, figure, number, short, unit_and_direction, visible

CARD = "README.md"

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
"""Form of an id on the Hugging Face hub; anything else is no ``base_model`` there."""

PIPELINES = {
    "ForCausalLM": "text-generation",
    "ForSequenceClassification": "text-classification",
    "ForTokenClassification": "token-classification",
    "ForImageClassification": "image-classification",
    "ForMaskedLM": "fill-mask",
}
"""End of an architecture's name -> ``pipeline_tag``."""


def write_model_cards(run: CollectedRun, content: Mapping[str, Any]) -> list[Path]:
    """Write ``README.md`` into every exported student of a run; returns their paths.

    Args:
        run: what the run directory holds.
        content: of its ``report.json``.
    """
    written = []
    for name in run.trainings_in_order:
        directory = run.directory / "train" / name / "model"
        if (directory / "config.json").is_file():
            write_text(directory / CARD, model_card(content, name, directory))
            written.append(directory / CARD)
    return written


def model_card(content: Mapping[str, Any], name: str, directory: Path) -> str:
    """The card of one student as text.

    Args:
        content: of ``report.json``.
        name: of the training, ``student`` or a baseline.
        directory: the exported model, whose ``config.json`` says its architecture.
    """
    from huggingface_hub import ModelCardData

    config = json.loads((directory / "config.json").read_text(encoding="utf-8"))
    architecture = next(iter(config.get("architectures") or []), "")
    pipeline = next((tag for end, tag in PIPELINES.items() if architecture.endswith(end)), None)
    title = f"{content['name']}, {name}"
    bases, license_name = _bases(content)
    data = ModelCardData(
        base_model=bases or None,
        library_name="transformers",
        license=license_name,
        pipeline_tag=pipeline,
        tags=["distillation", "knowledge-distillation", "distill-core"],
        model_name=_line(title),
        eval_results=_eval_results(content, name, pipeline or "other") or None,
    )
    parts = [
        f"---\n{data.to_yaml()}\n---",
        f"# {_line(title)}",
        _introduction(content, name, architecture, bases, license_name),
        *_verdict(content, name),
        *_results(content, name),
        *_training(content, name),
        *_data(content),
        _use(architecture),
        _limits(content),
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


def _line(text: str) -> str:
    """Foreign text on one line of Markdown, no markup of its own left."""
    shown = visible(str(text), limit=300).replace("\n", " ")
    return re.sub(r"([\\`*_\[\]|#])", r"\\\1", shown).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _bases(content: Mapping[str, Any]) -> tuple[list[str], str | None]:
    """Hub ids that the student comes from, and the licence that their cards name, if one does."""
    config = content.get("config") or {}
    named = [config.get("teacher") or {}, *(config.get("teachers") or {}).values()]
    sources = [str(teacher["model"]) for teacher in named if teacher.get("model")]
    init = (config.get("student") or {}).get("init") or {}
    sources += [str(init["model"])] if init.get("model") else []
    licences = {found for source in sources if (found := _licence(Path(source).expanduser()))}
    hub = [source for source in dict.fromkeys(sources) if HUB_ID.fullmatch(source) and not Path(source).exists()]
    return hub, next(iter(licences)) if len(licences) == 1 else None


def _licence(directory: Path) -> str | None:
    """``license`` in the front matter of a model card beside a local model."""
    import yaml

    card = directory / CARD
    if not card.is_file():
        return None
    text = card.read_text(encoding="utf-8", errors="replace")
    match = re.match(r"---\n(.*?)\n---", text, re.DOTALL)
    try:
        data = yaml.safe_load(match[1]) if match else None
    except yaml.YAMLError:
        return None
    found = data.get("license") if isinstance(data, dict) else None
    return found if isinstance(found, str) else None


def _eval_results(content: Mapping[str, Any], name: str, task: str) -> list[Any]:
    from huggingface_hub import EvalResult

    results = content.get("results")
    if results is None or name not in results["models"]:
        return []
    data = results["data"]
    dataset = f"held-out set of {data['documents']} documents, {data['rows']} rows"
    return [
        EvalResult(
            task_type=task,
            dataset_type="held-out",
            dataset_name=dataset,
            dataset_split="eval",
            metric_type=metric,
            metric_value=number(entry["value"]),
            metric_name=f"{entry['label']} ({entry['unit']})" if entry["unit"] else entry["label"],
        )
        for metric, entry in results["models"][name]["metrics"].items()
        if math.isfinite(number(entry["value"]))
    ]


def _introduction(
    content: Mapping[str, Any], name: str, architecture: str, bases: Sequence[str], license_name: str | None
) -> str:
    models = (content.get("results") or {}).get("models", {})
    size = f" with {short(models[name]['parameters'])} parameters" if name in models else ""
    teacher = next((model for model in models.values() if model["role"] == "teacher"), None)
    of = f" distilled from {', '.join(f'`{base}`' for base in bases)}" if bases else ""
    if not bases and teacher is not None:
        of = f" distilled from a teacher with {short(teacher['parameters'])} parameters"
    kind = f"`{architecture}`" if architecture else "model"
    licence = (
        "" if license_name else " Its licence is not recorded: it follows from those of its teacher and of its data."
    )
    return f"A {kind}{size},{of or ' a trained student'}, made with distill-core.{licence}"


def _verdict(content: Mapping[str, Any], name: str) -> Iterator[str]:
    if name == "student":
        headline = content["headline"]
        yield f"**{_line(headline['title'])}** " + " ".join(_line(sentence) for sentence in headline["sentences"])
    flags = content.get("flags", [])
    if flags:
        yield "\n".join(f"- **{flag['severity']}**: {_line(flag['reason'])}" for flag in flags)


def _results(content: Mapping[str, Any], name: str) -> Iterator[str]:
    results = content.get("results")
    if results is None or name not in results["models"]:
        yield "## Results\n\nNot evaluated yet."
        return
    models = list(results["models"])
    lines = ["| metric | " + " | ".join(_line(model) for model in models) + " |", "|---|" + "---:|" * len(models)]
    for metric, described in metric_rows(results).items():
        meant = f" ({meaning})" if (meaning := unit_and_direction(described)) else ""
        cells = []
        for model in models:
            entry = results["models"][model]["metrics"].get(metric)
            shown = figure(entry) if entry else None
            cells.append(f"{shown['value']} {shown['error']}".strip() if shown else MISSING)
        lines.append(f"| {_line(described['label'])}{meant} | " + " | ".join(cells) + " |")
    yield "## Results\n\n" + "\n".join(lines)
    data = results["data"]
    yield (
        f"On {data['rows']:,} held-out rows of {data['documents']:,} documents; \u00b1 is one standard error, "
        "clustered by document."
    )
    compared = [c for c in results["comparisons"] if c["model"] == name]
    if compared:
        rows = []
        for c in compared:
            metric = results["models"][name]["metrics"][c["metric"]]
            shown = difference(c, metric["unit"])
            parts = [
                part for part in (shown["value"], shown["interval"] and f"({shown['interval']})", shown["p"]) if part
            ]
            rows.append(f"- {_line(metric['label'])} against {_line(c['baseline'])}: {c['verdict']}, {' '.join(parts)}")
        yield "Paired differences:\n\n" + "\n".join(rows)


def _training(content: Mapping[str, Any], name: str) -> Iterator[str]:
    lines = content.get("trainings", {}).get(name) or []
    config = content.get("config") or {}
    training = {**(config.get("train") or {}), **((config.get("compare") or {}).get(name) or {})}
    said = []
    objectives = [str(one.get("use")) for one in training.get("objectives") or [] if isinstance(one, Mapping)]
    if objectives:
        said.append(f"Objectives: {', '.join(f'`{_line(one)}`' for one in objectives)}.")
    if lines:
        tokens = math.fsum(number(line.get("tokens", 0)) for line in lines)
        said.append(f"{lines[-1]['step']:,} optimizer steps on {tokens:,.0f} tokens.")
    if "learning_rate" in training:
        said.append(f"Learning rate {training['learning_rate']}.")
    if "seed" in config:
        said.append(f"Seed {config['seed']}.")
    versions: dict[str, Any] = {}
    for manifest in content.get("manifests", {}).values():
        versions |= (manifest.get("environment") or {}).get("versions", {})
    if versions:
        said.append("Versions: " + ", ".join(f"{_line(key)} {_line(value)}" for key, value in versions.items()) + ".")
    if said:
        yield "## Training\n\n" + " ".join(said)


def _data(content: Mapping[str, Any]) -> Iterator[str]:
    config = (content.get("config") or {}).get("data") or {}
    rows = []
    for split, summary in content.get("data", {}).items():
        source = (config.get(split) or {}).get("source") or {}
        options = ", ".join(f"{key}: {_placeless(value)}" for key, value in source.items() if key != "use")
        documents = summary.get("documents", {})
        count = len(documents) if isinstance(documents, dict) else documents
        rows.append(
            f"| {_line(split)} | {_line(source.get('use', MISSING))} | {_line(options) or MISSING} | {count:,} | "
            f"{summary.get('sequences', 0):,} | {summary.get('tokens', 0):,} |"
        )
    if rows:
        head = "| split | source | options | documents | sequences | tokens |\n|---|---|---|---:|---:|---:|"
        yield "## Data\n\n" + head + "\n" + "\n".join(rows)


def _placeless(value: Any) -> Any:
    """A path of this machine without its directories: they say nothing to anybody else.

    >>> _placeless("/texts/a.jsonl"), _placeless("texts/*.txt")
    ('a.jsonl', 'texts/*.txt')
    """
    return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value


def _use(architecture: str) -> str:
    auto = "AutoModelForCausalLM"
    for end in PIPELINES:
        if architecture.endswith(end):
            auto = f"AutoModel{end}"
    return (
        f"## Use\n\n```python\nfrom transformers import {auto}, AutoTokenizer\n\n"
        f'model = {auto}.from_pretrained("DIRECTORY")\ntokenizer = AutoTokenizer.from_pretrained("DIRECTORY")\n```'
    )


def _limits(content: Mapping[str, Any]) -> str:
    caveat = content["headline"].get("caveat") or "Nothing was compared with a baseline."
    return (
        "## What the figures do not show\n\n"
        f"{_line(caveat)} They are of the held-out texts above: other domains, languages and uses are not covered, nor "
        "what the model inherits of its teacher's mistakes, biases and memorised texts unless a row above measures it."
    )
