"""The ``ensemble`` teacher: several local models as one, mixed over the whole vocabulary.

Legend: N rows, n rows of a chunk, V effective vocabulary, M members.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from distill_core.engine.row_pass import BatchScores, Scorer
from distill_core.errors import SignalError
from distill_core.interfaces import VocabularyInfo
from distill_core.mixture import entropy
from distill_core.plugin import Needs
from distill_core.types import SparseSpec, TeacherSignals, TokenBatch
from distill_teachers.ensemble_options import EnsembleOptions
from distill_teachers.hf import HFTeacher
from distill_teachers.options import HFOptions
from distill_teachers.row_keys import row_keys
from distill_teachers.sparse_targets import check_spec, concatenate, from_logits, single_draws, wanted_spec

UNCERTAINTY = ("ensemble_variance", "mutual_information", "expected_entropy")
"""What the ensemble says of its members, [N] each, exact over the vocabulary."""


class EnsembleTeacher:
    """Members of one tokenizer as one teacher with logits ``log p``, p the mean of their distributions.

    ``p = sum_m w_m softmax(z_m / T_m)``, or ``p ~ exp(sum_m w_m log softmax(z_m / T_m))``, over the whole vocabulary,
    chunk by chunk of rows. The result is a teacher like any other: exact or sampled targets at any temperature (which
    softens the mixture, where an aggregator mixes softened teachers: the two agree at temperature 1). Beside targets
    it gives, in ``extra`` and exact over the vocabulary at temperature 1, ``ensemble_variance``, ``mutual_information``
    and ``expected_entropy`` (``distill_core.mixture.disagreement``).

    Args:
        options: ``members``, ``mean``.

    Raises:
        SignalError: (at first use) members of different tokenizers.

    >>> options = EnsembleOptions(members={"a": {"model": "org/a"}, "b": {"model": "org/b", "weight": 2}})
    >>> EnsembleTeacher(options).weights
    {'a': 0.3333333333333333, 'b': 0.6666666666666666}
    """

    def __init__(self, options: EnsembleOptions) -> None:
        self.mean = options.mean
        self._given: dict[str, HFTeacher] | None = None
        self._options = options
        self._set(
            {name: member.weight for name, member in options.members.items()},
            {name: member.temperature for name, member in options.members.items()},
        )

    @classmethod
    def from_members(
        cls,
        members: Mapping[str, HFTeacher],
        *,
        weights: Mapping[str, float] | None = None,
        temperatures: Mapping[str, float] | None = None,
        mean: Any = "arithmetic",
    ) -> EnsembleTeacher:
        """An ensemble of teachers that exist (notebooks, tests)."""
        named: dict[str, Any] = {name: {"model": member.label} for name, member in members.items()}
        teacher = cls(EnsembleOptions(members=named, mean=mean))
        teacher._given = dict(members)
        teacher._set(weights or dict.fromkeys(members, 1.0), temperatures or dict.fromkeys(members, 1.0))
        return teacher

    def _set(self, weights: Mapping[str, float], temperatures: Mapping[str, float]) -> None:
        total = sum(weights.values())
        self.weights = {name: weight / total for name, weight in weights.items()}
        self.temperatures = dict(temperatures)

    @cached_property
    def members(self) -> dict[str, HFTeacher]:
        """The members, loaded at first use."""
        members = self._given
        if members is None:
            own = {"weight", "temperature"}
            plain = {
                name: member.model_dump(exclude=own, exclude_unset=True)
                for name, member in self._options.members.items()
            }
            members = {name: HFTeacher(HFOptions(**fields)) for name, fields in plain.items()}
        prints = {name: member.vocabulary().fingerprint for name, member in members.items()}
        if len(set(prints.values())) > 1:
            listed = ", ".join(f"{name}: {value[:8]}" for name, value in prints.items())
            raise SignalError(
                f"the members of an ensemble need one tokenizer, these have different ones ({listed}): mix losses "
                "instead, each teacher with a capture and an objective `source` of its own"
            )
        sizes = {name: member.valid_vocab for name, member in members.items()}
        if len(set(sizes.values())) > 1:
            raise SignalError(f"the heads of the ensemble's members cover different numbers of tokens: {sizes}")
        return members

    @property
    def _first(self) -> HFTeacher:
        return next(iter(self.members.values()))

    @property
    def label(self) -> str:
        return f"ensemble of {', '.join(self.weights)}"

    def vocabulary(self) -> VocabularyInfo:
        return self._first.vocabulary()

    def tokenizer(self) -> Any:
        """The members' tokenizer."""
        return self._first.tokenizer()

    @property
    def valid_vocab(self) -> int:
        return self._first.valid_vocab

    def identity(self) -> str:
        """Every member with its weight and temperature, and the mean."""
        parts = [
            f"{name}={self.weights[name]:.6g}*{member.identity()}"
            + (f"@T{self.temperatures[name]:.6g}" if self.temperatures[name] != 1 else "")
            for name, member in self.members.items()
        ]
        return f"ensemble ({self.mean} mean): {' + '.join(parts)}"

    @torch.no_grad()
    def signals(self, batch: TokenBatch, needs: Needs, sparse: SparseSpec | None = None) -> TeacherSignals:
        """Targets of the mixture and the members' disagreement.

        Raises:
            SignalError: another signal, a temperature or k that cannot be had, NaN in a member's logits.
        """
        unknown = sorted(needs.signals - {"targets", *UNCERTAINTY})
        if unknown:
            raise SignalError(
                f"the {self.label} cannot give {unknown}; it gives targets, {', '.join(UNCERTAINTY)}: name one member "
                "as a teacher of its own"
            )
        if not needs.signals:
            return TeacherSignals()
        home = batch.input_ids_BT.device
        spec = wanted_spec(needs, sparse, valid_vocab=self.valid_vocab)
        check_spec(spec, valid_vocab=self.valid_vocab, label=self.label)
        rows = batch.rows()
        mixer = _Mixer(self, batch, home)
        keys_N = row_keys(batch.keys, rows.sequence_N, rows.position_N)
        size = self.valid_vocab
        draws = [
            from_logits(mixer.logits, len(rows), one, vocabulary=size, valid_vocab=size, row_keys_N=keys_N)
            for one in single_draws(spec)
        ]
        extra: dict[str, Any] = dict(mixer.uncertainty())
        if len(draws) > 1:
            extra["draws"] = tuple(draws)
        return TeacherSignals(target=concatenate(draws[:1]), extra=extra)

    @cached_property
    def model(self) -> EnsembleModel:
        """The mixture as a module whose forward gives its logits: what evaluation compares students with."""
        return EnsembleModel(self)

    def mix(self, logp_MnV: Tensor) -> Tensor:
        """[n, V] log-probabilities of the mixture."""
        weights_M11 = torch.tensor(list(self.weights.values()), dtype=logp_MnV.dtype, device=logp_MnV.device)[
            :, None, None
        ]
        if self.mean == "arithmetic":
            return torch.logsumexp(logp_MnV + weights_M11.log(), dim=0)
        # 0 log 0 = 0: a member of no weight has no say
        return torch.where(weights_M11 > 0, weights_M11 * logp_MnV, 0.0).sum(dim=0).log_softmax(dim=1)

    def member_log_probs(self, name: str, logits_nV: Tensor) -> Tensor:
        """[n, V] a member's log-probabilities over the effective vocabulary, fp32.

        Raises:
            SignalError: NaN.
        """
        if bool(torch.isnan(logits_nV).any()):
            raise SignalError(f"the member {name} of the ensemble gives logits that are NaN: its weights are damaged")
        return (logits_nV[:, : self.valid_vocab].float() / self.temperatures[name]).log_softmax(dim=1)


