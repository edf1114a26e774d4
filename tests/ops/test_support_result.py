"""`SupportLogits`: reading, folding, slicing."""

from __future__ import annotations

import math

import pytest
import torch

from distill_core import ops


@pytest.fixture
def support(make_problem):
    p = make_problem()
    z = p.dense().detach().requires_grad_()
    s = ops.support_logits(
        z, p.ids_NK, labels_N=p.labels_N, temperatures=(1.0, 2.0), extras=("mean", "entropy", "top1")
    )
    return p, z, s


def test_cross_entropy_equals_torch_and_ignores(support):
    p, z, s = support
    want = torch.nn.functional.cross_entropy(z, p.labels_N, reduction="none", ignore_index=-100)
    torch.testing.assert_close(s.cross_entropy(), want, rtol=1e-11, atol=1e-11)
    assert s.cross_entropy()[1] == 0.0
    weight = torch.linspace(1, 2, 11, dtype=torch.float64)
    (got,) = torch.autograd.grad((weight * s.cross_entropy()).sum(), z)
    (expected,) = torch.autograd.grad((weight * want).sum(), z)
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    assert (got[1] == 0).all() and got[4].abs().max() > 1e-3


def test_ignored_row_is_zero_even_where_its_logits_are_nan():
    z = torch.zeros(2, 4)
    z[0] = math.nan
    z.requires_grad_()
    s = ops.support_logits(z, torch.tensor([[0], [1]]), labels_N=torch.tensor([-100, 2]))
    assert s.cross_entropy().tolist() == [0.0, pytest.approx(math.log(4))]


def test_padding_has_no_probability_and_no_gradient_even_from_nan(support):
    _, z, s = support
    assert s.padding_NK.sum() == 7
    lp = s.log_probs(2.0)
    assert (lp[:, :-1][s.padding_NK] == -math.inf).all()
    assert (s.log_probs(2.0, floor=-69.0)[:, :-1][s.padding_NK] == -69.0).all()
    bad = torch.where(torch.isneginf(lp), math.nan, 1.0)
    (g,) = torch.autograd.grad(lp, z, bad, retain_graph=True)
    assert g.isfinite().all() and g.abs().max() > 0
    # p log p with the floor is 0 to 1e-28, its gradient finite
    floored = s.log_probs(2.0, floor=math.log(1e-30))
    (g,) = torch.autograd.grad((floored.exp() * floored).sum(), z)
    assert g.isfinite().all()


def test_fold_equals_asking_for_the_smaller_support(support):
    p, z, s = support
    sub = torch.full((11, 3), -1)
    for row, (a, b) in enumerate([(4, 0)] * 11):
        if row != 3:
            sub[row, 0], sub[row, 2] = p.ids_NK[row, a], p.ids_NK[row, b]
    sub[2, 2] = -1
    folded = s.fold(sub)
    direct = ops.support_logits(z, sub, temperatures=(1.0, 2.0))
    assert torch.equal(folded.ids_NK, sub)
    assert folded.labels_N is s.labels_N and folded.entropy_NT is s.entropy_NT
    for t in (1.0, 2.0):
        torch.testing.assert_close(folded.log_probs(t), direct.log_probs(t), rtol=1e-10, atol=1e-10)
        weight = torch.randn(11, 4, dtype=torch.float64)
        got = torch.autograd.grad((weight * folded.log_probs(t, floor=0.0)).sum(), z, retain_graph=True)
        want = torch.autograd.grad((weight * direct.log_probs(t, floor=0.0)).sum(), z, retain_graph=True)
        torch.testing.assert_close(got, want, rtol=1e-9, atol=1e-10)
    again = folded.fold(sub[:, :1])
    torch.testing.assert_close(again.log_probs(), s.fold(sub[:, :1]).log_probs(), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.int32, torch.int64], ids=str)
def test_fold_to_nothing_and_to_everything(support, dtype):
    p, z, s = support
    nothing = s.fold(torch.empty(11, 0, dtype=dtype))
    torch.testing.assert_close(nothing.tail_NT[:, 0], torch.logsumexp(z, 1), rtol=1e-11, atol=1e-11)
    same = s.fold(p.ids_NK.to(dtype).flip(1))
    torch.testing.assert_close(same.log_probs()[:, :-1], s.log_probs()[:, :-1].flip(1))
    torch.testing.assert_close(same.tail_NT, s.tail_NT)


