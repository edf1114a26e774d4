"""Attention probabilities of the student close to the teacher's.

Legend: B sequences, T positions (first: from, second: to), H heads.
"""

from __future__ import annotations

from torch import Tensor

from distill_objectives.features.relations import AttentionObjective, Pair, attention_kl, matched_heads


class AttentionMaps(AttentionObjective):
    """Attention transfer in the manner of TinyBERT (arXiv 1909.10351, section 3.1): per position, the mean over the
    heads of the mean squared difference of the attention probabilities, or of KL(teacher || student).

    The mean of ``mse`` is over the tokens of the sequence, so padding changes nothing. TinyBERT compares the scores
    before the softmax, which Transformers models do not return; here it is the probabilities. With other numbers of
    heads the averages over the heads are compared.

    Args:
        options: ``layers``, ``distance``, ``heads``, ``mask``, ``positions``.

    Raises:
        SignalError: a side gives no attentions, ``heads: match`` at other numbers of heads, a block is missing.

    >>> from distill_objectives.features.options import AttentionMapsOptions
    >>> AttentionMaps(AttentionMapsOptions()).signals
    ('attentions',)
    """

    name = "attention-maps"
    signals = ("attentions",)

    def compare(self, pair: Pair) -> Tensor:
        student_BHTT, teacher_BHTT = matched_heads(
            self.name, self.options.heads, pair.student["attentions"], pair.teacher["attentions"]
        )
        if self.options.distance == "kl":
            return attention_kl(student_BHTT, teacher_BHTT)
        tokens_B1 = pair.tokens_BT.sum(dim=1, keepdim=True).clamp_min(1)
        return (student_BHTT - teacher_BHTT).square().sum(dim=-1).mean(dim=1) / tokens_B1
