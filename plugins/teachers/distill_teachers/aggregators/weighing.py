"""From weights per row and teacher to signals; what all aggregators share.

Legend: N rows, M teachers, K support size, B sequences.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

import torch
from torch import Tensor

from distill_core.errors import SignalError
from distill_core.mixture import disagreement, member_log_probs, mixture
from distill_core.types import RowTarget, TeacherSignals, TokenBatch


def weighed(targets: Mapping[str, RowTarget], weights_NM: Tensor, temperature: float) -> TeacherSignals:
    """The arithmetic mixture and the teachers' disagreement under the same weights."""
    return TeacherSignals(
        target=mixture(targets, weights_NM, temperature), extra=disagreement(targets, weights_NM, temperature)
    )


def weights_by_name(given: Mapping[str, float] | str, targets: Iterable[str], *, owner: str, option: str) -> Tensor:
    """[M] weights in the order of the teachers; a name alone means all weight on that teacher.

    Raises:
        SignalError: a name that is no teacher, or a teacher without a weight.
    """
    names = list(targets)
    by_name = {name: float(name == given) for name in names} if isinstance(given, str) else dict(given)
    if isinstance(given, str) and given not in names:
        by_name[given] = 1.0
    unknown = [name for name in by_name if name not in names]
    missing = [name for name in names if name not in by_name]
    if unknown or missing:
        said = [f"names {', '.join(unknown)}, which is no teacher here"] if unknown else []
        said += [f"says nothing of {', '.join(missing)}"] if missing else []
        raise SignalError(
            f"{owner}: {option} {' and '.join(said)}; the teachers are {', '.join(names)}: give each of them a weight "
            "(0 leaves it out)"
        )
    return torch.tensor([by_name[name] for name in names], dtype=torch.float64)


def label_log_probs(targets: Mapping[str, RowTarget], batch: TokenBatch) -> Tensor:
    """[M, N] log-probability of the label at temperature 1, or at the only temperature that the targets hold.

    The engine puts the label on the common support; a label that is not there counts as the whole tail.
    """
    first = next(iter(targets.values()))
    temperature = 1.0 if 1.0 in first.temperatures else first.temperatures[0]
    logp_MNK1 = member_log_probs(targets, temperature)
    labels_N1 = batch.rows().labels_N[:, None].to(first.ids_NK.device)
    hit_NK = first.ids_NK == labels_N1
    tail_N1 = ~hit_NK.any(dim=1, keepdim=True)
    chosen_NK1 = torch.cat([hit_NK, tail_N1], dim=1)
    return torch.where(chosen_NK1, logp_MNK1, 0.0).sum(dim=2)


def mean_per_sequence(values_MN: Tensor, batch: TokenBatch) -> Tensor:
    """[M, N]: every row holds the mean over the rows of its sequence."""
    sequence_N = batch.rows().sequence_N.to(values_MN.device)
    sums_MB = values_MN.new_zeros(len(values_MN), len(batch.input_ids_BT)).index_add(1, sequence_N, values_MN)
    counts_B = torch.bincount(sequence_N, minlength=len(batch.input_ids_BT)).clamp_min(1)
    return (sums_MB / counts_B)[:, sequence_N]
