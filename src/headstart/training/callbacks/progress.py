"""Numbers epochs, and shows progress bars: headstart's and Lightning's."""

from contextlib import ExitStack
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer
from pytorch_lightning.callbacks import RichProgressBar, TQDMProgressBar

from headstart.log import Advance, progress_bar

# People count epochs from 1. Lightning's own numbers, such as `Trainer.current_epoch`, count from 0.
FIRST = 1


def epoch_number(trainer: Trainer) -> int:
    """Returns the number of the current epoch; after a fit, one more than that of the last."""
    return trainer.current_epoch + FIRST


class Progress(Callback):
    """Shows how far an epoch's training steps are, and the time that those of the whole run take at most."""

    def __init__(self) -> None:
        self._bar = ExitStack()
        self._advance: Advance = lambda count: None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # A Trainer with max_steps, or with data of unknown size, has no number of batches.
        batches = int(trainer.num_training_batches) if trainer.num_training_batches < float("inf") else None
        left = max(0, (trainer.max_epochs or 0) - epoch_number(trainer))
        self._advance = self._bar.enter_context(
            progress_bar(
                f"training epoch {_described(epoch_number(trainer), trainer)}", batches, later=left * (batches or 0)
            )
        )

    def on_train_batch_end(self, *arguments: Any) -> None:
        self._advance(1)

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bar.close()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._bar.close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._bar.close()


class RichBar(RichProgressBar):
    """Shows Lightning's bar, with epochs that count from 1."""

    # Private, but Lightning has no other place for the description.
    def _get_train_description(self, current_epoch: int) -> str:
        # As long as the description of the validation, so that the bar does not jump.
        text = f"Epoch {_described(current_epoch + FIRST, self.trainer)}"
        return f"{text:{len(self.validation_description)}}"


class TQDMBar(TQDMProgressBar):
    """Shows Lightning's bar, with epochs that count from 1."""

    def on_train_epoch_start(self, trainer: Trainer, *arguments: Any) -> None:
        super().on_train_epoch_start(trainer, *arguments)
        self.train_progress_bar.set_description(f"Epoch {_described(epoch_number(trainer), trainer)}")


# What takes the place of Lightning's bars that the user has added, by the names of their classes.
BARS = {bar.__base__.__name__: f"{__name__}.{bar.__name__}" for bar in (RichBar, TQDMBar)}  # type: ignore[union-attr]


def _described(epoch: int, trainer: Trainer) -> str:
    """Returns "3/20", or "3" where the number of epochs is not limited."""
    last = trainer.max_epochs
    return f"{epoch}/{last}" if last and last > 0 else f"{epoch}"
