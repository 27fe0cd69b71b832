"""The data and the backbone of a sweep, prepared once per process and shared by its trials."""

import json
from collections.abc import Callable
from dataclasses import asdict, fields, replace
from typing import Any, Generic, TypeVar

from headstart.backbones.backbone import Backbone
from headstart.backbones.load import check_backbone, load_backbone
from headstart.config.data import LoadingSettings, PreprocessingSettings
from headstart.config.model import BackboneSettings
from headstart.config.train import TrainSettings
from headstart.data.prepare import PreparedData, prepare_data
from headstart.datasets.make import make_dataset

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
    """Returns the data that `settings` describe."""
    # They are prepared from the key itself, so that they cannot depend on a setting that it does not have.
    unused: dict[str, Any] = dict.fromkeys(_names(LoadingSettings) | _names(PreprocessingSettings))
    own = replace(settings.data, **unused)

    def prepare() -> PreparedData:
        # What can be checked without data comes first.
        check_backbone(settings.model, settings.data)
        make_dataset(own, own.seed)
        return prepare_data(own, own.seed)

    return _data.get(asdict(own), prepare)


def shared_backbone(settings: TrainSettings) -> Backbone:
    """Returns the backbone that `settings` describe; a new one if it is going to be trained."""
    model, preprocessing = _part(settings.model, BackboneSettings), _part(settings.data, PreprocessingSettings)

    def load() -> Backbone:
        return load_backbone(model, preprocessing, seed=settings.seed)

    if settings.finetune.first_epoch is not None:
        return load()
    return _backbone.get([asdict(model), asdict(preprocessing), settings.seed], load)


def _part(settings: Any, kind: type[Value]) -> Value:
    """Returns the fields that `settings` inherited from `kind`; a value made from these depends on nothing else."""
    return kind(**{name: getattr(settings, name) for name in _names(kind)})


def _names(kind: Any) -> set[str]:
    return {field.name for field in fields(kind)}


def forget_shared() -> None:
    """Lets a new sweep in the same process prepare its data and backbone anew."""
    _data.clear()
    _backbone.clear()
