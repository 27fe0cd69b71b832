"""The learning rate as a pure function of the step, and what of the backbone is trained as one of the epoch."""

import math

from headstart.config.finetune import FinetuneSettings

# Of the peak learning rate: where one cycle begins, and where it ends.
FIRST, LAST = 1 / 25, 1 / 250_000


def lr_factor(step: int, *, kind: str, warmup: float, total: int) -> float:
    """The learning rate at a step relative to its peak, which is reached after the fraction `warmup` of `total` steps.

    constant: linear warmup, then constant. cosine: linear warmup, then half a cosine to zero. onecycle: half a cosine
    up and half a cosine down, as PyTorch's OneCycleLR.
    """
    rise = warmup * total
    if step < rise:
        return _between(FIRST, 1.0, step / rise) if kind == "onecycle" else (step + 1) / (rise + 1)
    if kind == "constant":
        return 1.0
    return _between(1.0, LAST if kind == "onecycle" else 0.0, min(1.0, (step - rise) / max(1.0, total - rise)))


def _between(start: float, stop: float, share: float) -> float:
    return stop + (start - stop) * (1 + math.cos(math.pi * share)) / 2


def unfrozen_stages(finetune: FinetuneSettings, epoch: int, stages: int) -> int:
    """How many of a backbone's `stages`, from the top, are trained in `epoch`."""
    if finetune.rest is not None and epoch >= finetune.rest:
        return stages
    return min(stages, sum(begin <= epoch for begin in finetune.epochs))


def stage_factors(finetune: FinetuneSettings, stages: int) -> list[float]:
    """The learning rate, relative to the head's, of each stage that is ever trained, from the top."""
    factors = list(finetune.lr_factors[:stages])
    return factors if finetune.rest is None else factors + [1.0] * (stages - len(factors))
