"""Early stopping that resumed runs obey, and that waits for stages that are yet to be unfrozen."""

from typing import Any, cast

import pytorch_lightning.callbacks
import torch
from pytorch_lightning import LightningModule, Trainer

from headstart.metrics import metric_of
from headstart.model.classifier import Classifier


class EarlyStopping(pytorch_lightning.callbacks.EarlyStopping):
    """Lightning's, with four differences.

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
