"""`topk_logits` and `linear_topk_logits`: order, ties, tails, the valid vocabulary."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distill_core import ops

inf = math.inf
every_impl = pytest.mark.parametrize("impl", ["reference", "cpu"])


def by_definition(z, k, t, limit):
    """Sort (-value, id) in Python."""
    ids, tails = [], []
    for row in z.double():
        order = sorted(range(limit), key=lambda i: (-row[i].item(), i))
        ids.append(order[:k])
        tails.append(torch.logsumexp(row[order[k:]] / t, 0))
    return torch.tensor(ids, dtype=torch.int64).reshape(z.shape[0], k), torch.stack(tails)


@every_impl
@settings(max_examples=60, deadline=None)
@given(
    n=st.integers(1, 5),
    v=st.integers(1, 40),
    data=st.data(),
    levels=st.sampled_from([1, 2, 5, 1000]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16, torch.float16]),
)
def test_equals_the_definition_with_ties(impl, n, v, data, levels, dtype):
    if impl == "cpu" and dtype == torch.float64:
        dtype = torch.float32
    limit = data.draw(st.integers(0, v))
    k = data.draw(st.integers(0, limit))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    z = (torch.randint(0, levels, (n, v), generator=g) * (20.0 / levels) - 10).to(dtype)
    found = ops.topk_logits(z, k, temperatures=(1.0, 2.0), valid_vocab=limit, impl=impl)
    ids, tail = by_definition(z, k, 2.0, limit)
    assert torch.equal(found.ids_NK, ids)
    assert torch.equal(found.logits_NK.double(), z.double().gather(1, ids))
    torch.testing.assert_close(found.tail_NT[:, 1].double(), tail, rtol=1e-5, atol=1e-5)
    if limit:
        logp, rest = found.log_probs(2.0)
        want = torch.log_softmax(z.double()[:, :limit] / 2, 1).gather(1, ids)
        torch.testing.assert_close(logp.double(), want, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(logp.exp().sum(1) + rest.exp(), torch.ones(n, dtype=rest.dtype), rtol=0, atol=1e-5)


@every_impl
@settings(max_examples=60, deadline=None)
@given(v=st.integers(1, 300), data=st.data())
def test_nan_comes_first_then_infinity_ties_by_lowest_id(impl, v, data):
    """NaN is above +inf wherever it stands; what is left over makes the tail NaN, +inf, or a number."""
    k, seed = data.draw(st.integers(0, v)), data.draw(st.integers(0, 10**6))
    g = torch.Generator().manual_seed(seed)
    values = torch.tensor([math.nan, inf, -inf, 1.0, 2.0])
    z = values[torch.multinomial(torch.tensor([0.1, 0.1, 0.4, 1.0, 1.0]), 4 * v, replacement=True, generator=g)].view(
        4, v
    )
    found = ops.topk_logits(z, k, impl=impl)
    for row, ids, tail in zip(z, found.ids_NK.tolist(), found.tail_NT[:, 0].double(), strict=True):
        numbers = row.tolist()
        order = sorted(
            range(v), key=lambda i: (not math.isnan(numbers[i]), -numbers[i] if numbers[i] == numbers[i] else 0, i)
        )
        assert ids == order[:k]
        want = torch.logsumexp(row[order[k:]].double(), 0)
        torch.testing.assert_close(tail, want, rtol=1e-5, atol=1e-5, equal_nan=True)


@every_impl
def test_whole_vocabulary_has_an_empty_tail(impl):
    z = torch.randn(3, 7)
    found = ops.topk_logits(z, 7, impl=impl)
    assert (found.tail_NT == -inf).all()
    logp, tail = found.log_probs()
    assert (tail == -inf).all()
    torch.testing.assert_close(logp, torch.log_softmax(z, 1).sort(1, descending=True).values)


@every_impl
def test_padding_rows_of_a_head_are_ignored(impl):
    z = torch.randn(4, 20)
    z[:, 15:] = 50.0
    z[0, 16] = math.nan
    found = ops.topk_logits(z, 5, valid_vocab=15, impl=impl)
    plain = ops.topk_logits(z[:, :15].contiguous(), 5, impl=impl)
    assert torch.equal(found.ids_NK, plain.ids_NK) and torch.equal(found.tail_NT, plain.tail_NT)


@pytest.mark.parametrize("options", [{}, {"softcap": 3.0, "logit_scale": 1.4}, {"valid_vocab": 29}], ids=str)
@pytest.mark.parametrize(
    ("impl", "dtype"),
    [
        ("reference", torch.float64),
        ("reference", torch.float32),
        ("reference", torch.bfloat16),
        ("cpu", torch.float32),
        ("cpu", torch.bfloat16),
        ("cpu", torch.float16),
    ],
    ids=str,
)
def test_linear_equals_topk_of_the_logits(make_problem, options, impl, dtype, monkeypatch):
    p = make_problem(dtype=dtype, spread=0.3)
    exact = p.double()
    z = exact.dense(softcap=options.get("softcap"), scale=options.get("logit_scale", 1.0))
    want = ops.topk_logits(z.detach(), 6, temperatures=(1.0, 3.0), valid_vocab=options.get("valid_vocab"))
    monkeypatch.setattr("distill_core.ops.row_chunks.MAX_ROWS", 4)
    with torch.autocast("cpu", torch.bfloat16):
        found = ops.linear_topk_logits(
            p.hidden_ND, p.weight_VD, 6, bias=p.bias_V, temperatures=(1.0, 3.0), impl=impl, **options
        )
    assert torch.equal(found.ids_NK, want.ids_NK)
    torch.testing.assert_close(found.logits_NK.double(), want.logits_NK, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found.tail_NT.double(), want.tail_NT, rtol=1e-5, atol=1e-5)
    assert not found.logits_NK.requires_grad


@every_impl
def test_many_chunks_equal_one(impl, monkeypatch):
    z = torch.randint(0, 6, (23, 50)).float()
    whole = ops.topk_logits(z, 9, impl=impl)
    monkeypatch.setattr("distill_core.ops.row_chunks.MAX_ROWS", 2)
    cut = ops.topk_logits(z, 9, impl=impl)
    assert torch.equal(whole.ids_NK, cut.ids_NK) and torch.equal(whole.tail_NT, cut.tail_NT)


@every_impl
@pytest.mark.parametrize("k", [0, 3])
def test_no_rows(impl, k):
    found = ops.linear_topk_logits(torch.zeros(0, 4), torch.zeros(9, 4), k, impl=impl)
    assert found.ids_NK.shape == (0, k) and found.tail_NT.shape == (0, 1)
    assert found.log_probs()[0].shape == (0, k)


def test_input_is_not_edited():
    z = torch.randn(5, 9, dtype=torch.float64)
    before = z.clone()
    ops.topk_logits(z, 4)
    ops.sample_support(z, 4)
    ops.support_logits(z, torch.zeros(5, 1, dtype=torch.int64))
    assert torch.equal(z, before)


@pytest.mark.parametrize("qbar", [1e-4, 1e-8])
@every_impl
def test_tiny_tails_are_exact(peaked_tail, impl, qbar):
    z, ids = peaked_tail(qbar)
    logp, tail = ops.topk_logits(z, 4, impl=impl).log_probs()
    assert (tail.double() - math.log(qbar)).abs().max() < 1e-5
    del logp, ids


@every_impl
def test_impossible_entries(impl):
    z = torch.tensor([[0.0, -inf, -inf, 1.0], [-inf, -inf, -inf, -inf]])
    found = ops.topk_logits(z, 3, impl=impl)
    assert found.ids_NK.tolist() == [[3, 0, 1], [0, 1, 2]]
    logp, tail = found.log_probs()
    assert not logp.isnan().any() and not tail.isnan().any()
    assert logp[0, 2] == -inf and (logp[1] == -inf).all()


@every_impl
@pytest.mark.parametrize("dynamic", [False, True], ids=["static", "dynamic"])
def test_teacher_ops_compile_to_one_graph(make_problem, impl, dynamic):
    def teacher(hidden, weight):
        z = hidden @ weight.T
        top = ops.topk_logits(z, 4, temperatures=(1.0, 2.0), impl=impl)
        linear = ops.linear_topk_logits(hidden, weight, 2, impl=impl)
        return (*top.log_probs(2.0), *ops.sample_support(z, 4, seed=3, impl=impl), linear.ids_NK)

    torch._dynamo.reset()
    compiled = torch.compile(teacher, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for n, v in ((7, 23), (9, 31)) if dynamic else ((7, 23),):
        p = make_problem(n=n, v=v, dtype=torch.float32)
        hidden, weight = p.hidden_ND.detach(), p.weight_VD.detach()
        torch.testing.assert_close(compiled(hidden, weight), teacher(hidden, weight))


@settings(max_examples=40, deadline=None)
@given(
    n=st.integers(0, 4),
    v=st.integers(1, 700),
    data=st.data(),
    dtype=st.sampled_from([torch.float32, torch.bfloat16, torch.float16]),
    layout=st.sampled_from(["rows", "columns of wider rows", "every second row", "transposed", "one row repeated"]),
)
def test_kernel_equals_reference_for_any_layout(n, v, data, dtype, layout):
    k = data.draw(st.integers(0, v))
    g = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    z = (torch.randn(n, v, generator=g) * 4).to(dtype)
    if layout == "columns of wider rows":
        z = torch.cat([torch.full((n, 3), 99.0, dtype=dtype), z, torch.full((n, 5), 99.0, dtype=dtype)], 1)[:, 3:-5]
    elif layout == "every second row":
        z = z.repeat_interleave(2, 0)[::2]
    elif layout == "transposed":
        z = z.t().contiguous().t()
    elif layout == "one row repeated":
        z = z[:1].expand(n, v)
    found = ops.topk_logits(z, k, temperatures=(1.0, 0.5), impl="cpu")
    want = ops.topk_logits(z.double(), k, temperatures=(1.0, 0.5), impl="reference")
    assert torch.equal(found.ids_NK, want.ids_NK) and torch.equal(found.logits_NK.double(), want.logits_NK)
    torch.testing.assert_close(found.tail_NT.double(), want.tail_NT, rtol=1e-6, atol=2e-6)


def test_another_temperature_is_refused():
    found = ops.topk_logits(torch.zeros(1, 4), 2)
    with pytest.raises(ValueError, match=r"temperature 2\.0 was not asked for"):
        found.log_probs(2.0)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"k": 10}, "k must be at least 0 and at most 9"),
        ({"k": -1}, "got -1"),
        ({"k": 5, "valid_vocab": 4}, "at most 4"),
        ({"k": 1, "valid_vocab": 10}, "valid_vocab must lie between 0 and V = 9"),
        ({"k": 1, "temperatures": (0.0,)}, "positive"),
    ],
)
def test_wrong_options_are_named(options, words):
    with pytest.raises(ValueError, match=words):
        ops.topk_logits(torch.zeros(2, 9), **options)
    with pytest.raises(ValueError, match=words):
        ops.linear_topk_logits(torch.zeros(2, 3), torch.zeros(9, 3), **options)
    with pytest.raises(ValueError, match="vocabulary is empty"):
        ops.topk_logits(torch.zeros(2, 0), 0)
