"""Looking for GPUs."""

import os

import pytest
import torch

from headstart.training.fit import ASKS_DRIVER, skip_cuda_probe


@pytest.mark.parametrize("before", ["1", "0"])
def test_without_a_gpu__the_driver_is_not_looked_for(before: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(ASKS_DRIVER, before)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with skip_cuda_probe():
        assert os.environ[ASKS_DRIVER] == "0"
    assert os.environ[ASKS_DRIVER] == before


@pytest.mark.parametrize(("before", "gpu"), [("1", True), (None, False)])
def test_environment__is_otherwise_left_alone(before: str | None, gpu: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    if before is None:
        monkeypatch.delenv(ASKS_DRIVER, raising=False)
    else:
        monkeypatch.setenv(ASKS_DRIVER, before)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    with skip_cuda_probe():
        assert os.environ.get(ASKS_DRIVER) == before
