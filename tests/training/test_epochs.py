"""Epochs count from 1 wherever people see them."""

import csv
import json
from pathlib import Path

import pytest
import torch
from conftest import SMALL, Script, settings_of
from pytorch_lightning.callbacks import RichProgressBar, TQDMProgressBar
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from headstart.training.callbacks.best_and_last import BestAndLast
from headstart.training.callbacks.history import Clock, History
from headstart.training.callbacks.progress import RichBar, TQDMBar
from headstart.training.trainer import build_trainer


def test_run__has_one_numbering(trained: Path) -> None:
    rows = list(csv.DictReader((trained / "history.csv").open()))
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    best = min(rows, key=lambda row: float(row["valid/loss"]))
    assert json.loads((trained / "metrics.json").read_text())["best_epoch"] == int(best["epoch"])
    events = EventAccumulator(str(trained)).Reload()
    assert [point.step for point in events.Scalars("valid/loss")] == [1, 2, 3]


def test_state__is_loaded_as_it_was_saved() -> None:
    history, best = History(Path("history.csv"), Clock(cached=True)), BestAndLast("valid/loss")
    history.rows, best.best_epoch, best.best_score = [{"epoch": 1, "lr": 0.1}], 1, 0.5
    again, other = History(Path("history.csv"), Clock(cached=True)), BestAndLast("valid/loss")
    again.load_state_dict(history.state_dict())
    other.load_state_dict(best.state_dict())
    assert (again.rows, other.best_epoch) == (history.rows, 1)


@pytest.mark.parametrize("kind", [RichProgressBar, TQDMProgressBar])
def test_progress_bar__counts_from_1(kind: type, monkeypatch: pytest.MonkeyPatch) -> None:
    target = f"{kind.__module__}.{kind.__name__}"
    trainer = build_trainer(settings_of(*SMALL, "data.root=images", f"+callbacks.bar._target_={target}"))
    bar = trainer.progress_bar_callback
    assert isinstance(bar, RichBar | TQDMBar)
    if isinstance(bar, RichBar):
        bar._trainer = trainer
        assert bar._get_train_description(0).strip() == "Epoch 1/3"
    else:
        shown: list[str] = []
        monkeypatch.setattr(kind, "on_train_epoch_start", lambda *arguments: None)
        monkeypatch.setattr(bar, "_train_progress_bar", type("B", (), {"set_description": staticmethod(shown.append)}))
        bar.on_train_epoch_start(trainer, None)
        assert shown == ["Epoch 1/3"]


def test_missing_best__says_that_no_epoch_was_validated(script: Script, flat: Path) -> None:
    rule = ("data.split.train=6", "data.split.valid=3", "trainer.max_steps=1")
    result = script("train.py", f"data.root={flat}", *SMALL, *rule)
    assert result.status == 1
    assert "error: no epoch has a valid/loss: the training ended before its first validation" in result.err


def test_checkpoint__keeps_lightnings_own_epoch(trained: Path) -> None:
    state = torch.load(trained / "checkpoints" / "last.ckpt", weights_only=True)
    assert state["epoch"] == 2
    assert [row["epoch"] for row in state["callbacks"]["History"]["rows"]] == [1, 2, 3]
