"""What the tests of feature-level objectives share: a padded batch, signals in float64, building, and comparing.

Legend: B sequences, T positions, L blocks, H heads.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from distill_core.interfaces import BuildContext
from distill_core.types import IGNORE, StudentView, TeacherSignals, TokenBatch
from tests.conftest import make_tiny_llama
from tests.objectives.conftest import build

B, T = 3, 7
LENGTHS = (7, 5, 7)
PROMPTS = (0, 0, 4)
"""Tokens that are real, and of these the first ones that are not predicted."""


def batch(*, weighted: bool = True) -> TokenBatch:
    """Right-padded; a masked prompt, a padded row, uneven token weights."""
    input_ids_BT = torch.randint(3, 97, (B, T), generator=torch.Generator().manual_seed(0))
    mask_BT = torch.zeros(B, T, dtype=torch.long)
    labels_BT = torch.full((B, T), IGNORE)
    for b, (length, prompt) in enumerate(zip(LENGTHS, PROMPTS, strict=True)):
        mask_BT[b, :length] = 1
        labels_BT[b, prompt:length] = input_ids_BT[b, prompt:length]
    weights_BT = torch.linspace(0.5, 2.0, B * T).view(B, T) if weighted else None
    keys = tuple(bytes([b]) * 16 for b in range(B))
    return TokenBatch(input_ids_BT, mask_BT, labels_BT, keys=keys, weights_BT=weights_BT)


def places(positions: str = "rows") -> list[tuple[int, int, float]]:
    """(sequence, position, weight), written out anew from the lengths."""
    weights_BT = batch().weights_BT
    assert weights_BT is not None
    if positions == "tokens":
        return [(b, t, 1.0) for b in range(B) for t in range(LENGTHS[b])]
    spans = [range(max(0, prompt - 1), length - 1) for length, prompt in zip(LENGTHS, PROMPTS, strict=True)]
    return [(b, t, float(weights_BT[b, t + 1])) for b in range(B) for t in spans[b]]


def config(*, layers: int, width: int = 32, heads: int = 4, shared: int | None = None) -> Any:
    return SimpleNamespace(
        num_hidden_layers=layers, hidden_size=width, num_attention_heads=heads, num_key_value_heads=shared or heads
    )


def built(name: str, teacher: Any, *, seed: int = 3, student: Any = None, **options: Any) -> Any:
    """An objective for a student of 2 blocks, width 32, 4 heads and 2 key-value heads; in float64."""
    objective = build(name, **options)
    model = make_tiny_llama(num_hidden_layers=2) if student is None else student
    objective.build(BuildContext(model, teacher, 10, seed, lambda *a: None))
    return objective.double() if isinstance(objective, torch.nn.Module) else objective


def states(layers: int, width: int, seed: int) -> tuple[Tensor, ...]:
    """``layers`` tensors [B, T, width]."""
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randn(B, T, width, generator=generator, dtype=torch.float64) for _ in range(layers))


def maps(layers: int, heads: int, seed: int, *, causal: bool = True) -> tuple[Tensor, ...]:
    """``layers`` attention probabilities [B, H, T, T] over the tokens that may be seen."""
    generator = torch.Generator().manual_seed(seed)
    seen_BTT = batch().attention_mask_BT.bool()[:, None, :].expand(B, T, T)
    if causal:
        seen_BTT = seen_BTT & torch.ones(T, T, dtype=torch.bool).tril()
    scores = [torch.randn(B, heads, T, T, generator=generator, dtype=torch.float64) for _ in range(layers)]
    return tuple(score.masked_fill(~seen_BTT[:, None], -torch.inf).softmax(-1) for score in scores)


def leaves(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().clone().requires_grad_(True) for tensor in tensors)


def hidden_value(objective: Any, student: tuple[Tensor, ...], teacher: tuple[Tensor, ...], **changes: Any) -> Tensor:
    return objective(StudentView(student), TeacherSignals(hidden_states=teacher), batch(**changes)).total


def compare(
    value: Callable[[tuple[Tensor, ...]], Tensor],
    expected: Callable[[tuple[Tensor, ...]], Tensor],
    signals: tuple[Tensor, ...],
    parameters: list[Tensor] | None = None,
) -> float:
    """Value and gradients (in the signals and the parameters) of two float64 computations are equal; the value."""
    results = []
    for function in (value, expected):
        own = leaves(signals)
        total = function(own)
        wanted = [*own, *(parameters or [])]
        found = torch.autograd.grad(total, wanted, allow_unused=True)
        zeros = [torch.zeros_like(x) if g is None else g for x, g in zip(wanted, found, strict=True)]
        results.append((total.detach(), zeros))
    (mine, mine_grads), (theirs, their_grads) = results
    # float64 sums of some hundred terms
    torch.testing.assert_close(mine, theirs.to(mine.dtype), rtol=1e-9, atol=1e-11)
    for one, other in zip(mine_grads, their_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-7, atol=1e-9)
    assert any(bool(grad.ne(0).any()) for grad in mine_grads)
    return float(mine)
