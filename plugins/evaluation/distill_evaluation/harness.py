"""Tasks of EleutherAI's lm-evaluation-harness (Gao et al., ``lm_eval``), on every model in the same settings."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from distill_core.errors import DataError, SignalError
from distill_core.interfaces import EvaluationContext, Measurement
from distill_evaluation.harness_options import HarnessOptions

INSTALL = "pip install 'distill-evaluation[lm-eval]'"

LONGEST_TEXT = 500
"""Characters of a question or an answer kept with a sample."""


class Harness:
    """Evaluator ``lm-eval``: a metric ``lm_eval_<task>_<metric>`` for each of a task's metrics.

    The model that the evaluation loaded is handed to the harness as it is, with its weights, its dtype (recorded) and
    its device: the same for teacher, student and baselines. A question is a document: standard errors and paired
    comparisons run over questions.
    ``detail["harness"]`` has the harness's own figure and standard error, to the last digit.
    """

    aspect = "utility"

    def __init__(self, options: HarnessOptions) -> None:
        self.options = options

    def evaluate(self, context: EvaluationContext) -> list[Measurement]:
        if context.labels or context.tokenizer is None:
            raise SignalError("lm-eval asks language models; the models of a task predict classes")
        found = self._run(context)
        settings = {
            "batch_size": self.options.batch_size,
            "dtype": str(context.model.dtype).removeprefix("torch."),
            "num_fewshot": self.options.num_fewshot,
            "limit": self.options.limit,
            "seed": self.options.seed,
            "chat_template": self.options.chat_template,
            "version": found["version"],
        }
        measurements = []
        for task, samples in found["samples"].items():
            measurements += _of_task(task, samples, found, settings, self.options.samples)
        if not measurements:
            raise DataError(
                f"lm-eval: no metric of {', '.join(self.options.tasks)} is a mean or a perplexity over questions"
            )
        return measurements

    def _run(self, context: EvaluationContext) -> dict[str, Any]:
        """What ``lm_eval.simple_evaluate`` returns, and its version."""
        try:
            import lm_eval
            from lm_eval.models.huggingface import HFLM
            from lm_eval.tasks import TaskManager
        except ImportError as error:
            raise SignalError(f"lm-eval needs the package lm_eval ({error}): {INSTALL}") from error
        options = self.options
        if options.include_path is not None and not Path(options.include_path).is_dir():
            raise DataError(f"lm-eval: include_path {options.include_path} is no directory of task files")
        logging.getLogger("lm_eval").setLevel(logging.ERROR)
        with contextlib.redirect_stdout(io.StringIO()):
            manager = TaskManager(include_path=options.include_path)
            unknown = [task for task in options.tasks if task not in manager.all_tasks]
            if unknown:
                raise DataError(
                    f"lm-eval: no task {', '.join(unknown)} in the harness {lm_eval.__version__}"
                    + (f" nor under {options.include_path}" if options.include_path else "")
                    + ": `lm_eval ls tasks` lists the names; name a directory of task files as include_path"
                )
            model = HFLM(pretrained=context.model, tokenizer=context.tokenizer, batch_size=options.batch_size)
            found = lm_eval.simple_evaluate(
                model=model,
                tasks=list(options.tasks),
                num_fewshot=options.num_fewshot,
                batch_size=options.batch_size,
                limit=options.limit,
                bootstrap_iters=options.bootstrap,
                log_samples=True,
                apply_chat_template=options.chat_template,
                task_manager=manager,
                random_seed=options.seed,
                numpy_random_seed=options.seed,
                torch_random_seed=options.seed,
                fewshot_random_seed=options.seed,
            )
        return {**found, "version": lm_eval.__version__}


def _of_task(
    task: str, samples: Sequence[Mapping[str, Any]], found: Mapping[str, Any], settings: Mapping[str, Any], keep: int
) -> Iterator[Measurement]:
    own = found["results"][task]
    directions = found.get("higher_is_better", {}).get(task, {})
    first = True
    for key, value in own.items():
        metric, _, filtered = key.partition(",")
        if not filtered or metric.endswith("_stderr") or not isinstance(value, int | float):
            continue
        chosen = [sample for sample in samples if sample.get("filter", "none") == filtered and metric in sample]
        sums = {f"{task}:{sample['doc_id']}": sample[metric] for sample in chosen}
        fitted = _as_ratio(sums, float(value))
        if fitted is None:
            continue
        document_sums, transform, unit = fitted
        name = metric if filtered == "none" else f"{metric}_{filtered}"
        error = own.get(f"{metric}_stderr,{filtered}")
        detail = {
            "harness": {"value": value, "standard_error": error if isinstance(error, int | float) else None},
            "settings": dict(settings),
            "samples": [_shown(sample, metric) for sample in chosen[:keep]] if first else [],
        }
        yield Measurement(
            f"lm_eval_{task}_{name}",
            float(value),
            unit,
            len(chosen),
            bool(directions.get(metric, True)),
            document_sums,
            detail,
            transform=transform,
            label=f"{task}: {name.replace('_', ' ')}",
            primary=first,
        )
        first = False


def _as_ratio(values: Mapping[str, Any], whole: float) -> tuple[dict[str, tuple[float, float]], Any, str] | None:
    """The harness's figure as a ratio of sums over questions: (sums, transform, unit); None where it is no such ratio.

    A mean of numbers, or ``exp(-mean)``; or, from pairs (log-likelihood, number of words or bytes), a perplexity
    ``exp(-sum a / sum b)`` or bits ``-sum a / sum b / ln 2``. Whatever else a task aggregates (corpus BLEU, F1 over
    all) has no paired comparison.

    >>> _as_ratio({"q": 1.0, "r": 0.0}, 0.5)
    ({'q': (1.0, 1.0), 'r': (0.0, 1.0)}, 'identity', 'fraction')
    """
    if not values:
        return None
    if all(isinstance(value, int | float) for value in values.values()):
        numbers = {key: (float(value), 1.0) for key, value in values.items()}
        mean = math.fsum(value for value, _ in numbers.values()) / len(numbers)
        unit = "fraction" if all(0 <= value <= 1 for value, _ in numbers.values()) else ""
        if math.isclose(mean, whole, rel_tol=1e-9, abs_tol=1e-12):
            return numbers, "identity", unit
        if mean > -700 and math.isclose(math.exp(-mean), whole, rel_tol=1e-9):
            return {key: (-value, 1.0) for key, (value, _) in numbers.items()}, "exp", ""
        return None
    if not all(isinstance(value, list | tuple) and len(value) == 2 for value in values.values()):
        return None
    pairs = {key: (-float(value[0]), float(value[1])) for key, value in values.items()}
    nats = math.fsum(a for a, _ in pairs.values()) / math.fsum(b for _, b in pairs.values())
    if math.isclose(math.exp(min(nats, 700.0)), whole, rel_tol=1e-9):
        return pairs, "exp", ""
    if math.isclose(nats / math.log(2), whole, rel_tol=1e-9):
        return {key: (a / math.log(2), b) for key, (a, b) in pairs.items()}, "identity", "bit"
    return None


def _shown(sample: Mapping[str, Any], metric: str) -> dict[str, Any]:
    """One answered question: what was asked, the target, what was answered, the score."""
    arguments = sample.get("arguments") or {}
    first = next(iter(arguments.values()), {}) if isinstance(arguments, Mapping) else arguments[0]
    asked = next(iter(first.values()), "") if isinstance(first, Mapping) else first[0]
    answer = json.dumps(sample.get("filtered_resps"), ensure_ascii=False, default=str)
    return {
        "question": str(asked)[:LONGEST_TEXT],
        "target": str(sample.get("target"))[:LONGEST_TEXT],
        "answer": answer[:LONGEST_TEXT],
        "score": str(sample[metric]),
    }
