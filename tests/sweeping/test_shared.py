from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL, draw_classes, settings_of

from headstart.backbones.backbone import load_backbone
from headstart.config.train import TrainSettings
from headstart.data.prepare import prepare_data
from headstart.datasets import open_data
from headstart.sweeping import trial


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> Iterator[Counter[str]]:
    """How often data and backbones were prepared, by the names of the functions."""
    counts: Counter[str] = Counter()

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[function.__name__] += 1
            return function(*args, **kwargs)

        return call

    for function in (open_data, load_backbone):
        monkeypatch.setattr(trial, function.__name__, counted(function))
    trial.forget_shared()
    yield counts
    trial.forget_shared()


def settings(root: Path, *overrides: str) -> TrainSettings:
    return settings_of(*SMALL, f"data.root={root}", "data.split.train=6", "data.split.valid=3", *overrides)


def prepare(settings: TrainSettings) -> tuple[str, Any, Any]:
    backbone = trial.shared_backbone(settings)
    return trial.shared_data(settings).manifest.fingerprint, backbone.source, backbone.preprocessing


def prepare_alone(settings: TrainSettings) -> tuple[str, Any, Any]:
    backbone = load_backbone(settings.model, settings.data, seed=settings.seed)
    return prepare_data(settings.data, settings.seed).manifest.fingerprint, backbone.source, backbone.preprocessing


@pytest.mark.slow
@pytest.mark.parametrize(
    ("first", "second", "data", "backbones"),
    [
        ("model.lr=0.01", "model.lr=0.001 data.batch_size=4 data.balance=loss", 1, 1),
        ("seed=0", "seed=1", 2, 2),
        ("data.image_size=32", "data.image_size=24", 1, 2),
        ("data.std=[1,1,1]", "data.std=[1,1,2]", 1, 2),
        ("model.arch=shufflenet_v2_x0_5", "model.arch=squeezenet1_1", 1, 2),
        ("data.split.train=6", "data.split.train=5", 2, 1),
        ("data.on_leak=warn", "data.on_leak=drop", 2, 1),
    ],
)
def test_shared__prepared_again_only_if_a_setting_matters(
    flat: Path, calls: Counter[str], first: str, second: str, data: int, backbones: int
) -> None:
    for overrides in (first, second):
        of_trial = settings(flat, *overrides.split())
        prepared = prepare(of_trial)
        assert prepared == prepare_alone(of_trial)
    assert prepare(of_trial) == prepared
    assert calls == {"open_data": data, "load_backbone": backbones}


def test_backbone__new_for_each_trial_that_trains_it(flat: Path, calls: Counter[str]) -> None:
    frozen, full = settings(flat), settings(flat, "finetune=full")
    kept = trial.shared_backbone(frozen)
    trained = [trial.shared_backbone(full) for _ in range(2)]
    assert calls["load_backbone"] == 3
    assert len({id(backbone) for backbone in (kept, *trained)}) == 3
    assert trial.shared_backbone(frozen) is kept


@pytest.mark.slow
def test_forget_shared__next_sweep_sees_changed_images(flat: Path, calls: Counter[str]) -> None:
    before = prepare(settings(flat))
    draw_classes(flat, 1, first_seed=77)
    trial.forget_shared()
    after = prepare(settings(flat))
    assert after != before
    assert after == prepare_alone(settings(flat))
    assert calls == {"open_data": 2, "load_backbone": 2}
