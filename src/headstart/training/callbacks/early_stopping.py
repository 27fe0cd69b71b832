"""Stops a training early, also a resumed one, but not before all stages are unfrozen; says why one ended."""

from typing import Any, cast

import pytorch_lightning.callbacks
import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import Timer
from pytorch_lightning.callbacks.early_stopping import EarlyStoppingReason

from headstart.metrics import metric_of
from headstart.model.classifier import Classifier
from headstart.text import counted


class EarlyStopping(pytorch_lightning.callbacks.EarlyStopping):
    """Stops early as Lightning's EarlyStopping does, with four differences.

    A run that had stopped before it was killed does not train another epoch when it is resumed; `patience` is the
    current setting rather than the checkpoint's; a resumed run with another learning rate waits as long again; and it
    starts when the last stage of the backbone is unfrozen.
    """

    def __init__(
        self,
        monitor: str,
        patience: int,
        mode: str | None = None,
        min_delta: float = 0.0,
        stopping_threshold: float | None = None,
    ) -> None:
        super().__init__(
            monitor,
            mode=mode or metric_of(monitor).direction,
            patience=patience,
            min_delta=min_delta,
            stopping_threshold=stopping_threshold,
        )
        self._last: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"last": self._last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"patience": self.patience})
        self._last = state_dict["last"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if cast(Classifier, pl_module).has_new_rates:
            # What they change takes as many epochs to show.
            self.wait_count = 0
        if trainer.ckpt_path is not None and (self.wait_count >= self.patience or self._was_good_enough()):
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        last_unfreezing = cast(Classifier, pl_module).recipe.finetune.last_epoch
        if last_unfreezing is not None and trainer.current_epoch < last_unfreezing:
            # An epoch without improvement makes it 0.
            self.wait_count = -1
        if self.monitor in trainer.callback_metrics:
            super().on_train_epoch_end(trainer, pl_module)
            self._last = float(trainer.callback_metrics[self.monitor])

    def _was_good_enough(self) -> bool:
        if self.stopping_threshold is None or self._last is None:
            return False
        return bool(self.monitor_op(torch.tensor(self._last), torch.tensor(self.stopping_threshold)))


def describe_end(trainer: Trainer, best: int) -> str:
    """Returns why a training ended, and which epoch was the `best`, whose weights are kept.

    An example is "stopped after epoch 16: no improvement of valid/loss for 5 epochs; best: epoch 11".
    """
    classifier, last = cast(Classifier, trainer.lightning_module), trainer.current_epoch
    if classifier.recipe.is_closed_form:
        return f"fitted model.head={classifier.recipe.head} in closed form, without training steps"
    if (why := _why_stopped(trainer)) is not None:
        return f"stopped after epoch {last}: {why}; best: epoch {best}"
    hint = " (the last: more epochs may help)" if best == last else ""
    return f"trained all {counted(last, 'epoch')}; best: epoch {best}{hint}"


def _why_stopped(trainer: Trainer) -> str | None:
    """Returns why there were fewer epochs than trainer.max_epochs; None: there were not."""
    if trainer.max_steps != -1 and trainer.global_step >= trainer.max_steps:
        return f"trainer.max_steps={trainer.max_steps} was reached"
    if not trainer.should_stop:
        return None
    for early in trainer.early_stopping_callbacks:
        match early.stopping_reason:
            case EarlyStoppingReason.PATIENCE_EXHAUSTED:
                return f"no improvement of {early.monitor} for {counted(early.patience, 'epoch')}"
            case EarlyStoppingReason.STOPPING_THRESHOLD:
                return f"{early.monitor} is better than stopping_threshold={early.stopping_threshold:g}"
            case EarlyStoppingReason.DIVERGENCE_THRESHOLD:
                return f"{early.monitor} is worse than divergence_threshold={early.divergence_threshold:g}"
            case EarlyStoppingReason.NON_FINITE_METRIC:
                return f"{early.monitor} is NaN or infinite"
    if any(isinstance(callback, Timer) for callback in trainer.callbacks):  # type: ignore[attr-defined]
        return "trainer.max_time was reached"
    return "a callback ended the training"
