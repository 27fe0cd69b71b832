"""From Hydra's DictConfig to typed settings."""

import functools
from collections.abc import Hashable, Iterator
from dataclasses import is_dataclass
from typing import Any, TypeVar, get_type_hints

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException, ValidationError

from headstart.config.constraints import violations
from headstart.config.data import DATASETS, DataSettings
from headstart.config.suggest import suggestion
from headstart.config.trainer import trainer_keys
from headstart.errors import HeadstartError

Settings = TypeVar("Settings")


def typed(schema: type[Settings], config: DictConfig, **parts: type) -> Settings:
    """`config` as an object of `schema`, with `parts` in place of the schema's own types for some keys.

    Raises:
        HeadstartError: names the unknown key, or the invalid value.
    """
    try:
        expected = _expected(schema, tuple(parts.items()))  # type: ignore[arg-type]
        settings: Any = OmegaConf.to_object(OmegaConf.merge(expected, config))
    except ConfigKeyError as error:
        raise unknown_key(str(error.full_key), schema) from None
    except ValidationError as error:
        key = str(error.full_key)
        value = OmegaConf.select(config, key)
        if "ListConfig" in str(error) and isinstance(value, str | int | float):
            raise HeadstartError(f"{key}={value} is invalid: it must be a list, such as {key}=[{value}]") from None
        raise HeadstartError(f"{key} is invalid: {_first_line(error)}") from None
    except OmegaConfBaseException as error:
        raise HeadstartError(_first_line(error)) from None
    for sentence in violations(settings):
        raise HeadstartError(sentence)
    return settings


@functools.cache
def _expected(schema: Hashable, parts: tuple[tuple[str, type], ...]) -> DictConfig:
    """What a config is merged into; made once, because each trial of a sweep has its config checked."""
    expected: DictConfig = OmegaConf.structured(schema)
    for key, part in parts:
        expected[key] = OmegaConf.structured(part)
    return expected


def unknown_key(key: str, schema: type) -> HeadstartError:
    """The sentence for a key that `schema` does not have, with the nearest one that it has."""
    known = known_keys(schema)
    if key in known:
        return HeadstartError(f"the key '{key}' has no meaning with this choice of {key.partition('.')[0]}=")
    return HeadstartError(f"unknown key '{key}'{suggestion(key, known)}")


def known_keys(schema: type) -> list[str]:
    """The keys of `schema`, whatever is chosen with data=."""
    return list(_keys_of(schema))


def _first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]


def _keys_of(schema: type, prefix: str = "") -> Iterator[str]:
    for name, hint in get_type_hints(schema).items():
        if name == "trainer":
            yield from (f"trainer.{key}" for key in trainer_keys())
        elif hint is DataSettings:
            of_datasets = (_keys_of(part, "data.") for part in DATASETS.values())
            yield from dict.fromkeys(key for keys in of_datasets for key in keys)
        elif is_dataclass(hint):
            yield from _keys_of(hint, f"{prefix}{name}.")  # type: ignore[arg-type]
        else:
            yield f"{prefix}{name}"
