"""What a fit returns: the weights of its best epoch, whichever checkpoints are kept."""

import json
import multiprocessing
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import SMALL, Script, settings_of

from headstart.backbones.backbone import load_backbone, state_sha256
from headstart.data.prepare import prepare_data
from headstart.evaluation.predictions import predict_split
from headstart.files import replacing
from headstart.model.checkpoint import read_checkpoint
from headstart.model.closed_form import fit_temperature
from headstart.model.image_classifier import UNUSUAL
from headstart.training.callbacks.best_and_last import BestOfTrial
from headstart.training.fit import Fitted, fit

RULE = ("data.split.train=6", "data.split.valid=3")
WITHOUT_TEST = ("data.split.train=5", "data.split.valid=7")
# With so large a learning rate the validation loss soon gets worse.
EARLY_BEST = ("model.lr=0.1", "trainer.max_epochs=4", "callbacks.early_stopping=null")
EMA_AND_FULL = ("callbacks=ema", "finetune=full", "model.arch=timm/test_resnet")
Train = Callable[..., Fitted]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of temporary files, empty at first."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture
def train(script: Script, flat: Path, monkeypatch: pytest.MonkeyPatch) -> Train:
    """Runs train.py with a run folder and overrides; gives what `fit` returned."""
    fitted: list[Fitted] = []
    original = fit

    def spy(*arguments: Any) -> Fitted:
        fitted.append(original(*arguments))
        return fitted[-1]

    monkeypatch.setattr("headstart.pipeline.fit", spy)

    def run(folder: Path, *overrides: str) -> Fitted:
        result = script("train.py", f"data.root={flat}", *SMALL, f"hydra.run.dir={folder}", *overrides)
        assert result.status == 0, result.err
        return fitted[-1]

    return run


def head_of(state: dict[str, torch.Tensor]) -> dict[str, list[Any]]:
    return {key: value.tolist() for key, value in state.items() if key.startswith("head.")}


def head_in(run: Path, name: str) -> dict[str, list[Any]]:
    return head_of(read_checkpoint(run / "checkpoints" / name)["state_dict"])


@pytest.mark.parametrize(
    "choices",
    [
        pytest.param(WITHOUT_TEST, id="without test split"),
        pytest.param(
            (*RULE, "callbacks=ema", "finetune=full", "model.arch=squeezenet1_1"), id="with test split, ema and full"
        ),
    ],
)
def test_fit__returns_the_weights_of_the_best_epoch_with_checkpoints_or_without(
    train: Train, tmp_path: Path, temporary: Path, choices: tuple[str, ...]
) -> None:
    choices = (*EARLY_BEST, *choices)
    kept = train(tmp_path / "kept", *choices)
    metrics = json.loads((tmp_path / "kept" / "metrics.json").read_text())
    assert ("test/acc" in metrics) == (choices[-1] not in WITHOUT_TEST)
    assert kept.best_epoch == metrics["best_epoch"] < 4
    assert head_in(tmp_path / "kept", "best.ckpt") != head_in(tmp_path / "kept", "last.ckpt")
    assert head_of(kept.classifier.state_dict()) == head_in(tmp_path / "kept", "best.ckpt")
    fitted = train(tmp_path / "run", *choices, "callbacks.checkpoint=null")
    assert fitted.best_epoch == kept.best_epoch
    assert state_sha256(fitted.classifier) == state_sha256(kept.classifier)
    assert not (tmp_path / "run" / "checkpoints").exists()
    found = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert found | {"seconds": 0} == metrics | {"seconds": 0}
    assert not list(temporary.iterdir())


@pytest.mark.parametrize(
    "choices",
    [
        pytest.param(("callbacks=ema",), id="frozen and ema"),
        pytest.param(("finetune=gradual", "finetune.epochs=[1]", "finetune.lr_factors=[0.5]"), id="gradual"),
        pytest.param(EMA_AND_FULL, id="ema and full"),
        pytest.param(("callbacks.checkpoint=null", "data.balance=sampler"), id="in memory"),
    ],
)
def test_fit__temperature_and_threshold_are_those_of_the_weights(
    train: Train, tmp_path: Path, choices: tuple[str, ...]
) -> None:
    fitted = train(tmp_path / "run", *WITHOUT_TEST, *EARLY_BEST, "trainer.max_epochs=3", *choices)
    predictions = predict_split(fitted.classifier, fitted.source.eval_loader("valid"))
    assert fitted.classifier.temperature == pytest.approx(
        fit_temperature(predictions.log_probs, predictions.labels), rel=1e-2
    )
    assert predictions.familiarity is not None
    # Stored features are less precise than those of an unfrozen backbone.
    threshold = np.quantile(predictions.familiarity.double(), UNUSUAL, method="weibull")
    assert predictions.threshold == pytest.approx(float(threshold), abs=1e-2)


