"""The objectives of a training: what they need, their weights, their denominators, their parameters and state.

**Denominators first**: each objective's count depends on the batch alone, so the counts of a whole optimizer step are
known, and summed over processes, before its first backward. The loss of a step is

    loss = sum_i weight_i * (sum of objective i over all micro-batches and processes) / (its count over all of them)

and that is what makes gradient accumulation and data parallelism exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from distill_core.engine.head_pass import ActiveObjective, ObjectivePass, parameters_of, temperatures_of
from distill_core.errors import TrainingError
from distill_core.interfaces import BuildContext
from distill_core.options import ScheduleRef
from distill_core.plugin import Needs
from distill_core.taps import SIGNALS as TAPS
from distill_core.types import TeacherSignals, TokenBatch

ATTACHED_NAME = "distill_objectives"
"""Attribute of the model under which objective modules ride along while training; never saved with the student."""


@dataclass(frozen=True)
class Entry:
    """One objective of the run.

    Args:
        name: name in logs, unique.
        objective: the plugin's object.
        needs: what it asks of the teacher.
        weight: factor at ``(step, total_steps)``.
        source: whose signals it reads (see ``distill_core.engine.sources``).
        row_weights: says how much each row counts; None: all alike.
    """

    name: str
    objective: Any
    needs: Needs
    weight: Callable[[int, int], float]
    source: str = ""
    row_weights: Any = None

    @property
    def fused(self) -> bool:
        """Whether it is a row objective."""
        return hasattr(self.objective, "rows")

    def count(self, batch: TokenBatch) -> float:
        """Its denominator for one micro-batch: its own ``count(batch)``, or the number of rows."""
        own = getattr(self.objective, "count", None)
        return float(len(batch.rows()) if own is None else own(batch))


@dataclass(frozen=True)
class StepContext:
    """Given to an objective's ``on_step_end``: the optimizer steps done so far, and how many there will be."""

    step: int
    total_steps: int


