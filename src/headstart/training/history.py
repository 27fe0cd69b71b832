"""The epochs of a run: one row each, to history.csv, the loggers and the terminal."""

import csv
import io
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import Logger, TensorBoardLogger

from headstart.files import write_text
from headstart.training.clock import StageClock

Row = dict[str, float]

CHARTS = {
    "train and valid": {
        "loss": ["Multiline", ["train/loss", "valid/loss"]],
        "accuracy": ["Multiline", ["train/acc", "valid/acc"]],
    }
}


class History(Callback):
    """Collects a row an epoch: epoch, lr, {train,valid}/{loss,acc,f1}. A checkpoint holds the rows so far.

    `clock` must come before this callback, so that it has measured the epoch.
    """

    def __init__(self, path: Path, clock: StageClock) -> None:
        self.rows: list[Row] = []
        self._clock = clock
        self._path = path
        self._validated = False

    def state_dict(self) -> dict[str, Any]:
        return {"rows": self.rows}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.rows = [dict(row) for row in state_dict["rows"]]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_custom_scalars(CHARTS)
        # A resumed run's folder and charts begin with the epochs before.
        for row in self.rows:
            self._log(trainer, row)
        if self.rows and trainer.is_global_zero:
            write_text(self._path, to_csv(self.rows))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        row = {"epoch": trainer.current_epoch, "lr": trainer.optimizers[0].param_groups[0]["lr"]}
        for name, value in sorted(trainer.callback_metrics.items()):
            # After an epoch without validation the metrics still hold those of an earlier one.
            if name.startswith("train/") or (name.startswith("valid/") and self._validated):
                row[name] = float(value)
        self._validated = False
        self.rows.append(row)
        self._log(trainer, row)
        if trainer.is_global_zero:
            write_text(self._path, to_csv(self.rows))
            self._say(trainer, f"{describe(row, trainer.max_epochs)}  ({self._clock.epoch})")
            if advice := self._clock.advice():
                self._say(trainer, f"note: {advice}")

    def _say(self, trainer: Trainer, line: str) -> None:
        bar = trainer.progress_bar_callback
        bar.print(line) if bar is not None else print(line, flush=True)

    def _log(self, trainer: Trainer, row: Row) -> None:
        values = {key: value for key, value in row.items() if key != "epoch"}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=int(row["epoch"]))


def log_hyperparameters(loggers: Iterable[Logger], values: dict[str, str], metrics: Row) -> None:
    """What TensorBoard's HParams tab shows of a trial: the swept `values`, and the best epoch's validation."""
    best = {f"best/{name}": value for name, value in metrics.items() if name.startswith("valid/")}
    for logger in loggers:
        if isinstance(logger, TensorBoardLogger):
            logger.log_hyperparams({key: _typed(value) for key, value in values.items()}, best)
            logger.save()


def _typed(text: str) -> float | str:
    try:
        return float(text)
    except ValueError:
        return text


def to_csv(rows: list[Row]) -> str:
    """The rows as CSV, the columns in the order in which they first occur."""
    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def describe(row: Row, max_epochs: int | None) -> str:
    """One line for the terminal, such as "epoch 3/20  train loss 0.2101 acc 0.932  valid loss 0.1450 acc 0.950"."""
    end = f"/{max_epochs}" if max_epochs and max_epochs > 0 else ""
    parts = [f"epoch {int(row['epoch']) + 1}{end}"]
    for split in ("train", "valid"):
        if f"{split}/loss" in row:
            parts.append(f"{split} loss {row[f'{split}/loss']:.4f} acc {row[f'{split}/acc']:.3f}")
    return "  ".join(parts)
