"""``@divergence`` functions registered in a notebook or found in a one-file plugin."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from distill_core.errors import ConfigError
from distill_core.options import DivergenceOptions
from distill_core.registry import Registry
from distill_core.simplex import divergence
from distill_core.testing.material import exact_target, random_rows, row_values

FILE = '''
import torch
from distill_core import divergence
from distill_core.simplex import LOG_FLOOR

@divergence(linear_in_teacher=True)
def my_forward_kl(teacher_logp, student_logp):
    """Forward KL, mine."""
    return (teacher_logp.exp() * (teacher_logp - student_logp)).sum(-1)

@divergence(lower_bound=False)
def power_distance(teacher_logp, student_logp, *, power: float = 2.0, label="x"):
    return (teacher_logp.exp() - student_logp.exp()).abs().pow(power).sum(-1)

@divergence
def _private(teacher_logp, student_logp): ...
'''


def test_a_file_with_plain_divergences_offers_them_in_kebab_case(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    registry = Registry()
    registry.load_file(path)
    assert [entry.id for entry in registry.components()] == ["mine:my-forward-kl", "mine:power-distance"]
    kl, power = registry.components()
    assert kl.component.summary == "Forward KL, mine."
    assert kl.component.needs.targets == ("exact", "sampled")
    assert power.component.needs.targets == ("exact",)
    objective = registry.build("objective", {"use": "power-distance", "power": 3, "temperature": 2})
    rows = random_rows(0)
    target = exact_target(rows.teacher_NV, rows.ids_NK, (2.0,))
    support_NK1 = row_values(objective, rows, rows.student_NV, target)
    p = target.log_probs(2.0).exp()
    q_NV = (rows.student_NV / 2).softmax(1)
    q_NK = q_NV.gather(1, rows.ids_NK.clamp_min(0)).masked_fill(rows.ids_NK < 0, 0)
    q = torch.cat([q_NK, 1 - q_NK.sum(1, keepdim=True)], 1)
    torch.testing.assert_close(support_NK1, (p - q).abs().pow(3).sum(1), rtol=1e-9, atol=1e-12)


def test_keywords_become_validated_options(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text(FILE)
    registry = Registry()
    registry.load_file(path)
    options: Any = registry.options("objective", "power-distance")
    assert (options.power, options.label, options.temperature) == (2.0, "x", 1.0)
    with pytest.raises(ConfigError) as caught:
        registry.options("objective", {"use": "power-distance", "powr": 1, "power": "much"})
    assert any("did you mean 'power'" in problem for problem in caught.value.problems)
    assert any(problem.startswith("power: ") for problem in caught.value.problems)
    assert registry.options_model("objective", "my-forward-kl") is DivergenceOptions


def test_a_keyword_of_every_divergence_is_refused() -> None:
    @divergence
    def clash(teacher_logp: Any, student_logp: Any, *, temperature: float = 1.0) -> Any: ...

    with pytest.raises(TypeError, match="'temperature', which every divergence has already"):
        Registry().register("objective", "clash", clash)

    @divergence
    def swallows(teacher_logp: Any, student_logp: Any, **options: Any) -> Any: ...

    with pytest.raises(TypeError, match="name its options"):
        Registry().register("objective", "swallows", swallows)


def test_a_divergence_takes_two_distributions() -> None:
    with pytest.raises(TypeError, match=r"alone\(teacher_logp\) does not take two distributions.*f\(teacher_logp, st"):

        @divergence
        def alone(teacher_logp):
            return teacher_logp.sum(-1)


@pytest.mark.parametrize("given", [3, partial(max), torch.nn.KLDivLoss()], ids=["number", "partial", "module"])
def test_a_divergence_is_a_function(given: Any) -> None:
    with pytest.raises(TypeError, match=r"expected a function f\(teacher_logp, student_logp\).*got "):
        divergence(given)


def test_a_divergence_that_does_not_sum_the_last_dimension_is_named() -> None:
    @divergence
    def forgot_the_sum(teacher_logp: Any, student_logp: Any) -> Any:
        return (teacher_logp - student_logp).abs()

    registry = Registry()
    registry.register("objective", "forgot", forgot_the_sum)
    rows = random_rows(0)
    target = exact_target(rows.teacher_NV, rows.ids_NK, (1.0,))
    with pytest.raises(ValueError, match=r"forgot-the-sum returned a tensor of shape \(5, 4\) for 5 rows"):
        row_values(registry.build("objective", "forgot"), rows, rows.student_NV, target)