def test_fold_of_the_whole_vocabulary_keeps_gradients_finite():
    z = torch.randn(4, 5, requires_grad=True)
    s = ops.support_logits(z, torch.arange(5).expand(4, 5))
    folded = s.fold(torch.arange(5).expand(4, 5).flip(1))
    (g,) = torch.autograd.grad(folded.log_probs(floor=-9.0).pow(2).sum(), z)
    assert g.isfinite().all() and g.abs().max() > 0
    (want,) = torch.autograd.grad(torch.log_softmax(z, 1).pow(2).sum(), z)
    torch.testing.assert_close(g, want, rtol=1e-5, atol=1e-5)


def test_fold_refuses_what_is_not_there(support):
    p, _, s = support
    foreign = p.ids_NK[:, :1].clone()
    present = set(p.ids_NK[5].tolist())
    foreign[5] = next(i for i in range(37) if i not in present)
    with pytest.raises(ValueError, match=r"row 5 is not in the support"):
        s.fold(foreign)
    with pytest.raises(ValueError, match=r"repeats an id"):
        s.fold(p.ids_NK[:, [2, 2]])
    with pytest.raises(ValueError, match=r"\[11, M\]"):
        s.fold(p.ids_NK[:5])
    with pytest.raises(ValueError, match=r"int32 or int64"):
        s.fold(p.ids_NK.double())


@pytest.mark.parametrize(
    "pick", [slice(2, 7), slice(0, 0), torch.tensor([9, 1, 1]), torch.arange(11) % 2 == 0], ids=repr
)
def test_rows(support, pick):
    _, _, s = support
    part = s[pick]
    assert len(part) == len(torch.arange(11)[pick])
    torch.testing.assert_close(part.log_probs(2.0), s.log_probs(2.0)[pick])
    torch.testing.assert_close(part.cross_entropy(), s.cross_entropy()[pick])
    for name in ("ids_NK", "mean_N", "entropy_NT", "top1_N", "labels_N", "label_N"):
        assert torch.equal(getattr(part, name), getattr(s, name)[pick])
    assert torch.equal(s.rows(pick).tail_NT, part.tail_NT)


def test_wrong_questions(support):
    _, z, s = support
    with pytest.raises(ValueError, match=r"temperature 3\.0 was not asked for.*\(1\.0, 2\.0\)"):
        s.log_probs(3.0)
    with pytest.raises(ValueError, match=r"temperature 0\.5"):
        s.logsumexp(0.5)
    with pytest.raises(TypeError, match="slice or a tensor; got int"):
        s[3]
    ids = torch.zeros(11, 1, dtype=torch.int64)
    with pytest.raises(ValueError, match="labels_N"):
        ops.support_logits(z, ids).cross_entropy()
    with pytest.raises(ValueError, match=r"add 1\.0"):
        ops.support_logits(z, ids, labels_N=ids[:, 0], temperatures=(2.0,)).cross_entropy()
    with pytest.raises(AttributeError):
        s.tail_NT = z


def test_peer_tail_retempered_as_one_token(support):
    """Dividing the tail at temperature 1 by 2 is off by nats (DistillKit); the op's own tail is exact; fold too."""
    p, z, s = support
    on = torch.zeros(11, 38, dtype=torch.bool).scatter(1, torch.where(p.ids_NK < 0, 37, p.ids_NK), True)[:, :37]
    exact = (z / 2).masked_fill(on, -math.inf).logsumexp(1)
    assert (s.tail_NT[:, 0] / 2 - exact).abs().mean() > 0.3
    torch.testing.assert_close(s.tail_NT[:, 1], exact, rtol=1e-11, atol=1e-11)


def test_large_logits_keep_their_precision():
    """Equal logits of 1e4 in fp32: log-probabilities to 1e-6, though the spacing of the logits is 1e-3."""
    s = ops.support_logits(torch.full((1, 4), 1e4), torch.arange(4)[None])
    torch.testing.assert_close(s.log_probs()[0, :4], torch.full((4,), -math.log(4)), rtol=1e-6, atol=1e-6)
