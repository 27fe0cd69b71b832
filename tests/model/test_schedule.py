"""What is trained when, and how fast."""

from typing import Any

import pytest
import torch
from torch import nn

from headstart.config.model import FinetuneSettings
from headstart.model.classifier import lr_factor, stage_factors, unfrozen_stages


def finetune(**changes: Any) -> FinetuneSettings:
    frozen: dict[str, Any] = {
        "epochs": [],
        "lr_factors": [],
        "rest": None,
        "batch_norm": False,
        "mixup": 0.0,
        "cutmix": 0.0,
    }
    return FinetuneSettings(**frozen | changes)


def test_unfrozen_stages__are_a_pure_function_of_the_epoch() -> None:
    gradual = finetune(epochs=[2, 5], lr_factors=[0.1, 0.01])
    assert [unfrozen_stages(gradual, epoch, 5) for epoch in range(7)] == [0, 0, 1, 1, 1, 2, 2]
    with_rest = finetune(epochs=[2], lr_factors=[0.1], rest=4)
    assert [unfrozen_stages(with_rest, epoch, 3) for epoch in range(6)] == [0, 0, 1, 1, 3, 3]
    assert (gradual.first_epoch, with_rest.first_epoch, finetune().first_epoch) == (2, 2, None)
    assert (gradual.last_epoch, with_rest.last_epoch, finetune().last_epoch) == (5, 4, None)


def test_unfrozen_stages__never_more_than_the_backbone_has() -> None:
    gradual = finetune(epochs=[0, 1, 2], lr_factors=[0.3, 0.2, 0.1])
    assert [unfrozen_stages(gradual, epoch, 2) for epoch in range(4)] == [1, 2, 2, 2]
    assert stage_factors(gradual, 2) == [0.3, 0.2]


def test_stage_factors__the_rest_is_trained_as_fast_as_the_head() -> None:
    assert stage_factors(finetune(epochs=[2, 5], lr_factors=[0.1, 0.01]), 5) == [0.1, 0.01]
    assert stage_factors(finetune(epochs=[2], lr_factors=[0.1], rest=4), 3) == [0.1, 1.0, 1.0]
    assert stage_factors(finetune(rest=0), 3) == [1.0, 1.0, 1.0]
    assert stage_factors(finetune(), 3) == []


def curve(kind: str, warmup: float, total: int = 100) -> list[float]:
    return [lr_factor(step, kind=kind, warmup=warmup, total=total) for step in range(total)]


def test_lr_factor__constant_and_cosine_with_warmup() -> None:
    assert curve("constant", 0.0) == [1.0] * 100
    constant = curve("constant", 0.1)
    assert constant[:10] == sorted(constant[:10])
    assert constant[10:] == [1.0] * 90
    cosine = curve("cosine", 0.0)
    assert cosine[0] == 1.0
    assert cosine == sorted(cosine, reverse=True)
    assert cosine[50] == pytest.approx(0.5)
    assert cosine[-1] < 0.001


def test_lr_factor__one_cycle_equals_pytorchs() -> None:
    optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=1.0)
    reference = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, max_lr=1.0, total_steps=101, pct_start=31 / 101, cycle_momentum=False
    )
    expected = []
    for _ in range(100):
        expected.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        reference.step()
    assert curve("onecycle", 0.3) == pytest.approx(expected, abs=1e-6)
