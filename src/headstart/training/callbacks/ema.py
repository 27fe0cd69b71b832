"""An exponential moving average of the weights."""

import torch
from pytorch_lightning.callbacks import WeightAveraging
from torch import Tensor


class EMA(WeightAveraging):
    """Validates, tests and keeps the average: after each step, `decay` of the old average and the rest of the weights.

    Unlike in Lightning's EMAWeightAveraging, frozen weights stay exactly the same: there, rounding lets the average of
    equal numbers drift.
    """

    def __init__(self, decay: float) -> None:
        def average(averaged: Tensor, current: Tensor, _: Tensor | int) -> Tensor:
            moved = decay * averaged + (1 - decay) * current
            return torch.where(averaged == current, averaged, moved.to(averaged.dtype))

        super().__init__(avg_fn=average)
