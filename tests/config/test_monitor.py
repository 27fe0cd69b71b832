"""Callbacks that monitor a metric: its mode follows from the metric."""

import csv
import json
from pathlib import Path

import pytest
import torch
from conftest import SMALL, Script, settings_of

from headstart.errors import HeadstartError

LIGHTNING = "pytorch_lightning.callbacks"
OWN = (f"+callbacks.own._target_={LIGHTNING}.ModelCheckpoint", "callbacks.own.monitor=valid/acc")


@pytest.mark.slow
@pytest.mark.parametrize("target", ["ModelCheckpoint", "model_checkpoint.ModelCheckpoint", "EarlyStopping"])
def test_mode__follows_from_the_metric_for_lightnings_own_callbacks(target: str) -> None:
    for monitor, mode in (("valid/acc", "max"), ("train/f1", "max"), ("valid/loss", "min")):
        own = (f"+callbacks.own._target_={LIGHTNING}.{target}", f"callbacks.own.monitor={monitor}")
        assert settings_of(*SMALL, "data.root=x", *own).callbacks["own"]["mode"] == mode


@pytest.mark.parametrize("name", ["early_stopping", "checkpoint"])
def test_mode__may_be_given_if_it_agrees(name: str) -> None:
    agreeing = (f"callbacks.{name}.monitor=valid/acc", f"callbacks.{name}.mode=max")
    assert settings_of(*SMALL, "data.root=x", *agreeing).callbacks[name]["mode"] == "max"


def test_mode__contradiction_in_a_callback_of_ones_own() -> None:
    with pytest.raises(HeadstartError, match=r"callbacks\.own\.mode=min contradicts callbacks\.own\.monitor=valid/acc"):
        settings_of(*SMALL, "data.root=x", *OWN, "callbacks.own.mode=min")


def test_accuracy__the_highest_epoch_is_kept(script: Script, flat: Path, tmp_path: Path) -> None:
    run, own = tmp_path / "run", tmp_path / "own"
    data = (f"data.root={flat}", "data.split.train=6", "data.split.valid=3")
    model = ("model.arch=mobilenet_v3_small", "model.weights=bundled", "model.lr=0.01", "features.precision=32")
    more = ("trainer.max_epochs=6", "callbacks.early_stopping=null", f"hydra.run.dir={run}")
    callbacks = (*OWN, f"callbacks.own.dirpath={own}", "callbacks.own.filename='{epoch}'")
    result = script("train.py", *SMALL, *data, *model, *more, *callbacks, "callbacks.checkpoint.monitor=valid/acc")
    assert result.status == 0, result.err
    with (run / "history.csv").open() as file:
        rows = [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]
    accuracies = [row["valid/acc"] for row in rows]
    first_best = accuracies.index(max(accuracies))
    assert first_best > 0, "otherwise the lowest is the same epoch"
    metrics = json.loads((run / "metrics.json").read_text())
    # Lightning counts epochs from 0.
    assert (metrics["best_epoch"], metrics["valid/acc"]) == (first_best + 1, max(accuracies))
    assert torch.load(run / "checkpoints" / "best.ckpt", weights_only=True)["epoch"] == first_best
    assert [path.name for path in own.iterdir()] == [f"epoch={first_best}.ckpt"]
