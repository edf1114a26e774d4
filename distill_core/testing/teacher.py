"""Conformance of teachers: identity, vocabulary, and signals aligned with the rows of a padded batch.

Legend: N rows, K support size.
"""

from __future__ import annotations

from typing import Any

import torch

from distill_core.completions import TEXT, GenerationParameters, GenerationRequest
from distill_core.errors import DistillError
from distill_core.plugin import Needs
from distill_core.testing.material import random_batch
from distill_core.testing.subject import NotApplicable, Subject
from distill_core.types import RowTarget, SparseSpec, TokenBatch

K = 5


PROMPTS = ("The state of the union", "Two and two make")


def _batch(subject: Subject, teacher: Any) -> TokenBatch:
    """Random ids within the teacher's vocabulary; a teacher that knows only certain sequences offers its own."""
    own = getattr(teacher, "example_batch", None)
    if own is not None:
        batch: TokenBatch = own()
        return batch
    return random_batch(0, vocabulary=int(teacher.vocabulary().size) if _reads_tokens(subject) else 50)


def _reads_tokens(subject: Subject) -> bool:
    """Whether it gives anything about token ids; a teacher of text alone has no vocabulary."""
    return bool(subject.provides().signals - {TEXT})


def _exact(subject: Subject, teacher: Any, batch: TokenBatch, temperature: float = 1.0) -> RowTarget:
    provides = subject.provides()
    if "targets" not in provides.signals or "exact" not in provides.targets:
        raise NotApplicable("does not provide exact targets")
    needs = Needs(signals=frozenset({"targets"}), targets=("exact",), temperatures=(temperature,))
    answer = teacher.signals(batch, needs, SparseSpec(method="topk", k=K, temperatures=(temperature,)))
    assert answer.target is not None, "signals() with 'targets' among the needs returned none"
    target: RowTarget = answer.target
    return target


def _usable_temperatures(subject: Subject) -> tuple[float, ...]:
    declared = subject.provides().temperatures
    return (1.0, 2.0) if declared is None else declared


def says_who_it_is_twice_alike(subject: Subject) -> None:
    first, second = subject.build(), subject.build()
    identity = first.identity()
    assert isinstance(identity, str) and identity, f"identity() is {identity!r}, expected a non-empty str"
    assert second.identity() == identity, "two instances of the same teacher have different identities"


def describes_its_vocabulary(subject: Subject) -> None:
    if not _reads_tokens(subject):
        raise NotApplicable("gives text alone, which has no vocabulary")
    info = subject.build().vocabulary()
    assert int(info.size) > 0, f"vocabulary().size is {info.size!r}"
    assert isinstance(info.fingerprint, str) and info.fingerprint, f"fingerprint is {info.fingerprint!r}"
    assert subject.build().vocabulary().fingerprint == info.fingerprint, "the fingerprint changes"


def exact_targets_are_distributions_at_the_rows(subject: Subject) -> None:
    """Unique ids inside the vocabulary; support and tail sum to 1 at every temperature (fp32 storage: 1e-5)."""
    teacher = subject.build()
    batch = _batch(subject, teacher)
    for temperature in _usable_temperatures(subject):
        target = _exact(subject, teacher, batch, temperature)
        n_rows = len(batch.rows())
        assert len(target) == n_rows, f"{len(target)} rows were returned for {n_rows} rows of the batch"
        total_N = target.log_probs(temperature).double().exp().sum(1)
        torch.testing.assert_close(total_N, torch.ones_like(total_N), rtol=0, atol=1e-5)
        for ids_K in target.ids_NK:
            kept = ids_K[ids_K >= 0]
            assert len(kept.unique()) == len(kept), f"ids are not unique in a row: {ids_K.tolist()}"
            assert len(kept) == 0 or int(kept.max()) < int(teacher.vocabulary().size), "an id outside the vocabulary"


def a_sequence_alone_is_answered_as_in_a_batch(subject: Subject) -> None:
    """Padding and neighbours do not matter. Batched products round differently: 1e-3 in log-probability."""
    teacher = subject.build()
    batch = _batch(subject, teacher)
    whole = _exact(subject, teacher, batch).log_probs(1.0)
    start = 0
    for index in range(len(batch.keys)):
        alone = _exact(subject, teacher, batch.select_sequences(index, index + 1)).log_probs(1.0)
        torch.testing.assert_close(alone, whole[start : start + len(alone)], rtol=0, atol=1e-3)
        start += len(alone)
    assert start == len(whole)


