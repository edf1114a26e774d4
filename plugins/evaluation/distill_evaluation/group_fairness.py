"""How much worse a model is for its worst group than for its best, groups named by a field of the records."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from distill_core.engine.resampling import jackknife_sums
from distill_core.engine.row_pass import evaluate_rows
from distill_core.engine.statistics import estimate
from distill_core.engine.totals import DocumentTotals
from distill_core.errors import SignalError
from distill_core.interfaces import EvaluatedRows, EvaluationContext, Measurement
from distill_evaluation.fairness_options import GroupFairnessOptions

Sums = Mapping[str, tuple[float, float]]


class GroupFairness:
    """Evaluator ``group-fairness``: cross-entropy and accuracy by group of documents.

    - ``worst_group_cross_entropy``, ``worst_group_accuracy``: of the group with the worst figure (Sagawa et al., arXiv
      1911.08731).
    - ``group_gap_cross_entropy``, ``group_gap_accuracy``: worst minus best group, never negative.

    Errors by the jackknife over documents, worst and best group chosen anew each time.

    How much a student amplifies the teacher's gap stands in the results under ``retention`` of the gap: student /
    teacher. The more groups and the fewer documents in them, the larger is a gap by chance alone: ``detail["groups"]``
    has each group with its error.
    """

    aspect = "fairness"

    def __init__(self, options: GroupFairnessOptions | None = None) -> None:
        self.options = options or GroupFairnessOptions()

    def begin(self, context: EvaluationContext) -> _GroupRows:
        field = self.options.field
        if context.records is None:
            raise SignalError(f"group-fairness reads the field {field!r} of the records, which were not given")
        groups = {
            document: str(record[field])
            for document, record in context.records("eval")
            if record.get(field) not in (None, "")
        }
        sizes = Counter(groups.values())
        if sum(size >= self.options.min_documents for size in sizes.values()) < 2:
            raise SignalError(
                f"group-fairness compares groups of at least {self.options.min_documents} documents, but by the field "
                f"{field!r} the held-out documents are in {dict(sizes)}: keep the field (`fields` of the "
                "source), name another, or hold out more documents"
            )
        return _GroupRows(groups, self.options.min_documents, "nat/row" if context.labels else "nat/token")

    def evaluate(self, context: EvaluationContext) -> list[Measurement]:
        return evaluate_rows(self, context)


class _GroupRows:
    def __init__(self, groups: Mapping[str, str], min_documents: int, unit: str) -> None:
        self.groups, self.min_documents, self.unit = groups, min_documents, unit
        self.nats, self.correct = DocumentTotals(), DocumentTotals()

    def update(self, rows: EvaluatedRows) -> None:
        self.nats.add(rows, -rows.logp_nV.gather(1, rows.labels_n[:, None])[:, 0])
        self.correct.add(rows, (rows.best_n[1] == rows.labels_n).float())

    def measurements(self) -> list[Measurement]:
        return [
            *self._measure("cross_entropy", "cross-entropy", self.nats.sums(), self.unit, higher=False),
            *self._measure("accuracy", "accuracy", self.correct.sums(), "fraction", higher=True),
        ]

    def _measure(self, metric: str, label: str, sums: Sums, unit: str, *, higher: bool) -> list[Measurement]:
        members: dict[str, dict[str, tuple[float, float]]] = {}
        for document, pair in sums.items():
            if document in self.groups and pair[1]:
                members.setdefault(self.groups[document], {})[document] = pair
        compared = {group: own for group, own in members.items() if len(own) >= self.min_documents}
        if len(compared) < 2:
            return []
        value, worst = gap(compared, higher)
        left_out, worst_left_out = {}, {}
        for group, own in compared.items():
            for document in own:
                rest = {name: pair for name, pair in own.items() if name != document}
                others = {name: pairs for name, pairs in compared.items() if name != group}
                kept = {**others, **({group: rest} if rest else {})}
                left_out[document], lowest = gap(kept, higher)
                worst_left_out[document] = estimate(kept[lowest]).value
        detail = {"worst": worst, "groups": {group: _group(own) for group, own in compared.items()}}
        detail["left_out"] = sorted(members.keys() - compared.keys())
        n = round(sum(count for own in compared.values() for _, count in own.values()))
        lowest_value = estimate(compared[worst]).value
        return [
            Measurement(
                f"worst_group_{metric}", lowest_value, unit, n, higher, jackknife_sums(lowest_value, worst_left_out),
                detail, label=f"Worst group's {label}",
            ),
            Measurement(
                f"group_gap_{metric}", value, unit, n, False, jackknife_sums(value, left_out), detail,
                label=f"Gap of {label} between groups",
            ),
        ]  # fmt: skip


def _group(sums: Sums) -> dict[str, float | int | None]:
    found = estimate(sums)
    error = found.standard_error if found.standard_error == found.standard_error else None
    return {"value": found.value, "standard_error": error, "documents": found.n_documents}


def gap(groups: Mapping[str, Sums], higher_is_better: bool) -> tuple[float, str]:
    """Distance of the worst group's figure from the best one's, and which is the worst.

    >>> gap({"a": {"x": (1.0, 2.0)}, "b": {"y": (2.0, 2.0)}}, higher_is_better=True)
    (0.5, 'a')
    """
    values = {group: estimate(sums).value for group, sums in groups.items()}
    low, high = min(values, key=values.__getitem__), max(values, key=values.__getitem__)
    return values[high] - values[low], low if higher_is_better else high
