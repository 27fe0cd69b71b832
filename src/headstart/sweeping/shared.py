"""The data and the backbone of a sweep, prepared once per process and shared by its trials."""

import json
from collections.abc import Callable
from dataclasses import asdict
from typing import Any, Generic, TypeVar

from headstart.backbones.backbone import Backbone
from headstart.backbones.load import check_backbone, load_backbone
from headstart.config.train import TrainSettings
from headstart.data.prepare import PreparedData, prepare_data
from headstart.datasets.make import make_dataset

# Settings under `data` that belong to the backbone, and those that the data do not depend on.
PREPROCESSING = ("resize_size", "image_size", "interpolation", "mean", "std", "resize_mode")
NOT_OF_DATA = (*PREPROCESSING, "batch_size", "num_workers", "balance", "near_duplicates")
Value = TypeVar("Value")


class _Latest(Generic[Value]):
    """Remembers the value of the latest key."""

    def __init__(self) -> None:
        self._latest: tuple[str, Value] | None = None

    def get(self, key: Any, create: Callable[[], Value]) -> Value:
        """The value of `key`, a plain value, created unless it was the latest one."""
        text = json.dumps(key, sort_keys=True, default=str)
        if self._latest is None or self._latest[0] != text:
            self._latest = text, create()
        return self._latest[1]

    def clear(self) -> None:
        """Forgets it."""
        self._latest = None


_data: _Latest[PreparedData] = _Latest()
_backbone: _Latest[Backbone] = _Latest()


def shared_data(settings: TrainSettings) -> PreparedData:
    """The data that `settings` describe."""

    def prepare() -> PreparedData:
        # What can be checked without data comes first.
        check_backbone(settings.model, settings.data)
        make_dataset(settings.data, settings.data.seed)
        return prepare_data(settings.data, settings.data.seed)

    key = {name: value for name, value in asdict(settings.data).items() if name not in NOT_OF_DATA}
    return _data.get({"data": key}, prepare)


def shared_backbone(settings: TrainSettings) -> Backbone:
    """The backbone that `settings` describe; a new one if it is going to be trained."""

    def load() -> Backbone:
        return load_backbone(settings.model, settings.data, seed=settings.seed)

    if settings.finetune.first_epoch is not None:
        return load()
    preprocessing = {name: getattr(settings.data, name) for name in PREPROCESSING}
    model = {"arch": settings.model.arch, "weights": settings.model.weights}
    key = {"seed": settings.seed, "model": model, "preprocessing": preprocessing}
    return _backbone.get(key, load)


def forget_shared() -> None:
    """Lets a new sweep in the same process prepare its data and backbone anew."""
    _data.clear()
    _backbone.clear()
