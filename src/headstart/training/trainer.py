"""Lightning's Trainer, made from the configuration."""

import logging
import signal
import sys
import threading
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from hydra.errors import InstantiationException
from hydra.utils import instantiate
from lightning_fabric.utilities.exceptions import MisconfigurationException
from pytorch_lightning import Callback, Trainer

from headstart.errors import HeadstartError
from headstart.model.checkpoint import SafeCheckpointIO
from headstart.settings import TrainSettings

LIGHTNING = ("pytorch_lightning", "lightning_fabric")
# What a _target_ may be. A resumed run repeats the overrides it finds in a folder, maybe somebody else's.
TARGETS = ["pytorch_lightning.callbacks.*", "pytorch_lightning.loggers.*", "headstart.*"]


def build_trainer(settings: TrainSettings, own_callbacks: list[Callback]) -> Trainer:
    """A Trainer with the callbacks and loggers of the configuration, and `own_callbacks`.

    Raises:
        HeadstartError: a value that Lightning refuses.
    """
    _quieten_lightning()
    callbacks = own_callbacks + _make_all("callbacks", settings.callbacks)
    # Progress bars on a terminal; elsewhere headstart.training.history prints a line an epoch.
    defaults: dict[str, Any] = {"enable_progress_bar": sys.stdout.isatty()}
    loggers = _make_all("logger", settings.logger)
    with lightning_refusals():
        return Trainer(
            **(defaults | settings.trainer),
            callbacks=callbacks,
            logger=loggers or False,
            plugins=[SafeCheckpointIO()],
            # From the epoch on that frees the first stage of the backbone, batches are pictures instead of features.
            reload_dataloaders_every_n_epochs=int(
                settings.features.cache and settings.finetune.first_epoch is not None
            ),
            default_root_dir=settings.run_dir,
            # headstart.data.sampler shards by itself.
            use_distributed_sampler=False,
        )


@contextmanager
def lightning_refusals() -> Iterator[None]:
    """Tells in one sentence what Lightning itself does not take; errors from elsewhere pass.

    Raises:
        HeadstartError: with Lightning's reason.
    """
    try:
        yield
    except (MisconfigurationException, TypeError, ValueError, RuntimeError) as error:
        *_, innermost = traceback.walk_tb(error.__traceback__)
        if innermost[0].f_globals.get("__name__", "").partition(".")[0] not in LIGHTNING:
            raise
        raise HeadstartError(f"Lightning refuses the trainer settings: {' '.join(str(error).split())}") from None


def _make_all(group: str, entries: dict[str, Any]) -> list[Any]:
    made = []
    for name, entry in entries.items():
        if entry is not None:
            try:
                made.append(instantiate(entry, _execution_whitelist_=TARGETS))
            except (InstantiationException, MisconfigurationException, TypeError, ValueError) as error:
                raise HeadstartError(f"{group}.{name} cannot be made: {' '.join(str(error).split())}") from None
    return made


def _quieten_lightning() -> None:
    for name in LIGHTNING:
        logging.getLogger(name).setLevel(logging.WARNING)
    for text in (
        # This project logs once an epoch, and knows the number of its workers.
        ".*smaller than the logging interval.*",
        ".*does not have many workers.*",
        # The frozen backbone is meant to be in eval mode.
        r".*module\(s\) in eval mode at the start of training.*",
        # Lightning's own affair.
        ".*treespec, LeafSpec.*",
    ):
        warnings.filterwarnings("ignore", message=text)


@contextmanager
def sigterm_ends_with_143() -> Iterator[None]:
    """Lets SIGTERM end the program with status 143; Lightning by itself would end with status 0."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: FrameType | None) -> None:
        sys.exit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