def sampled_targets_have_weights_that_sum_to_one(subject: Subject) -> None:
    teacher = subject.build()
    if "sampled" not in subject.provides().targets:
        raise NotApplicable("does not provide sampled targets")
    batch = _batch(subject, teacher)
    temperature = _usable_temperatures(subject)[0]
    needs = Needs(signals=frozenset({"targets"}), targets=("sampled",), temperatures=(temperature,))
    spec = SparseSpec(method="threshold", k=K, temperatures=(temperature,), seed=3)
    target = teacher.signals(batch, needs, spec).target
    assert target is not None and target.kind == "sampled" and target.weights_NK is not None
    total_N = target.weights_NK.double().sum(1)
    torch.testing.assert_close(total_N, torch.ones_like(total_N), rtol=0, atol=1e-4)
    again = teacher.signals(batch, needs, spec).target
    assert again is not None and torch.equal(again.ids_NK, target.ids_NK), "the same seed draws another sample"


def hidden_states_lie_on_the_batch(subject: Subject) -> None:
    if "hidden_states" not in subject.provides().signals:
        raise NotApplicable("does not provide hidden states")
    teacher = subject.build()
    batch = _batch(subject, teacher)
    states = teacher.signals(batch, Needs(signals=frozenset({"hidden_states"}))).hidden_states
    assert states, "no hidden states were returned"
    for state in states:
        assert state.shape[:2] == batch.input_ids_BT.shape, f"hidden states have shape {tuple(state.shape)}"
        assert not state.requires_grad, "hidden states of a teacher carry a gradient"


def refuses_a_signal_it_does_not_provide(subject: Subject) -> None:
    teacher = subject.build()
    batch = _batch(subject, teacher)
    try:
        teacher.signals(batch, Needs(signals=frozenset({"no-such-signal"})))
    except DistillError as error:
        assert "no-such-signal" in str(error), f"the error does not name the signal: {error}"
    else:
        raise AssertionError("an unknown signal was silently left out; raise SignalError")


def writes_one_answer_per_request_in_order(subject: Subject) -> None:
    """Ids come back in order; the same request is answered alike, alone or beside others; a repeated id is refused."""
    if TEXT not in subject.provides().signals:
        raise NotApplicable("does not write text")
    teacher = subject.build()
    own = getattr(teacher, "example_requests", None)
    requests = [GenerationRequest(f"r{i}", prompt=text) for i, text in enumerate(PROMPTS)] if own is None else own()
    parameters = GenerationParameters(max_new_tokens=4)
    answers = list(teacher.generate(requests, parameters))
    assert [answer.id for answer in answers] == [request.id for request in requests], "other ids than were asked"
    assert all(isinstance(answer.text, str) for answer in answers), "an answer's text is no str"
    alone = list(teacher.generate(requests[:1], parameters))
    assert alone[0].text == answers[0].text, f"alone {alone[0].text!r}, beside others {answers[0].text!r}"
    try:
        list(teacher.generate([requests[0], requests[0]], parameters))
    except DistillError as error:
        assert requests[0].id in str(error), f"the error does not name the repeated id: {error}"
    else:
        raise AssertionError("two requests with one id were answered; raise DataError (unique_requests does)")


def does_not_edit_the_batch(subject: Subject) -> None:
    teacher = subject.build()
    batch = _batch(subject, teacher)
    before = (batch.input_ids_BT.clone(), batch.attention_mask_BT.clone(), batch.labels_BT.clone())
    _exact(subject, teacher, batch)
    after = (batch.input_ids_BT, batch.attention_mask_BT, batch.labels_BT)
    assert all(torch.equal(a, b) for a, b in zip(before, after, strict=True)), "the batch was edited"


CHECKS = (
    says_who_it_is_twice_alike,
    describes_its_vocabulary,
    exact_targets_are_distributions_at_the_rows,
    a_sequence_alone_is_answered_as_in_a_batch,
    sampled_targets_have_weights_that_sum_to_one,
    hidden_states_lie_on_the_batch,
    refuses_a_signal_it_does_not_provide,
    writes_one_answer_per_request_in_order,
    does_not_edit_the_batch,
)
