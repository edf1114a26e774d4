"""The parts of text matching against independent computations: gradients, projection, ADMM, weights, likelihood."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from distill_core.engine.data import collate
from distill_synthesis.matching.randomness import generator
from distill_synthesis.text_matching.admm import dual, pulled
from distill_synthesis.text_matching.choosing import greedy, nearest
from distill_synthesis.text_matching.descent import adam, new_moments
from distill_synthesis.text_matching.language_model import nucleus
from distill_synthesis.text_matching.network import Labels, TextNetwork, matched_names
from distill_synthesis.text_matching.projection import project
from tests.text_matching.conftest import context, make, new_student, text_records

KINDS = ("bert", "llama", "causal")


def prepared(name: str, ctx: Any, directory: Path, **options: Any) -> Any:
    """A synthesizer that has read its texts and made its students."""
    made = make(name, ctx, **options)
    made.prepare(iter(text_records()), directory)
    return made


def first_state(made: Any, directory: Path) -> Any:
    made.number_B = [n for n in range(made.texts.classes) for _ in range(made.options.candidates * made.wanted(n))]
    return made._first()


def doubled(network: TextNetwork) -> TextNetwork:
    """The same network in fp64."""
    return copy.deepcopy(network).double()


@pytest.mark.parametrize("kind", KINDS)
def test_own_embeddings_change_nothing(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    """Rows of the table in place of ids: the model's own losses, padding and pooling by ids included."""
    made = prepared("gradient-matching-text", context(tokenizer, kind), tmp_path)
    network, batch = made.networks.networks[0], collate(made.texts.sequences[:5])
    assert len({len(sequence) for sequence in made.texts.sequences[:5]}) > 1
    embeddings = network.table(batch.input_ids_BT)
    own, given = (network.losses(network.initial, batch, e) for e in (None, embeddings))
    torch.testing.assert_close(given, own, rtol=1e-6, atol=1e-6)
    if kind != "causal":
        with torch.no_grad():
            logits = network.model(**batch.model_inputs()).logits
        expected = torch.nn.functional.cross_entropy(logits, made.texts.class_N[:5], reduction="none")
        torch.testing.assert_close(own, expected, rtol=1e-5, atol=1e-6)
        one_hot = torch.nn.functional.one_hot(made.texts.class_N[:5], 3).float()
        soft = network.losses(network.initial, batch, embeddings, Labels(one_hot))
        torch.testing.assert_close(soft, own, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("matched", ["all", "last-block", "head"])
@pytest.mark.parametrize("kind", KINDS)
def test_what_is_matched(kind: str, matched: str) -> None:
    names = matched_names(new_student(kind, 0), matched, next_token=kind == "causal")
    head = {"bert": "classifier.weight", "llama": "score.weight", "causal": "model.embed_tokens.weight"}[kind]
    assert head in names
    layers = {
        name.split(".")[name.split(".").index("layers" if kind != "bert" else "layer") + 1]
        for name in names
        if ".layer." in name or ".layers." in name
    }
    assert layers == {"all": {"0", "1"}, "last-block": {"1"}, "head": set()}[matched]
    # A tied head counts, the token embedding alone does not.
    assert ("bert.embeddings.word_embeddings.weight" in names) is False
    assert ("model.embed_tokens.weight" in names) is (kind == "causal")


@pytest.mark.parametrize(
    ("kind", "labels"), [("bert", "hard"), ("bert", "soft"), ("llama", "hard"), ("causal", "hard")]
)
def test_the_gradient_by_embeddings_is_that_of_differences(
    kind: str, labels: str, tokenizer: Any, tmp_path: Path
) -> None:
    """In fp64, along random directions of X and of the label's logits; the distance is written out here."""
    made = prepared("gradient-matching-text", context(tokenizer, kind), tmp_path, labels=labels)
    variables = {
        n: x.double() if x.is_floating_point() else x for n, x in first_state(made, tmp_path).variables.items()
    }
    network = doubled(made.networks.networks[0])
    parameters = network.leaves(network.initial)
    rows = [row for row, number in enumerate(made.number_B) if number == 0]
    real = made.networks.real_gradient(network, parameters, 0, "test")
    value, by = made.matched(network, parameters, real, rows, variables)

    def distance(changed: dict[str, torch.Tensor]) -> float:
        z, x = changed["z"], changed["x"]
        losses = []
        for row in rows:
            length = int(changed["lengths"][row])
            content = made.texts.allowed_A[z[row, :length]].tolist()
            batch = collate([made.texts.framed(content, 0)])
            embeddings = network.table(batch.input_ids_BT).clone()
            start = len(made.texts.prefix)
            embeddings[0, start : start + length] = x[row, :length]
            shares = changed["labels"][row].softmax(-1)[None] if labels == "soft" else None
            losses.append(network.losses(parameters, batch, embeddings, Labels(shares)))
        g = network.gradient(torch.cat(losses).mean(), parameters)
        a, b = (torch.cat([one.flatten() for one in side]) for side in (g, real))
        return float(1 - a @ b / (a.norm() * b.norm()))

    assert value == pytest.approx(distance(variables), rel=1e-9 if kind == "bert" else 1e-5)
    assert set(by) == ({"x", "labels"} if labels == "soft" else {"x"})
    for name, found in by.items():
        direction = torch.zeros_like(variables[name])
        direction[rows] = torch.randn(found.shape, generator=generator("direction"), dtype=torch.float64)
        # Llama's norm computes in fp32 whatever it is given: a longer step, or its rounding shows.
        step, tolerance = (1e-5, 1e-5) if kind == "bert" else (1e-4, 1e-3)
        ends = [distance({**variables, name: variables[name] + sign * step * direction}) for sign in (1, -1)]
        slope = (ends[0] - ends[1]) / (2 * step)
        assert abs(slope) > 1e-7
        assert float((found * direction[rows]).sum()) == pytest.approx(slope, rel=tolerance)


@pytest.mark.parametrize("kind", KINDS)
def test_projection_is_onto_the_table_and_likely(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    """Against a search over all tokens, text by text and place by place."""
    made = prepared("gradient-matching-text", context(tokenizer, kind), tmp_path, top_k=5)
    first_state(made, tmp_path)
    likely, table = made._likelihood(tmp_path), made.table_AD
    points = torch.randn(len(made.number_B), 4, table.shape[1], generator=generator("points")) * table.std()
    found = project(points, table, likely)
    assert found.shape == points.shape[:2] and int(found.min()) >= 0 and int(found.max()) < len(table)
    free = project(points, table, None)
    for row in range(len(points)):
        for place in range(4):
            distances = (table - points[row, place]).norm(dim=1)
            assert int(free[row, place]) == int(distances.argmin())
            allowed = likely(found[:, :place])[row].tolist()
            first = kind == "causal" and place == 0  # nothing to condition on
            assert len(set(allowed)) == (len(table) if first else 5)
            assert int(found[row, place]) == min(allowed, key=lambda one: float(distances[one]))
    assert not torch.equal(found, free)


def test_likelihood_is_the_models_own(tokenizer: Any, tmp_path: Path) -> None:
    """The student's next-token distribution on the allowed ids, by its own forward pass."""
    made = prepared("gradient-matching-text", context(tokenizer, "causal"), tmp_path, top_k=3)
    first_state(made, tmp_path)
    places = torch.tensor([[0, 1]] * len(made.number_B))
    found = made._likelihood(tmp_path)(places)[0].tolist()
    with torch.no_grad():
        logits = made.networks.networks[0].model(input_ids=made.texts.allowed_A[[0, 1]][None]).logits[0, -1]
    ranked = sorted(range(len(made.texts.allowed_A)), key=lambda one: -float(logits[made.texts.allowed_A[one]]))
    assert found == ranked[:3]


def test_admm_is_numpys() -> None:
    """On |X - A|^2 / 2 with X = Z in a set of points: the same rounds in numpy, the minimum over X in closed form."""
    table = np.array([[0.0, 0.0], [1.0, 0.2], [-0.5, 1.0]])
    goal, rho = np.array([[[0.7, 0.1], [-0.2, 0.8]]]), 0.5
    x, z, u = goal * 0, goal * 0, goal * 0
    tx, tz, tu = (torch.from_numpy(one.copy()) for one in (x, z, u))
    tgoal, ttable = torch.from_numpy(goal), torch.from_numpy(table)
    for _ in range(6):
        x = (goal + rho * (z - u)) / (1 + rho)
        z = table[np.linalg.norm((x + u)[..., None, :] - table, axis=-1).argmin(-1)]
        u = u + x - z
        for _ in range(200):
            tx = tx - 0.5 * pulled(tx - tgoal, tx, tz, tu, rho)
        tz = ttable[project(tx + tu, ttable, None)]
        tu = dual(tx, tz, tu)
        for own, other in ((tx, x), (tz, z), (tu, u)):
            np.testing.assert_allclose(own.numpy(), other, rtol=0, atol=1e-12)
    assert np.abs(u).max() > 0.1


def test_a_round_moves_by_distance_and_pull_and_the_dual_follows(tokenizer: Any, tmp_path: Path) -> None:
    """With one inner step, Adam's first step is the sign of gradient + pull, whatever its size."""
    made = prepared("gradient-matching-text", context(tokenizer), tmp_path, inner_steps=1, rho=3.0, likelihood="none")
    state = first_state(made, tmp_path)
    made.likely = None
    state.variables["u"] = torch.randn(state.variables["u"].shape, generator=generator("dual"))
    before = {name: x.clone() for name, x in state.variables.items()}
    network, parameters = made.networks.at(0)
    gradient = torch.zeros_like(before["x"])
    for number in range(3):
        rows = [row for row, one in enumerate(made.number_B) if one == number]
        real = made.networks.real_gradient(network, parameters, number, 0)
        gradient[rows] = made.matched(network, parameters, real, rows, before)[1]["x"]
    rho = 3.0 / float((made.table_AD**2).sum(1).mean())
    gradient = gradient + rho * (before["x"] - made.table_AD[before["z"]] + before["u"])
    made._round(state)
    rate = made.options.learning_rate * float((made.table_AD**2).mean() ** 0.5)
    moved = before["x"] - state.variables["x"]
    torch.testing.assert_close(moved, rate * gradient.sign(), rtol=1e-4, atol=1e-6)
    z = made.table_AD[state.variables["z"]]
    torch.testing.assert_close(state.variables["u"], before["u"] + state.variables["x"] - z)
    assert torch.equal(state.variables["pool"][0], state.variables["z"])


def test_the_distance_falls(tokenizer: Any, tmp_path: Path) -> None:
    """One student, one state, all real texts, so that rounds compare; without the pull to tokens it falls far."""
    options = {"networks": 1, "network_states": 1, "network_steps": 0, "real_batch": 99, "start": "random"}
    found = {}
    for rho in (0.0, 0.5):
        made = make("gradient-matching-text", context(tokenizer), **options, rho=rho, iterations=15, inner_steps=4)
        list(made.synthesize(iter(text_records()), tmp_path / str(rho)))
        found[rho] = made.summary()["gradient-matching-text"]
    free, held = found[0.0], found[0.5]
    assert free["distance_last_round"] < 0.2 * free["distance_first_round"], free
    assert held["distance_last_round"] < held["distance_first_round"], held
    assert held["relative_gap_to_tokens"] < free["relative_gap_to_tokens"]


@pytest.mark.parametrize("kind", ["bert", "causal"])
def test_the_generators_gradient_is_that_of_weighted_gradients(kind: str, tokenizer: Any, tmp_path: Path) -> None:
    """In fp64: gradients of each text by itself, their weighted sum, the cosine, and the chain rule by hand."""
    made = prepared("generator-matching", context(tokenizer, kind), tmp_path, weight_temperature=0.7)
    network = doubled(made.networks.networks[0])
    parameters = network.leaves(network.initial)
    real = made.networks.real_gradient(network, parameters, 0, "test")
    contents = [list(content) for content in made.texts.contents[:4]]
    model = made.language_model()
    model.model.double()
    weights = {name: x.requires_grad_() for name, x in model.initial().items()}
    likelihood = model.log_likelihood(weights, model.rows(contents, [0] * 4))
    value = made.matched(network, parameters, real, contents, 0, likelihood)
    found = torch.autograd.grad(value, likelihood, retain_graph=True)[0]

    rows = []
    for content in contents:
        loss = network.losses(parameters, collate([made.texts.framed(content, 0)])).sum()
        rows.append(torch.cat([g.flatten() for g in network.gradient(loss, parameters)]).numpy())
    g_nP, r_P = np.stack(rows), torch.cat([g.flatten() for g in real]).numpy()
    scores = likelihood.detach().numpy() / 0.7
    w_n = np.exp(scores - scores.max()) / np.exp(scores - scores.max()).sum()
    mean_P = w_n @ g_nP
    norms = np.linalg.norm(mean_P) * np.linalg.norm(r_P)
    tolerance = 1e-9 if kind == "bert" else 1e-5  # Llama's norm computes in fp32 whatever it is given
    assert float(value.detach()) == pytest.approx(1 - mean_P @ r_P / norms, rel=tolerance)
    by_mean_P = -(r_P / norms - (mean_P @ r_P) / norms * mean_P / (mean_P @ mean_P))
    by_weight_n = g_nP @ by_mean_P
    expected = w_n * (by_weight_n - w_n @ by_weight_n) / 0.7
    np.testing.assert_allclose(found.numpy(), expected, rtol=100 * tolerance, atol=tolerance**2)
    by_generator = torch.autograd.grad(value, list(weights.values()))
    assert all(bool(g.isfinite().all()) for g in by_generator) and any(bool(g.abs().max() > 0) for g in by_generator)


def test_likelihood_of_a_text_is_the_mean_over_its_tokens_and_end(tokenizer: Any, tmp_path: Path) -> None:
    """One text at a time, without padding, from the softmax."""
    made = prepared("generator-matching", context(tokenizer), tmp_path)
    model = made.language_model()
    weights = model.initial()
    contents, classes = made.texts.contents[:6], [0, 1, 2, 0, 1, 2]
    found = model.log_likelihood(weights, model.rows(contents, classes))
    for content, number, value in zip(contents, classes, found, strict=True):
        row = model.rows([content], [number])
        shares = model.logits(weights, row)[0].softmax(-1)
        assert float(shares[:, model.tokens : model.end].max()) == 0
        logs = [float(shares[t, int(row[0, t + 1])].log()) for t in range(row.shape[1] - 1)]
        assert float(value) == pytest.approx(sum(logs) / len(logs), rel=1e-4)


def test_training_makes_real_texts_likelier_and_is_by_class(tokenizer: Any, tmp_path: Path) -> None:
    made = prepared(
        "generator-matching",
        context(tokenizer),
        tmp_path,
        language_model={"hidden_size": 32, "heads": 2, "layers": 1, "steps": 120, "batch": 24},
    )
    model = made.language_model()
    rows = model.rows(made.texts.contents, made.texts.class_N.tolist())
    other = model.rows(made.texts.contents, ((made.texts.class_N + 1) % 3).tolist())
    weights = model.trained(tmp_path, made.key)
    trained, untrained = model.log_likelihood(weights, rows), model.log_likelihood(model.initial(), rows)
    assert float(trained.mean()) > float(untrained.mean()) + 1
    assert float(trained.mean()) > float(model.log_likelihood(weights, other).mean()) + 0.2


def test_adam_is_torchs() -> None:
    start = torch.randn(5, 3, generator=generator("adam"))
    own, theirs = {"x": start.clone()}, start.clone().requires_grad_()
    moments, optimizer = new_moments(own), torch.optim.Adam([theirs], lr=0.03)
    for step in range(5):
        gradient = torch.randn(5, 3, generator=generator("adam", step))
        adam(own, {"x": gradient}, moments, rate=0.03, step=step)
        theirs.grad = gradient
        optimizer.step()
    torch.testing.assert_close(own["x"], theirs.detach(), rtol=1e-5, atol=1e-6)


def test_nucleus_keeps_the_likeliest_and_at_least_one() -> None:
    shares = torch.tensor([[0.05, 0.6, 0.25, 0.1], [0.25, 0.25, 0.25, 0.25]])
    assert nucleus(shares, 0.01)[0].tolist() == [0, 1, 0, 0]
    torch.testing.assert_close(nucleus(shares, 0.8)[0], torch.tensor([0, 0.6 / 0.85, 0.25 / 0.85, 0]))
    torch.testing.assert_close(nucleus(shares, 1.0), shares)


def test_choices() -> None:
    """Greedy against all sets' order of growth; nearest against sorting."""
    drawn = torch.randn(6, 4, generator=generator("choices"))
    goal = torch.randn(4, generator=generator("goal"))
    gradients = [[row[:2], row[2:]] for row in drawn]

    def distance(gradient: Any) -> float:
        return float((torch.cat(list(gradient)) - goal).norm())

    assert nearest(gradients, distance, 3) == (drawn - goal).norm(dim=1).argsort()[:3].tolist()
    chosen: list[int] = []
    for _ in range(3):
        left = [i for i in range(6) if i not in chosen]
        chosen.append(min(left, key=lambda i: float((drawn[[*chosen, i]].mean(0) - goal).norm())))
    assert greedy(gradients, distance, 3) == chosen
    assert sorted(greedy(gradients, distance, 99)) == list(range(6)) and greedy([], distance, 2) == []