class _Mixer:
    """The mixture's logits at chunks of rows, and what was seen of the disagreement on the way."""

    def __init__(self, teacher: EnsembleTeacher, batch: TokenBatch, home: torch.device) -> None:
        self.teacher, self.home = teacher, home
        self.rows = len(batch.rows())
        self._seen: dict[int, Tensor] = {}
        self.scores: dict[str, BatchScores] = {}
        for name, member in teacher.members.items():
            placed = batch.to(member.device)
            member.check_batch(placed)
            self.scores[name] = Scorer(member.model).scores(placed, placed.rows())

    def logits(self, cut: slice) -> Tensor:
        teacher = self.teacher
        logp_MnV = torch.stack(
            [teacher.member_log_probs(name, scores.logits(cut)).to(self.home) for name, scores in self.scores.items()]
        )
        mixed_nV = teacher.mix(logp_MnV)
        start = cut.indices(self.rows)[0]
        if start not in self._seen:
            self._seen[start] = _disagreement(logp_MnV, list(teacher.weights.values()))
        return mixed_nV

    def uncertainty(self) -> dict[str, Tensor]:
        if not self._seen:
            return dict.fromkeys(UNCERTAINTY, torch.zeros(0, device=self.home))
        found_N3 = torch.cat([self._seen[start] for start in sorted(self._seen)])
        return {name: found_N3[:, column] for column, name in enumerate(UNCERTAINTY)}


def _disagreement(logp_MnV: Tensor, weights: list[float]) -> Tensor:
    """[n, 3] in the order of :data:`UNCERTAINTY`, of the arithmetic mixture, member by member."""
    share_M = torch.tensor(weights, dtype=logp_MnV.dtype, device=logp_MnV.device)
    mean_nV = torch.logsumexp(logp_MnV + share_M.log()[:, None, None], dim=0)
    expected_n = sum(share * entropy(logp_nV) for share, logp_nV in zip(share_M, logp_MnV, strict=True))
    p_nV = mean_nV.exp()
    variance_n = sum(
        share * (logp_nV.exp() - p_nV).square().sum(dim=1) for share, logp_nV in zip(share_M, logp_MnV, strict=True)
    )
    shared_n = (entropy(mean_nV) - expected_n).clamp_min(0)
    return torch.stack([torch.as_tensor(variance_n), shared_n, torch.as_tensor(expected_n)], dim=1)


class EnsembleModel(nn.Module):
    """The mixture as a causal language model: ``forward(input_ids, attention_mask).logits`` is log p, [B, T, V]."""

    def __init__(self, teacher: EnsembleTeacher) -> None:
        super().__init__()
        self.teacher = teacher
        self.models = nn.ModuleList([member.model for member in teacher.members.values()])

    @property
    def dtype(self) -> torch.dtype:
        return next(self.models.parameters()).dtype

    def get_output_embeddings(self) -> None:
        """There is no one head."""

    @torch.no_grad()
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None, use_cache: bool = False) -> Any:
        from transformers.modeling_outputs import CausalLMOutput

        parts = []
        for name, member in self.teacher.members.items():
            mask = None if attention_mask is None else attention_mask.to(member.device)
            logits_BTV = member.model(input_ids.to(member.device), attention_mask=mask, use_cache=False).logits
            parts.append(self.teacher.member_log_probs(name, logits_BTV.flatten(0, 1)).to(input_ids.device))
        mixed = self.teacher.mix(torch.stack(parts)).unflatten(0, tuple(input_ids.shape))
        return CausalLMOutput(logits=mixed)