class ObjectiveSet:
    """All objectives of a training, in the order of the run file.

    Raises:
        TrainingError: an object that is neither a row objective nor a free-form one; two of the same name.
    """

    def __init__(self, entries: Sequence[Entry]) -> None:
        self.entries = tuple(entries)
        names = self.names
        for entry in self.entries:
            if not entry.fused and not callable(entry.objective):
                raise TrainingError(
                    f"objective {entry.name} is a {type(entry.objective).__name__}: expected an object with "
                    "rows(support, target, rows) or a callable (student, teacher, batch) -> LossTerm"
                )
            if entry.row_weights is not None and not entry.fused:
                raise TrainingError(
                    f"objective {entry.name} is free form: row_weights weigh the rows of a row objective; it reads the "
                    "data's token weights alone"
                )
            if names.count(entry.name) > 1:
                raise TrainingError(f"two objectives are called {entry.name!r}; give them different names with `name:`")

    @classmethod
    def from_config(cls, references: Iterable[Any], registry: Any) -> ObjectiveSet:
        """Build the objectives of ``train.objectives`` and their weight schedules through the registry."""
        entries: list[Entry] = []
        for reference in references:
            base = reference.name or reference.use.rpartition(":")[2]
            taken = {entry.name for entry in entries}
            name = base if reference.name or base not in taken else f"{base}-{len(entries) + 1}"
            objective = registry.build("objective", reference)
            needs = registry.needs("objective", reference)
            rows = getattr(reference, "row_weights", None)
            entries.append(
                Entry(
                    name,
                    objective,
                    needs if rows is None else _with_row_weights(needs, registry.needs("row-weight", rows)),
                    _weight(reference.weight, registry),
                    source=getattr(reference, "source", None) or "",
                    row_weights=None if rows is None else registry.build("row-weight", rows),
                )
            )
        return cls(entries)

    @property
    def names(self) -> list[str]:
        return [entry.name for entry in self.entries]

    @property
    def signals(self) -> frozenset[str]:
        """Names of the teacher signals that some objective needs."""
        return frozenset(signal for entry in self.entries for signal in entry.needs.signals)

    @property
    def sources(self) -> list[str]:
        """Names of the sources that some objective reads, in order."""
        return list(dict.fromkeys(entry.source for entry in self.entries if entry.needs.signals))

    def wants(self, signal: str) -> bool:
        """Whether a free-form objective reads this signal of the student: of the teacher too, or of it alone."""
        return any(
            signal in entry.needs.signals or signal in getattr(entry.objective, "student_signals", ())
            for entry in self.entries
            if not entry.fused
        )

    def build(self, context: BuildContext, teacher_config: Callable[[str], Any] | None = None) -> None:
        """Call ``build(ctx)`` of those that have one; ``teacher_config`` by source, default: the context's."""
        for entry in self.entries:
            own = context if teacher_config is None else replace(context, teacher_config=teacher_config(entry.source))
            for part in (entry.objective, entry.row_weights):
                if hasattr(part, "build"):
                    part.build(own)

    def needs(self, step: int, total_steps: int, source: str = "") -> Needs:
        """What the teacher of a source is asked for at this step."""
        reading = [entry for entry in self.entries if entry.source == source]
        fused = [entry for entry in reading if entry.fused and "targets" in entry.needs.signals]
        temperatures = sorted({t for entry in fused for t in temperatures_of(entry.objective, step, total_steps)})
        kinds = [kind for kind in ("exact", "sampled") if all(kind in entry.needs.targets for entry in fused)]
        signals = frozenset(signal for entry in reading for signal in entry.needs.signals)
        return Needs(signals=signals, targets=tuple(kinds), temperatures=tuple(temperatures))

    def counts(self, batch: TokenBatch) -> list[float]:
        """One denominator per objective for a micro-batch."""
        return [entry.count(batch) for entry in self.entries]

    def weights(self, step: int, total_steps: int) -> list[float]:
        """One factor per objective."""
        return [entry.weight(step, total_steps) for entry in self.entries]

    def head_pass(
        self,
        batch: TokenBatch,
        signals: Mapping[str, TeacherSignals],
        *,
        factors: Sequence[float],
        step: int,
        total_steps: int,
        chunk_rows: int | None,
    ) -> ObjectivePass:
        """What is handed to the model's forward: all losses of one micro-batch."""
        active = [
            ActiveObjective(
                entry.name,
                entry.objective,
                entry.fused,
                factor,
                "targets" in entry.needs.signals,
                entry.source,
                entry.row_weights,
            )
            for entry, factor in zip(self.entries, factors, strict=True)
        ]
        return ObjectivePass(
            batch=batch,
            signals=signals,
            active=active,
            step=step,
            total_steps=total_steps,
            output_hidden_states=self.wants("hidden_states"),
            output_attentions=self.wants("attentions"),
            taps=[signal for signal in sorted(TAPS) if self.wants(signal)],
            chunk_rows=chunk_rows,
        )

    def step_ended(self, step: int, total_steps: int) -> None:
        """Call ``on_step_end`` of those that have one; ``step`` optimizer steps are done."""
        for entry in self.entries:
            for part in (entry.objective, entry.row_weights):
                if hasattr(part, "on_step_end"):
                    part.on_step_end(StepContext(step, total_steps))

    def modules(self) -> nn.ModuleDict | None:
        """Everything with parameters as one module, so that DDP and FSDP treat it as part of the model.

        An objective that is no ``nn.Module`` gets a list of its parameters.
        """
        found: dict[str, nn.Module] = {}
        for entry in self.entries:
            parameters = parameters_of(entry.objective)
            if parameters:
                module = entry.objective if isinstance(entry.objective, nn.Module) else nn.ParameterList(parameters)
                found[entry.name.replace(".", "_")] = module
        return nn.ModuleDict(found) if found else None

    def refuse_plain_parameters(self) -> None:
        """FSDP replaces parameters inside modules; an object that is no module would keep the old ones."""
        for entry in self.entries:
            if parameters_of(entry.objective) and not isinstance(entry.objective, nn.Module):
                raise TrainingError(
                    f"objective {entry.name} has parameters but is no torch.nn.Module, which FSDP cannot shard: make "
                    f"{type(entry.objective).__name__} a Module, or train with DDP"
                )

    def state_dict(self) -> dict[str, Any]:
        """State of every objective by name: its own ``state_dict()``, else its parameters in order."""
        state: dict[str, Any] = {}
        for entry in self.entries:
            if hasattr(entry.objective, "state_dict"):
                state[entry.name] = entry.objective.state_dict()
            elif parameters := parameters_of(entry.objective):
                state[entry.name] = {str(i): p.detach() for i, p in enumerate(parameters)}
        return state

    @torch.no_grad()
    def load_state_dict(self, state: Mapping[str, Any], *, only: Iterable[str] | None = None) -> None:
        """Undo :meth:`state_dict`.

        Args:
            state: by objective name.
            only: objectives whose state it should be; None: all that have one.

        Raises:
            TrainingError: the state is of other objectives.
        """
        expected = set(self.state_dict()) if only is None else set(only)
        if expected != set(state):
            raise TrainingError(
                f"the checkpoint holds the state of the objectives {sorted(state)}, this training has "
                f"{sorted(expected)}: was the list of objectives changed?"
            )
        for entry in (entry for entry in self.entries if entry.name in state):
            if hasattr(entry.objective, "load_state_dict"):
                entry.objective.load_state_dict(state[entry.name])
            else:
                for i, parameter in enumerate(parameters_of(entry.objective)):
                    parameter.copy_(state[entry.name][str(i)])

    def exported(self) -> dict[str, dict[str, Tensor]]:
        """Tensors of the objectives that ask to be exported (``exported = True``), by name, whole and on the CPU.

        Where they are sharded every process must make the call.
        """
        asking = {entry.name for entry in self.entries if getattr(entry.objective, "exported", False)}
        return {
            name: {key: _whole(value) for key, value in state.items() if isinstance(value, Tensor)}
            for name, state in self.state_dict().items()
            if name in asking
        }


def _whole(tensor: Tensor) -> Tensor:
    gather = getattr(tensor, "full_tensor", None)
    whole: Tensor = tensor if gather is None else gather()
    return whole.detach().cpu().contiguous()


def _with_row_weights(needs: Needs, asked: Needs) -> Needs:
    """An objective's needs with those of its row weights."""
    if not asked.signals:
        return needs
    targets = needs.targets
    if "targets" in asked.signals:
        targets = asked.targets if "targets" not in needs.signals else tuple(t for t in targets if t in asked.targets)
    return replace(needs, signals=needs.signals | asked.signals, targets=targets)


def _weight(weight: float | ScheduleRef, registry: Any) -> Callable[[int, int], float]:
    if isinstance(weight, ScheduleRef):
        schedule = registry.build("schedule", {"use": weight.use, **weight.options})
        return lambda step, total_steps: float(schedule(step, total_steps))
    constant = float(weight)
    return lambda step, total_steps: constant
