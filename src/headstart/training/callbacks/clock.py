"""Where an epoch's time goes: encoding a view, waiting for batches, or training."""

import time
from dataclasses import dataclass
from typing import Any

from pytorch_lightning import Callback, LightningModule, Trainer

# Shorter epochs, in seconds, need no advice.
WORTH_ADVICE = 5.0


@dataclass
class Seconds:
    """The time that epochs took, validation included, by what it was spent on.

    On a GPU, which works asynchronously, some of `train` is counted as `wait`.
    """

    encode: float = 0.0
    wait: float = 0.0
    train: float = 0.0

    def __add__(self, other: "Seconds") -> "Seconds":
        return Seconds(self.encode + other.encode, self.wait + other.wait, self.train + other.train)

    @property
    def all(self) -> float:
        """Their sum."""
        return self.encode + self.wait + self.train

    def __str__(self) -> str:
        return f"encoding {self.encode:.1f} s, waiting for batches {self.wait:.1f} s, training {self.train:.1f} s"


class Clock(Callback):
    """Measures each epoch. Views are encoded before the first batch is asked for, so nothing is counted twice."""

    def __init__(self, *, cached: bool) -> None:
        self.epoch = Seconds()  # the last one
        self.total = Seconds()
        self._cached = cached
        self._advised = False
        self._encoded = 0.0
        self._current = Seconds()
        self._mark = 0.0

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._current = Seconds()
        self._mark = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._mark = time.perf_counter()

    def on_train_batch_start(self, *arguments: Any) -> None:
        self._current.wait += self._lap()

    def on_validation_batch_start(self, *arguments: Any) -> None:
        self._current.wait += self._lap()

    def on_train_batch_end(self, *arguments: Any) -> None:
        self._current.train += self._lap()

    def on_validation_batch_end(self, *arguments: Any) -> None:
        self._current.train += self._lap()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        encoded = float(getattr(trainer.datamodule, "encode_seconds", 0.0))  # type: ignore[attr-defined]
        self._current.encode, self._encoded = encoded - self._encoded, encoded
        self.epoch = self._current
        self.total += self._current

    def advice(self) -> str | None:
        """What to change if the epoch was long and one part of it dominated; given once."""
        seconds = self.epoch
        whole = seconds.all
        if self._advised or whole < WORTH_ADVICE:
            return None
        advice = None
        if seconds.wait > whole / 2:
            advice = "most of the time is spent reading images: increase data.num_workers, or use smaller images"
        elif seconds.train > whole / 2 and not self._cached:
            advice = "the backbone takes most of the time, in every run again: features.cache=true stores its features"
        self._advised = advice is not None
        return advice

    def _lap(self) -> float:
        before, self._mark = self._mark, time.perf_counter()
        return self._mark - before
