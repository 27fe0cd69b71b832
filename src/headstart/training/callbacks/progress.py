"""Lightning's progress bars, with epochs counted from 1."""

from collections.abc import Iterable
from typing import Any

from pytorch_lightning import Callback, Trainer
from pytorch_lightning.callbacks import RichProgressBar, TQDMProgressBar

from headstart.training.epochs import FIRST, epoch_number


class _RichBar(RichProgressBar):
    def _get_train_description(self, current_epoch: int) -> str:
        # As long as the description of the validation, so that the bar does not jump.
        text = _description(current_epoch + FIRST, self.trainer.max_epochs)
        return f"{text:{len(self.validation_description)}}"


class _TQDMBar(TQDMProgressBar):
    def on_train_epoch_start(self, trainer: Trainer, *arguments: Any) -> None:
        super().on_train_epoch_start(trainer, *arguments)
        self.train_progress_bar.set_description(_description(epoch_number(trainer), trainer.max_epochs))


def count_epochs_from_1(callbacks: Iterable[Callback]) -> None:
    """Lets Lightning's own progress bars among `callbacks`, whoever created them, number epochs as everything else."""
    bars: dict[type[Callback], type[Callback]] = {RichProgressBar: _RichBar, TQDMProgressBar: _TQDMBar}
    for callback in callbacks:
        callback.__class__ = bars.get(type(callback), type(callback))


def _description(epoch: int, max_epochs: int | None) -> str:
    return f"Epoch {epoch}/{max_epochs}" if max_epochs and max_epochs > 0 else f"Epoch {epoch}"
