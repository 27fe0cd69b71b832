"""Early stopping that a resumed run obeys too, and that waits for what is still to be trained."""

from typing import Any, cast

import pytorch_lightning.callbacks
import torch
from pytorch_lightning import LightningModule, Trainer

from headstart.model.classifier import Classifier


class EarlyStopping(pytorch_lightning.callbacks.EarlyStopping):
    """Lightning's, with three differences.

    A run that had stopped before it was killed does not train on when it is resumed, where Lightning's would train
    another epoch; `patience` is what it is set to now, where Lightning's would silently take the checkpoint's; and it
    begins when the last stage of the backbone that is to be freed is.
    """

    def __init__(
        self,
        monitor: str,
        mode: str,
        patience: int,
        min_delta: float = 0.0,
        stopping_threshold: float | None = None,
    ) -> None:
        super().__init__(
            monitor, mode=mode, patience=patience, min_delta=min_delta, stopping_threshold=stopping_threshold
        )

        self._last: float | None = None

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"last": self._last}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        super().load_state_dict(state_dict | {"patience": self.patience})
        self._last = state_dict["last"]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.ckpt_path is not None and (self.wait_count >= self.patience or self._was_good_enough()):
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        frees_until = cast(Classifier, pl_module).recipe.finetune.last_epoch
        if frees_until is not None and trainer.current_epoch < frees_until:
            # An epoch without improvement makes it 0.
            self.wait_count = -1
        super().on_train_epoch_end(trainer, pl_module)
        if self.monitor in trainer.callback_metrics:
            self._last = float(trainer.callback_metrics[self.monitor])

    def _was_good_enough(self) -> bool:
        if self.stopping_threshold is None or self._last is None:
            return False
        return bool(self.monitor_op(torch.tensor(self._last), torch.tensor(self.stopping_threshold)))
