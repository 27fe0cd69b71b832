"""One row per epoch: in history.csv, in the loggers and on the terminal."""

import csv
import io
from pathlib import Path
from typing import Any, cast

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from headstart.files import write_text
from headstart.log import log
from headstart.metrics import METRICS, UNFROZEN, Row
from headstart.model.classifier import Classifier
from headstart.model.schedule import unfrozen_stages
from headstart.training.callbacks.clock import Clock
from headstart.training.epochs import FIRST, epoch_number, marked, offset_of

SPLITS = ("train", "valid")
CHARTS = {
    "train and valid": {
        metric.label: ["Multiline", [f"{split}/{name}" for split in SPLITS]] for name, metric in METRICS.items()
    }
}


class History(Callback):
    """Collects one row per epoch: its number, every metric of train and valid, lr if there is one, and in a run that
    trains the backbone too, how many of its stages are unfrozen. Checkpoints hold the rows so far.

    `clock` must come before this callback, so that it has measured the epoch.
    """

    def __init__(self, path: Path, clock: Clock) -> None:
        self.rows: list[Row] = []
        self.clock = clock
        self._path = path
        self._validated = False

    def state_dict(self) -> dict[str, Any]:
        return marked({"rows": self.rows})

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        offset = offset_of(state_dict)
        self.rows = [row | {"epoch": row["epoch"] + offset} for row in state_dict["rows"]]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                logger.experiment.add_custom_scalars(CHARTS)
        # Version 0.1 did not record how many stages were unfrozen.
        self.rows = [_beginning(row["epoch"], row.get("lr"), pl_module) | row for row in self.rows]
        # A resumed run's folder and charts start with the epochs before.
        for row in self.rows:
            self._log(trainer, row)
        if self.rows and trainer.is_global_zero:
            write_text(self._path, to_csv(self.rows))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        pl_module.log_train_metrics()  # type: ignore[operator]
        rates = [group["lr"] for optimizer in trainer.optimizers for group in optimizer.param_groups]
        row = _beginning(epoch_number(trainer), rates[0] if rates else None, pl_module)
        for name, value in sorted(trainer.callback_metrics.items()):
            # After an epoch without validation the metrics still hold those of an earlier one.
            if name.startswith("train/") or (name.startswith("valid/") and self._validated):
                row[name] = float(value)
        self._validated = False
        self.rows.append(row)
        self._log(trainer, row)
        if trainer.is_global_zero:
            write_text(self._path, to_csv(self.rows))
            seconds = self.clock.epoch.all
            say(trainer, f"{describe(row, trainer.max_epochs)}  {seconds:.{1 if seconds < 99.95 else 0}f} s")
            if advice := self.clock.advice():
                say(trainer, f"note: {advice}")

    def _log(self, trainer: Trainer, row: Row) -> None:
        values = {key: value for key, value in row.items() if key != "epoch"}
        for logger in trainer.loggers:
            logger.log_metrics(values, step=int(row["epoch"]))


def say(trainer: Trainer, line: str) -> None:
    """Logs a line; above the progress bar, if there is one."""
    bar = trainer.progress_bar_callback
    bar.print(line) if bar is not None else log.info("%s", line)


def _beginning(epoch: float, lr: float | None, pl_module: LightningModule) -> Row:
    """The first columns of an epoch's row."""
    row: Row = {"epoch": int(epoch)} if lr is None else {"epoch": int(epoch), "lr": lr}
    classifier = cast(Classifier, pl_module)
    finetune = classifier.recipe.finetune
    if finetune.first_epoch is None:
        return row
    return row | {UNFROZEN: unfrozen_stages(finetune, int(epoch) - FIRST, len(classifier.backbone.stages))}


def to_csv(rows: list[Row]) -> str:
    """The rows as CSV, the columns in the order in which they first occur."""
    text = io.StringIO()
    columns = list(dict.fromkeys(key for row in rows for key in row))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def read_history(path: Path) -> list[Row]:
    """The rows that `to_csv` has written to `path`."""
    with path.open(encoding="utf-8", newline="") as file:
        return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]


def describe(row: Row, max_epochs: int | None) -> str:
    """One line, such as "epoch 3/20  train loss 0.2101 acc 0.932  valid loss 0.1450 acc 0.950"."""
    end = f"/{max_epochs}" if max_epochs and max_epochs > 0 else ""
    parts = [f"epoch {int(row['epoch'])}{end}"]
    for split in SPLITS:
        if f"{split}/loss" in row:
            parts.append(f"{split} loss {row[f'{split}/loss']:.4f} acc {row[f'{split}/acc']:.3f}")
    return "  ".join(parts)