def test_fit__without_validation_returns_the_latest_weights(train: Train, tmp_path: Path, temporary: Path) -> None:
    no_callbacks = ("callbacks.early_stopping=null", "callbacks.checkpoint=null")
    fitted = train(tmp_path / "run", *RULE, *no_callbacks, "trainer.limit_val_batches=0")
    assert fitted.best_epoch == 3
    assert [row["epoch"] for row in fitted.history] == [1, 2, 3]
    assert not list(temporary.iterdir())


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_interrupted_without_checkpoints__leaves_no_temporary_folder(
    script: Script,
    flat: Path,
    tmp_path: Path,
    temporary: Path,
    monkeypatch: pytest.MonkeyPatch,
    error: type[BaseException],
) -> None:
    from headstart.training.callbacks.history import History

    def interrupt(callback: History, trainer: Any, module: Any) -> None:
        if trainer.current_epoch == 1:
            assert list(temporary.iterdir()), "where the best epoch is kept"
            raise error

    monkeypatch.setattr(History, "on_train_epoch_start", interrupt)
    arguments = (f"data.root={flat}", *SMALL, *RULE, "callbacks.checkpoint=null", f"hydra.run.dir={tmp_path / 'run'}")
    if error is KeyboardInterrupt:
        assert script("train.py", *arguments).status != 0
    else:
        with pytest.raises(error):
            script("train.py", *arguments)
    assert not list(temporary.iterdir())


def test_fit__leaves_no_worker_processes(train: Train, tmp_path: Path) -> None:
    # Left to the garbage collector, each loader's would hold it up for five seconds: in a sweep, after every trial.
    # They read images to encode them, and later to train with them.
    gradual = ("finetune=gradual", "finetune.epochs=[1]", "finetune.lr_factors=[0.5]", "trainer.max_epochs=2")
    options = ("data.num_workers=2", f"features.dir={tmp_path / 'features'}", *gradual)
    fitted = train(tmp_path / "run", *RULE, *options)
    assert multiprocessing.active_children() == []
    assert fitted.history, "what was trained is still there"


def test_fit__leaves_the_frozen_backbone_bit_identical(
    train: Train, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before: list[str] = []
    original = load_backbone

    def spy(*arguments: Any, **options: Any) -> Any:
        backbone = original(*arguments, **options)
        before.append(state_sha256(backbone))
        return backbone

    monkeypatch.setattr("headstart.pipeline.load_backbone", spy)
    fitted = train(tmp_path / "run", *RULE, *EARLY_BEST)
    assert [state_sha256(fitted.classifier.backbone)] == before
    train(tmp_path / "untrained", *RULE, "model.lr=1e-30", "trainer.max_epochs=1")
    assert head_in(tmp_path / "run", "best.ckpt") != head_in(tmp_path / "untrained", "best.ckpt")


@pytest.mark.slow
def test_trial__writes_its_best_checkpoint_once_and_keeps_no_last(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = settings_of(*SMALL, f"data.root={flat}", *RULE, "trainer.max_epochs=6", "model.lr=0.01")
    written: list[str] = []

    def record(path: Path) -> Any:
        written.append(path.name)
        return replacing(path)

    for module in ("training.callbacks.best_and_last", "training.trainer"):
        monkeypatch.setattr(f"headstart.{module}.replacing", record)
    manifest = prepare_data(settings.data, settings.data.seed).manifest
    backbone = load_backbone(settings.model, settings.data, seed=settings.seed)
    fitted = fit(settings, manifest, backbone, [BestOfTrial("valid/loss")])
    assert written == ["best.ckpt"]
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["best.ckpt"]
    assert read_checkpoint(Path("run/checkpoints/best.ckpt"))["epoch"] + 1 == fitted.best_epoch
