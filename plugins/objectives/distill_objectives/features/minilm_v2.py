"""Multi-head self-attention relations: how queries, keys and values relate to each other, with heads of our own number.

Legend: B sequences, T positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill_objectives.features.relations import AttentionObjective, Pair, relation_heads, relation_kl


class MiniLMv2(AttentionObjective):
    """MiniLMv2 (arXiv 2012.15828, section 3): KL of query-query, key-key and value-value relations.

    Per position the sum over the relations of ``mean_heads KL(R_teacher || R_student)`` with ``R = softmax(A A^T /
    sqrt(d_r))``, A the queries, keys or values cut into ``relation_heads`` parts: any two widths with a common divisor
    fit, whatever the heads of either side. Taken before rotary positions. The paper takes the last block of a base-size
    teacher and an upper middle one of a large one: ``layers: [[student blocks, 21]]``.

    Args:
        options: ``layers``, ``relations``, ``relation_heads``, ``mask``, ``positions``.

    Raises:
        SignalError: a side gives no such projections, ``relation_heads`` does not fit, a block is missing.

    >>> from distill_objectives.features.options import MiniLMv2Options
    >>> MiniLMv2(MiniLMv2Options(relations=["values"])).signals
    ('values',)
    """

    name = "minilm-v2"

    @property
    def signals(self) -> tuple[str, ...]:
        return tuple(self.options.relations)

    def compare(self, pair: Pair) -> Tensor:
        widths = {f"student {signal}": value.shape[-1] for signal, value in pair.student.items()}
        widths |= {f"teacher {signal}": value.shape[-1] for signal, value in pair.teacher.items()}
        heads = relation_heads(self.name, self.options.relation_heads, self.teacher_heads["queries"], widths)
        total_BT = torch.zeros(pair.tokens_BT.shape, device=pair.tokens_BT.device)
        for signal in self.signals:
            total_BT = total_BT + relation_kl(pair.student[signal], pair.teacher[signal], heads, pair.visible_BTT)
        return total_BT
