"""Domains are drawn by how far the student is behind the teacher on them.

Legend: D domains, S sequences.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distill_core.errors import TrainingError
from distill_core.files import write_json
from distill_core.interfaces import BuildContext, StepContext
from distill_objectives.sampler_options import DomainReweightingOptions
from distill_objectives.samplers.losses import RowLosses, of_student, of_teacher, sums_and_rows

FILE = "domain-weights.json"
"""What was measured and drawn, in the directory of the training."""

ROUND_NAT = 1e-4
"""Losses are rounded to this before they decide: how a step is split over processes moves their last bits."""


class DomainReweighting:
    """Distillation with dynamic domain weights, after the idea of DDK (arXiv 2407.16154).

    Some sequences of each domain are set aside as a probe. Every ``every_steps`` steps the student's loss on them is
    compared with the teacher's: ``g_d = L_student(d) - L_teacher(d)``, nat per token, and

    ``target_d = (1 - r) softmax_d(log prior_d + g_d / gap_nat) + r prior_d``,
    ``p <- smoothing p + (1 - smoothing) target``.

    A step draws the domain of each sequence from p; inside a domain its sequences go by in random permutations.
    """

    def __init__(self, options: DomainReweightingOptions) -> None:
        self.options = options
        self.domains: tuple[str, ...] = ()
        self.probability_D: NDArray[np.float64] = np.empty(0)
        self.taken_D: NDArray[np.int64] = np.empty(0, dtype=np.int64)
        self.history: list[dict[str, Any]] = []

    def build(self, ctx: BuildContext) -> None:
        """Set the probes aside and measure the teacher.

        Raises:
            TrainingError: one domain only, a domain too small, options that name a domain the data has not, or no
                live teacher to measure.
        """
        assert ctx.data is not None
        self._student, self._seed, self._directory, self._writes = ctx.student, ctx.seed, ctx.directory, ctx.rank == 0
        members: dict[str, list[int]] = {}
        for index, sequence in enumerate(ctx.data):
            members.setdefault(sequence.domain, []).append(index)
        self.domains = tuple(sorted(members))
        self._check(members)
        self._pools: list[NDArray[np.int64]] = []
        self._probes: list[list[Any]] = []
        for number, domain in enumerate(self.domains):
            order = np.random.default_rng([self._seed, number]).permutation(np.array(members[domain]))
            probe = self.options.probe_sequences
            self._probes.append([ctx.data[int(index)] for index in order[:probe]])
            self._pools.append(order[probe:])
        weights = self.options.prior or {domain: float(len(members[domain])) for domain in self.domains}
        prior_D = np.array([weights[domain] for domain in self.domains])
        self.prior_D = prior_D / prior_D.sum()
        self.probability_D, self.taken_D = self.prior_D.copy(), np.zeros(len(self.domains), dtype=np.int64)
        self.history, self._step_size = [], 0
        self._teacher_D = self._teacher_losses(ctx)

    def _check(self, members: Mapping[str, Sequence[int]]) -> None:
        if len(members) < 2:
            raise TrainingError(
                f"domain-reweighting needs at least two domains, the training data has {sorted(members)}: give records "
                "a `domain`"
            )
        for option in ("prior", "teacher_loss_nat"):
            given = getattr(self.options, option)
            if given is not None and set(given) != set(members):
                raise TrainingError(
                    f"domain-reweighting: {option} names the domains {sorted(given)}, the training data has "
                    f"{sorted(members)}: name each of these and no other"
                )
        small = {domain: len(found) for domain, found in members.items() if len(found) <= self.options.probe_sequences}
        if small:
            raise TrainingError(
                f"domain-reweighting sets {self.options.probe_sequences} sequences of each domain aside "
                f"(probe_sequences), which leaves nothing to train on of {small}: lower it, or give more data"
            )

    def _teacher_losses(self, ctx: BuildContext) -> NDArray[np.float64]:
        given = self.options.teacher_loss_nat
        if given is not None:
            return np.array([given[domain] for domain in self.domains])
        if ctx.teacher is None:
            raise TrainingError(
                "domain-reweighting measures the live teacher (train.teacher: live), and there is none: give its "
                "losses by domain, teacher_loss_nat"
            )
        return self._measured(of_teacher(ctx.teacher), "the teacher")

    def _measured(self, losses: RowLosses, who: str) -> NDArray[np.float64]:
        """[D] mean loss on each probe, nat per token; the same in every process."""
        found = []
        for probe in self._probes:
            totals, rows = sums_and_rows(losses, probe, self.options.batch_sequences, who=who)
            found.append(float(totals.sum()) / max(1, int(rows.sum())))
        loss_D = torch.tensor(found, dtype=torch.float64)
        if torch.distributed.is_available() and torch.distributed.is_initialized():
            device = next(self._student.parameters()).device
            shared_D = loss_D.to(device)
            torch.distributed.broadcast(shared_D, src=0)
            loss_D = shared_D.cpu()
        rounded_D: NDArray[np.float64] = np.round(loss_D.numpy() / ROUND_NAT) * ROUND_NAT
        return rounded_D

    def indices(self, step: int, positions: range) -> Sequence[int]:
        """A step's sequences by the present probabilities."""
        self._step_size = len(positions)
        taken_D = self.taken_D.copy()
        chosen = []
        for domain in self._drawn(step):
            epoch, offset = divmod(int(taken_D[domain]), len(self._pools[domain]))
            order = np.random.default_rng([self._seed, int(domain), epoch]).permutation(len(self._pools[domain]))
            chosen.append(int(self._pools[domain][order[offset]]))
            taken_D[domain] += 1
        return chosen

    def _drawn(self, step: int) -> NDArray[np.int64]:
        """Domains of a step's sequences."""
        generator = np.random.default_rng([self._seed, step])
        return generator.choice(len(self.domains), size=self._step_size, p=self.probability_D)

    def on_step_end(self, ctx: StepContext) -> None:
        """Count what the step took; measure the student when it is time."""
        self.taken_D += np.bincount(self._drawn(ctx.step - 1), minlength=len(self.domains))
        if ctx.step % self.options.every_steps or ctx.step == ctx.total_steps:
            return
        student_D = self._measured(of_student(self._student), "the student")
        self.probability_D = self._updated(student_D - self._teacher_D)
        self.history.append(
            {
                "step": ctx.step,
                "student_nat": dict(zip(self.domains, student_D.tolist(), strict=True)),
                "probability": dict(zip(self.domains, self.probability_D.tolist(), strict=True)),
            }
        )
        if self._writes and self._directory is not None:
            teacher = dict(zip(self.domains, self._teacher_D.tolist(), strict=True))
            write_json(self._directory / FILE, {"teacher_nat": teacher, "updates": self.history})

    def _updated(self, gap_D: NDArray[np.float64]) -> NDArray[np.float64]:
        options = self.options
        logit_D = np.log(self.prior_D) + gap_D / options.gap_nat
        softmax_D = np.exp(logit_D - logit_D.max())
        target_D = (1 - options.prior_share) * softmax_D / softmax_D.sum() + options.prior_share * self.prior_D
        new_D = options.smoothing * self.probability_D + (1 - options.smoothing) * target_D
        probability_D: NDArray[np.float64] = new_D / new_D.sum()
        return probability_D

    def state_dict(self) -> dict[str, Any]:
        return {
            "domains": list(self.domains),
            "probability": self.probability_D.tolist(),
            "taken": self.taken_D.tolist(),
            "history": [dict(update) for update in self.history],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        if tuple(state["domains"]) != self.domains:
            raise TrainingError(
                f"the checkpoint weighs the domains {state['domains']}, the data has {list(self.domains)}: was the "
                "data changed?"
            )
        self.probability_D = np.array(state["probability"])
        self.taken_D = np.array(state["taken"], dtype=np.int64)
        self.history = [dict(update) for update in state["history"]]
