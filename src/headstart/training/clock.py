"""Where an epoch's time goes: reading pictures, the backbone, or the head."""

import time
from dataclasses import dataclass

from pytorch_lightning import Callback, LightningModule, Trainer

from headstart.features.encoder import Encoder

# An epoch shorter than this, in seconds, needs no advice.
WORTH_ADVICE = 5.0


@dataclass
class Seconds:
    """Of one epoch. `head` is all that is neither waiting for pictures nor the backbone."""

    data: float
    backbone: float
    head: float

    def __str__(self) -> str:
        return f"data {self.data:.1f} s, backbone {self.backbone:.1f} s, head {self.head:.1f} s"


class StageClock(Callback):
    """Measures each epoch, its validation included. Waiting for a batch is `data`, but for the encoder's part.

    On a GPU and without the cache, the backbone's time is part of the head's: to tell them apart, the GPU would have to
    be waited for at each step.
    """

    def __init__(self, encoder: Encoder, *, cached: bool) -> None:
        self.epoch = Seconds(0.0, 0.0, 0.0)
        self._encoder = encoder
        self._cached = cached
        self._advised = False

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.perf_counter()
        self._encoder_start = self._encoder.seconds
        self._waited = 0.0
        self._begin_to_wait()

    def on_train_batch_start(self, *arguments: object) -> None:
        self._end_of_waiting()

    def on_train_batch_end(self, *arguments: object) -> None:
        self._begin_to_wait()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin_to_wait()

    def on_validation_batch_start(self, *arguments: object) -> None:
        self._end_of_waiting()

    def on_validation_batch_end(self, *arguments: object) -> None:
        self._begin_to_wait()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        whole = time.perf_counter() - self._start
        backbone = self._encoder.seconds - self._encoder_start
        self.epoch = Seconds(self._waited, backbone, max(0.0, whole - self._waited - backbone))

    def advice(self) -> str | None:
        """What to change if the epoch was long and one part starved the others; said once."""
        seconds = self.epoch
        whole = seconds.data + seconds.backbone + seconds.head
        if self._advised or whole < WORTH_ADVICE:
            return None
        advice = None
        if seconds.data > whole / 2:
            advice = "reading pictures takes most of the time: more data.num_workers, or smaller pictures, help"
        elif seconds.backbone + seconds.head > whole / 2 and not self._cached:
            advice = "the backbone takes most of the time, again in each run: features.cache=true keeps its work"
        self._advised = advice is not None
        return advice

    def _begin_to_wait(self) -> None:
        self._waiting_since = time.perf_counter()
        self._encoder_then = self._encoder.seconds

    def _end_of_waiting(self) -> None:
        encoder = self._encoder.seconds - self._encoder_then
        self._waited += time.perf_counter() - self._waiting_since - encoder
