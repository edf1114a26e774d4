"""Lane `aot`: what every kernel becomes on every chip, against baseline.json.

`python -m tests.triton.compile_report --write` rewrites the baseline after a change that is meant.
"""

from __future__ import annotations

import json

import pytest
import triton

from tests.triton.compile_report import BASELINE, SHARED_LIMIT, TARGETS, report
from tests.triton.kernel_cases import cases

pytestmark = pytest.mark.aot
KEPT = json.loads(BASELINE.read_text())
ALL = [pytest.param(chip, case, id=f"{chip}-{case.name}") for chip in TARGETS for case in cases(chip)]


def test_the_baseline_holds_these_kernels_and_this_compiler():
    assert KEPT["triton"] == triton.__version__
    assert {c: list(found) for c, found in KEPT["chips"].items()} == {c: [x.name for x in cases(c)] for c in TARGETS}


@pytest.mark.parametrize(("chip", "case"), ALL)
def test_kernel(chip, case):
    found, kept = report(case, chip), KEPT["chips"][chip][case.name]
    assert found["spills"] == 0
    assert found["shared_bytes"] <= SHARED_LIMIT[chip]
    if case.uses_matrix:
        assert found["matrix"] > 0
    if case.uses_matrix and chip == "sm_90":
        assert found["wgmma"] > 0
    if case.uses_matrix and chip == "sm_100":
        assert found["tcgen05"] > 0
    if case.streams:
        assert found["vector_loads"] > 0
    assert found == kept, "the compiler's output changed: if it is meant, rewrite the baseline"
