"""`SupportLogits`: a student's exact distribution on the k + 1 outcomes of a sparse teacher.

Legend: N rows, V vocabulary, K support, M sub-support, T temperatures; K1 means K + 1 (column K is the tail).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ...shapes import BoolNK, IdsNK, IdsNM, LabelsN, LogitsNK, LogProbsNK1, RowN, RowNT
from .reference import log_softmax_rows, logsumexp_rows


@dataclass(frozen=True, eq=False)
class SupportLogits:
    """Logits on a support and the logsumexp of everything else: `log_softmax([z_S / t, tail_t])` is the student.

    Args:
        ids_NK: int32 or int64, unique in a row, -1 pads.
        temperatures: the T temperatures that can be asked for.
        support_NK: float, raw logits at `ids_NK` (after scale, bias and softcap, before temperature); -inf on padding.
        tail_NT: float, logsumexp of `z / t` over the complement of the support; -inf where the complement is empty.
        label_N: float, the label's raw logit wherever it lies; 0 on ignored rows. None without labels.
        labels_N: int, the labels themselves, -100 on ignored rows. None without labels.
        mean_N: float, mean logit over the vocabulary (`extras=("mean",)`).
        entropy_NT: float, entropy in nat of the full distribution per temperature (`extras=("entropy",)`).
        top1_N: int64, id of the largest logit, the lowest one among equals (`extras=("top1",)`).

    >>> import torch
    >>> s = SupportLogits(torch.tensor([[3]]), (1.0,), torch.tensor([[0.0]]), torch.tensor([[0.0]]))
    >>> s.log_probs().exp()
    tensor([[0.5000, 0.5000]])
    """

    ids_NK: IdsNK
    temperatures: tuple[float, ...]
    support_NK: LogitsNK
    tail_NT: RowNT
    label_N: RowN | None = None
    labels_N: LabelsN | None = None
    mean_N: RowN | None = None
    entropy_NT: RowNT | None = None
    top1_N: LabelsN | None = None

    def __len__(self) -> int:
        return int(self.support_NK.shape[0])

    @property
    def padding_NK(self) -> BoolNK:
        """True where `ids_NK` is padding."""
        return self.ids_NK < 0

    def temperature_index(self, t: float) -> int:
        """Column of `tail_NT` and `entropy_NT` at temperature `t`. Raises `ValueError` for one not asked for."""
        # `in` and `index` compare by identity first, which torch.compile's symbolic floats do not survive.
        for i, own in enumerate(self.temperatures):
            if own == t:
                return i
        raise ValueError(
            f"SupportLogits: temperature {t!r} was not asked for, this holds {self.temperatures}: the tail at another "
            f"temperature cannot be derived; add it to `temperatures` of the op"
        )

    def _scaled_NK1(self, t: float) -> Tensor:
        tail_N1 = self.tail_NT[:, self.temperature_index(t), None]
        return torch.cat([self.support_NK / t, tail_N1], dim=1)

    def logsumexp(self, t: float = 1.0) -> RowN:
        """[N] logsumexp of `z / t` over the whole vocabulary, exact."""
        return logsumexp_rows(self._scaled_NK1(t))

    def log_probs(self, t: float = 1.0, *, floor: float | None = None) -> LogProbsNK1:
        """[N, K+1] log-probabilities on the support and, last, its complement; rows sum to 1 after `exp`.

        Outcomes that cannot occur, padding and an empty complement, stand at -inf and carry no gradient, whatever the
        gradient that arrives there. Code that multiplies by log-probabilities (0 * -inf is NaN) passes `floor`, for
        example `math.log(1e-30)`, and gives the teacher the same value there. A *real* outcome whose logit is -inf
        keeps -inf. A row whose logits are all -inf is no distribution; it reads -inf (or `floor`) throughout.

        Args:
            t: temperature, one of `temperatures`.
            floor: value in place of -inf for outcomes that cannot occur.
        """
        scaled_NK1 = self._scaled_NK1(t)
        gone_NK1 = torch.cat([self.padding_NK, torch.isneginf(self.tail_NT[:, self.temperature_index(t), None])], dim=1)
        gone_NK1 = gone_NK1 | torch.isneginf(scaled_NK1).all(dim=1, keepdim=True)
        return log_softmax_rows(scaled_NK1).masked_fill(gone_NK1, -math.inf if floor is None else floor)

    def cross_entropy(self) -> RowN:
        """[N] `-log softmax(z)[label]` at temperature 1; ignored rows (label -100) give exactly 0 and no gradient.

        Raises `ValueError` if 1.0 is not among `temperatures` or the op was given no labels.
        """
        if self.labels_N is None or self.label_N is None:
            raise ValueError("SupportLogits.cross_entropy: pass labels_N to the op; this was made without labels")
        if all(own != 1.0 for own in self.temperatures):  # not `in`: see temperature_index
            raise ValueError(
                f"SupportLogits.cross_entropy: hard cross-entropy is taken at temperature 1.0, this holds "
                f"{self.temperatures}; add 1.0 to `temperatures` of the op"
            )
        loss_N = self.logsumexp(1.0) - self.label_N
        return torch.where(self.labels_N >= 0, loss_N, torch.zeros_like(loss_N))

    def fold(self, ids_NM: IdsNM) -> SupportLogits:
        """The same student on a sub-support: what leaves the support joins the tail, exactly.

        Args:
            ids_NM: int32 or int64, each in this support, unique in a row, -1 pads.

        Raises `ValueError` for an id that is not in the support or that repeats.

        >>> import torch
        >>> s = SupportLogits(torch.tensor([[3, 5]]), (1.0,), torch.zeros(1, 2), torch.zeros(1, 1))
        >>> s.fold(torch.tensor([[5]])).log_probs().exp()
        tensor([[0.3333, 0.6667]])
        """
        column_NM = _columns(self.ids_NK, ids_NM)
        pad_NM = ids_NM < 0
        support_NM = self.support_NK.gather(1, column_NM).masked_fill(pad_NM, -math.inf)
        # An extra column K takes the writes of padding.
        chosen_NK1 = torch.zeros(len(self), self.ids_NK.shape[1] + 1, dtype=torch.bool, device=ids_NM.device)
        chosen_NK1.scatter_(1, torch.where(pad_NM, self.ids_NK.shape[1], column_NM), True)
        if int(chosen_NK1[:, :-1].sum()) != int((~pad_NM).sum()):
            raise ValueError("SupportLogits.fold: ids_NM repeats an id within a row; ids must be unique in a row")
        rest_NK = self.support_NK.masked_fill(chosen_NK1[:, :-1], -math.inf)
        tails = [
            logsumexp_rows(torch.cat([rest_NK / t, self.tail_NT[:, i, None]], dim=1))
            for i, t in enumerate(self.temperatures)
        ]
        return replace(self, ids_NK=ids_NM, support_NK=support_NM, tail_NT=torch.stack(tails, dim=1))

    def rows(self, rows: slice | Tensor) -> SupportLogits:
        """The rows in a slice, or those an index or boolean tensor picks; `support[rows]` is the same."""
        if not isinstance(rows, (slice, Tensor)):
            raise TypeError(f"SupportLogits: rows are picked by a slice or a tensor; got {type(rows).__name__}")

        def cut(x: Tensor | None) -> Tensor | None:
            return None if x is None else x[rows]

        return replace(
            self,
            ids_NK=self.ids_NK[rows],
            support_NK=self.support_NK[rows],
            tail_NT=self.tail_NT[rows],
            label_N=cut(self.label_N),
            labels_N=cut(self.labels_N),
            mean_N=cut(self.mean_N),
            entropy_NT=cut(self.entropy_NT),
            top1_N=cut(self.top1_N),
        )

    __getitem__ = rows


def _columns(ids_NK: Tensor, ids_NM: Tensor) -> Tensor:
    """Column of each of `ids_NM` in `ids_NK`, 0 for padding. Raises for ids that are not there."""
    if ids_NM.dim() != 2 or ids_NM.shape[0] != ids_NK.shape[0] or ids_NM.dtype not in (torch.int32, torch.int64):
        raise ValueError(
            f"SupportLogits.fold: ids_NM must be an int32 or int64 tensor [{ids_NK.shape[0]}, M]; got {ids_NM.dtype} "
            f"{list(ids_NM.shape)}"
        )
    wanted_NM = ids_NM.long()
    # A sentinel column makes every search land inside, also when K = 0.
    last_N1 = torch.full((ids_NK.shape[0], 1), torch.iinfo(torch.int64).max, device=ids_NK.device)
    sorted_NK, order_NK = torch.cat([ids_NK.long(), last_N1], dim=1).sort(dim=1)
    position_NM = torch.searchsorted(sorted_NK, wanted_NM.contiguous())
    missing_NM = (sorted_NK.gather(1, position_NM) != wanted_NM) & (wanted_NM >= 0)
    if bool(missing_NM.any()):
        row, column = (int(i) for i in missing_NM.nonzero()[0])
        raise ValueError(
            f"SupportLogits.fold: id {int(ids_NM[row, column])} of row {row} is not in the support; ask the op for the "
            f"union of all supports first"
        )
    return order_NK.gather(1, position_NM).masked_fill(wanted_NM < 0, 0)
