"""Deep self-attention distillation: what the last block attends to, and how its values relate to each other.

Legend: B sequences, T positions.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distill_objectives.features.relations import (
    AttentionObjective,
    Pair,
    attention_kl,
    matched_heads,
    relation_heads,
    relation_kl,
)


class MiniLM(AttentionObjective):
    """MiniLM (arXiv 2002.10957, section 3): KL of the last block's attention distributions and of its value relations.

    Per position: ``w_a mean_heads KL(A_teacher || A_student) + w_v mean_heads KL(VR_teacher || VR_student)`` with
    ``VR = softmax(V V^T / sqrt(d))``. The paper needs equally many heads; here other numbers are averaged over
    (attentions) and the values of both sides are cut into ``relation_heads`` parts of their own width. Values are the
    outputs of the value layer, so with grouped queries they have key-value heads.

    Args:
        options: ``layers``, ``attention_weight``, ``value_weight``, ``heads``, ``relation_heads``, ``mask``,
            ``positions``.

    Raises:
        SignalError: a side gives no attentions or values, heads do not fit, a block is missing.

    >>> from distill_objectives.features.options import MiniLMOptions
    >>> MiniLM(MiniLMOptions(attention_weight=0)).signals
    ('values',)
    """

    name = "minilm"

    @property
    def signals(self) -> tuple[str, ...]:
        used = (("attentions", self.options.attention_weight), ("values", self.options.value_weight))
        return tuple(signal for signal, weight in used if weight)

    def compare(self, pair: Pair) -> Tensor:
        total_BT = torch.zeros(pair.tokens_BT.shape, device=pair.tokens_BT.device)
        if "attentions" in self.signals:
            maps = matched_heads(self.name, self.options.heads, pair.student["attentions"], pair.teacher["attentions"])
            total_BT = total_BT + self.options.attention_weight * attention_kl(*maps)
        if "values" in self.signals:
            student_BTE, teacher_BTE = pair.student["values"], pair.teacher["values"]
            widths = {"student values": student_BTE.shape[-1], "teacher values": teacher_BTE.shape[-1]}
            heads = relation_heads(self.name, self.options.relation_heads, self.teacher_heads["values"], widths)
            relation_BT = relation_kl(student_BTE, teacher_BTE, heads, pair.visible_BTT)
            total_BT = total_BT + self.options.value_weight * relation_BT
        return total_BT
