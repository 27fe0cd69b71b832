"""Keeps an exponential moving average of the weights."""

from typing import Any, cast

import torch
from pytorch_lightning import LightningModule, Trainer
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor

from headstart.model.classifier import Classifier


class EMA(WeightAveraging):
    """Validates, tests and keeps the average: after each step, `decay` of the old average and the rest of the weights.

    In the first steps the average looks back less far, a tenth of the steps so far at most: else a short training would
    be judged by weights that are still close to their random initial values. After s steps `decay` is at most
    (1 + s) / (10 + s), as in TensorFlow and timm.

    Unlike in Lightning's EMAWeightAveraging, frozen weights stay exactly the same: there, rounding lets the average of
    equal numbers drift. What is fitted on the validation split is that of the average, and not averaged.
    """

    def __init__(self, decay: float) -> None:
        def average(averaged: Tensor, current: Tensor, steps: Tensor | int) -> Tensor:
            # Checkpoints hold the number of steps, so a resumed run goes on with the same decay.
            steps = torch.as_tensor(steps)
            kept = ((1 + steps) / (10 + steps)).clamp(max=decay)
            moved = kept * averaged + (1 - kept) * current
            return torch.where(averaged == current, averaged, moved.to(averaged.dtype))

        super().__init__(avg_fn=average)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *arguments: Any) -> None:
        fitted = self._fitted()
        before = [buffer.clone() for buffer in fitted]
        super().on_train_batch_end(trainer, pl_module, *arguments)
        for buffer, value in zip(fitted, before, strict=True):
            buffer.copy_(value)

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Lightning asks the module only afterwards, when the weights that are being trained are back.
        cast(Classifier, pl_module).fit_to_validation()
        super().on_validation_epoch_end(trainer, pl_module)

    def _fitted(self) -> list[Tensor]:
        """Returns the averaged model's buffers that validation sets."""
        # Private: Lightning has no public way to the average while it trains.
        if self._average_model is None:
            return []
        averaged = cast(Classifier, self._average_model.module)
        return [averaged.temperature, *averaged.familiarity.buffers()]
