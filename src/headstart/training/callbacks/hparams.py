"""The hyperparameters of a run for TensorBoard's HParams tab and other loggers."""

from collections.abc import Mapping

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.loggers import TensorBoardLogger

from headstart.config.train import TrainSettings
from headstart.metrics import Row, best_row, full_names
from headstart.training.callbacks.best_and_last import BestAndLast
from headstart.training.callbacks.history import History

Value = float | str


class HParams(Callback):
    """Gives loggers the hyperparameters `values` (None: the settings'), and TensorBoard the best epoch's metrics.

    The HParams tab reads these from charts, so they are drawn for each epoch, as those of the best one so far.
    """

    def __init__(self, values: Mapping[str, Value] | None = None) -> None:
        self._given = values
        self._values: dict[str, Value] = {}
        self._drawn = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._drawn = 0
        self._values = hyperparameters(trainer.datamodule.settings) if self._given is None else dict(self._given)  # type: ignore[attr-defined]
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                # Written to hparams.yaml before the fit ends, when they are logged with the metrics.
                logger.hparams.update(self._values)
            else:
                logger.log_hyperparams(self._values)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Not when an epoch ends: that may be before its row exists.
        self._draw(trainer, len(_history(trainer)))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        rows = _history(trainer)
        if not rows:
            return
        self._draw(trainer, len(rows) - 1)
        for logger in _tensorboards(trainer):
            logger.log_hyperparams(self._values, _best(trainer, rows), step=int(rows[-1]["epoch"]))
            logger.save()

    def _draw(self, trainer: Trainer, count: int) -> None:
        """Draws the first `count` epochs, as far as they are not drawn yet."""
        rows = _history(trainer)
        for number in range(self._drawn, count):
            for logger in _tensorboards(trainer):
                logger.log_metrics(_best(trainer, rows[: number + 1]), step=int(rows[number]["epoch"]))
        self._drawn = max(count, self._drawn)


def hyperparameters(settings: TrainSettings) -> dict[str, Value]:
    """Those of a run that people compare runs by."""
    model, data = settings.model, settings.data
    values: dict[str, Value | None] = {
        "model.arch": model.arch,
        "model.head": model.head,
        "model.lr": model.lr,
        "model.dropout": model.dropout,
        "model.hidden_dim": model.hidden_dim,
        "model.weight_decay": model.weight_decay,
        "model.label_smoothing": model.label_smoothing,
        "model.schedule": model.schedule,
        "data.batch_size": data.batch_size,
        "data.balance": data.balance,
        "finetune": settings.finetune.kind,
        "trainer.max_epochs": settings.trainer.get("max_epochs"),
        "seed": settings.seed,
    }
    return {key: value for key, value in values.items() if value is not None}


def swept(values: Mapping[str, str]) -> dict[str, Value]:
    """The values of a trial's swept keys, as written on a command line; numbers as such."""
    return {key: _number_or_text(text) for key, text in values.items()}


def _number_or_text(text: str) -> Value:
    try:
        return float(text)
    except ValueError:
        return text


def _history(trainer: Trainer) -> list[Row]:
    return next((callback.rows for callback in trainer.callbacks if isinstance(callback, History)), [])  # type: ignore[attr-defined]


def _tensorboards(trainer: Trainer) -> list[TensorBoardLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, TensorBoardLogger)]


def _best(trainer: Trainer, rows: list[Row]) -> Row:
    """The validation metrics of the best of `rows`, by what selects the best checkpoint."""
    monitors = [callback.monitor for callback in trainer.checkpoint_callbacks if isinstance(callback, BestAndLast)]
    best = best_row(rows, monitors[0]) if monitors else None
    return {f"best/{name}": value for name, value in (best or {}).items() if name in full_names("valid")}
