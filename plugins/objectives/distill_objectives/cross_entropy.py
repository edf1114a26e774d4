"""Hard cross-entropy: the label's negative log-probability, with label smoothing and z-loss.

Legend: n rows of a chunk, V head rows.
"""

from __future__ import annotations

from torch import Tensor

from distill_core.types import RowInfo, RowTarget, SupportLogits
from distill_objectives.options import CrossEntropyOptions


class CrossEntropy:
    """Cross-entropy with hard labels, in nat, at temperature 1; needs no teacher.

    ``(1 - e) (lse - z_label) + e (lse - mean_V z) + c lse^2`` with lse = logsumexp over the head's V rows, e the label
    smoothing (Szegedy et al. 2016, arXiv 1512.00567, section 7; as in ``torch.nn.functional.cross_entropy``) and c the
    z-loss coefficient (PaLM, arXiv 2204.02311, section 5: 1e-4).

    Args:
        options: ``label_smoothing`` in [0, 1), ``z_loss`` >= 0.

    >>> import torch
    >>> from distill_core import ops
    >>> from distill_core.types import RowInfo
    >>> labels = torch.tensor([2])
    >>> support = ops.support_logits(torch.zeros(1, 4), torch.zeros(1, 0, dtype=torch.long), labels_N=labels)
    >>> CrossEntropy(CrossEntropyOptions()).rows(support, None, RowInfo(labels, labels, labels))
    tensor([1.3863])
    """

    def __init__(self, options: CrossEntropyOptions) -> None:
        self.options = options
        self.extras: tuple[str, ...] = ("mean",) if options.label_smoothing > 0 else ()

    def temperatures(self, step: int, total_steps: int) -> tuple[float, ...]:
        return (1.0,)

    def rows(self, support: SupportLogits, target: RowTarget | None, rows: RowInfo) -> Tensor:
        """[n] values in nat."""
        smoothing, z_loss = self.options.label_smoothing, self.options.z_loss
        value_n = support.cross_entropy()
        if smoothing == 0 and z_loss == 0:
            return value_n
        logsumexp_n = support.logsumexp(1.0)
        if smoothing > 0:
            if support.mean_N is None:
                raise ValueError('label smoothing reads support.mean_N: ask the head for extras=("mean",)')
            value_n = (1 - smoothing) * value_n + smoothing * (logsumexp_n - support.mean_N)
        return value_n + z_loss * logsumexp_n.square()
