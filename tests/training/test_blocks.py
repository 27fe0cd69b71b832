"""Heads that are trained on blocks of batches, as in the trials of a sweep."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, settings_of
from pytorch_lightning import Callback, Trainer
from pytorch_lightning.loggers import TensorBoardLogger
from torch import Tensor

from headstart.backbones.backbone import load_backbone
from headstart.config.train import TrainSettings
from headstart.data.prepare import prepare_data
from headstart.errors import HeadstartError
from headstart.model.checkpoint import read_checkpoint
from headstart.model.classifier import BlockClassifier, build_classifier
from headstart.run_folder import RunFolder
from headstart.training.callbacks.best_and_last import BestOfTrial
from headstart.training.fit import ClassifierBuilder, Fitted, builder_of_trial, fit, trains_on_blocks
from headstart.training.trainer import SafeCheckpointIO


@pytest.fixture
def settings(flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> TrainSettings:
    """Of a fit of six epochs of 18 images, whose last batch is smaller than the others."""
    monkeypatch.chdir(tmp_path)
    rule = ("data.split.train=6", "data.split.valid=3")
    return settings_of(*SMALL, f"data.root={flat}", *rule, "trainer.max_epochs=6", "model.lr=0.01")


def train(settings: TrainSettings, build: ClassifierBuilder, *callbacks: Callback) -> Fitted:
    manifest = prepare_data(settings.data, settings.data.seed).manifest
    backbone = load_backbone(settings.model, settings.data, seed=settings.seed)
    return fit(settings, manifest, backbone, list(callbacks), build)


def tensors(values: Any, name: str = "") -> Iterator[tuple[str, Tensor]]:
    """All tensors in nested containers, by their place."""
    if isinstance(values, Tensor):
        yield name, values
    elif isinstance(values, dict | list | tuple):
        items = values.items() if isinstance(values, dict) else enumerate(values)
        for key, value in items:
            yield from tensors(value, f"{name}.{key}")


def test_blocks__end_exactly_as_single_batches_do(settings: TrainSettings) -> None:
    single = train(settings, build_classifier)
    expected = read_checkpoint(RunFolder(Path("run")).best)
    blocks = train(settings, builder_of_trial(settings), BestOfTrial("valid/loss"))
    found = read_checkpoint(RunFolder(Path("run")).best)
    assert isinstance(blocks.classifier, BlockClassifier)
    assert blocks.history == single.history
    assert blocks.best_epoch == single.best_epoch
    # Weights, what is fitted to them, and the optimizer's state.
    parts = dict(tensors(found)), dict(tensors(expected))
    assert parts[0].keys() == parts[1].keys()
    assert len(parts[0]) > 10
    assert all(torch.equal(parts[0][name], parts[1][name]) for name in parts[0])
    assert found["global_step"] == expected["global_step"]


def test_blocks__are_few(settings: TrainSettings) -> None:
    batches = []

    class Count(Callback):
        def on_train_batch_end(self, trainer: Trainer, *arguments: Any) -> None:
            batches.append((trainer.current_epoch, trainer.global_step))

    train(settings, builder_of_trial(settings), Count())
    # 18 images in batches of 8.
    assert batches == [(epoch, 3 * (epoch + 1)) for epoch in range(6)]


def test_blocks__no_logger_is_called_between_steps(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, log_metrics, loss = [], TensorBoardLogger.log_metrics, BlockClassifier._loss

    def record_log(self: TensorBoardLogger, *arguments: Any, **keywords: Any) -> None:
        calls.append("log")
        log_metrics(self, *arguments, **keywords)

    def record_step(self: BlockClassifier, *arguments: Any) -> Tensor:
        calls.append("step")
        return loss(self, *arguments)

    monkeypatch.setattr(TensorBoardLogger, "log_metrics", record_log)
    monkeypatch.setattr(BlockClassifier, "_loss", record_step)
    train(settings, builder_of_trial(settings))
    epochs = " ".join(calls).split("step step step")
    assert len(epochs) == 7
    assert not any("step" in between for between in epochs)


def test_blocks__a_loss_that_is_not_finite_is_an_error(settings: TrainSettings) -> None:
    settings = replace(settings, model=replace(settings.model, lr=1e30))
    with pytest.raises(HeadstartError, match=r"the training loss became (nan|inf) in epoch \d: try a smaller model.lr"):
        train(settings, builder_of_trial(settings))


def test_best_of_trial__writes_once_and_keeps_no_last(settings: TrainSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    written, save = [], SafeCheckpointIO.save_checkpoint

    def record(self: SafeCheckpointIO, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        written.append(Path(path).name)
        save(self, checkpoint, path, storage_options)

    monkeypatch.setattr(SafeCheckpointIO, "save_checkpoint", record)
    fitted = train(settings, builder_of_trial(settings), BestOfTrial("valid/loss"))
    assert written == ["best.ckpt"]
    assert [path.name for path in Path("run/checkpoints").iterdir()] == ["best.ckpt"]
    assert read_checkpoint(RunFolder(Path("run")).best)["epoch"] + 1 == fitted.best_epoch


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("seed=1", True),
        ("callbacks.early_stopping=null", True),
        ("data.balance=sampler", True),
        ("model.label_smoothing=0.1", True),
        ("features.cache=false", False),
        ("finetune=gradual", False),
        ("model.head=ridge", False),
        ("model.schedule=cosine", False),
        ("model.warmup=0.1", False),
        ("callbacks=ema", False),
        ("trainer.gradient_clip_val=1", False),
        ("trainer.limit_train_batches=1", False),
    ],
)
def test_trains_on_blocks__only_if_nothing_happens_between_steps(override: str, expected: bool) -> None:
    assert trains_on_blocks(settings_of(*SMALL, "data.root=images", override)) is expected
