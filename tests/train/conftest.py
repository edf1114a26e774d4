"""Fixtures of the training tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from distill_core.engine.data import TokenDataset
from tests.conftest import make_tiny_llama
from tests.train.setting import save_student, write_data


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> TokenDataset:
    return write_data(tmp_path_factory.mktemp("data"))


@pytest.fixture(scope="session")
def student_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny random Llama as a Transformers directory."""
    return save_student(tmp_path_factory.mktemp("student"), make_tiny_llama(seed=1))
