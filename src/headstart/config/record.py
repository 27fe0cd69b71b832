"""config.yaml, the one record of a run's settings, and how values are written so that Hydra reads them back."""

import os
import re
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import yaml  # type: ignore[import-untyped]
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from headstart.config.model import BUNDLED, DEFAULT
from headstart.config.train import TrainSettings
from headstart.errors import HeadstartError
from headstart.log import log
from headstart.run_folder import RunFolder

# Text, such as a path, as OmegaConf writes it: interpolations escaped, and bytes that are not UTF-8 as
# interpolations. `${byte:e9}` is such a byte; the YAML library could not write it.


SPECIAL = re.compile(r"(\\*)(\$\{|[\udc80-\udcff])")
WRITTEN = re.compile(r"(\\*)\$\{(?:byte:([0-9a-f]{2})\})?")


def literal_text(text: str) -> str:
    """What OmegaConf reads as exactly this text."""
    # Backslashes escape only in front of an interpolation.
    return SPECIAL.sub(lambda found: found[1] * 2 + (r"\${" if found[2] == "${" else _byte(found[2])), text)


def plain_text(written: str) -> str:
    """The inverse of `literal_text`."""
    return WRITTEN.sub(_read, written)


def encodable(text: str) -> str:
    """`text` with interpolations as they are, and bytes that are not UTF-8 as further ones."""
    return re.sub(r"[\udc80-\udcff]", lambda found: _byte(found[0]), text)


def is_encodable(text: str) -> bool:
    """Whether it can be written as UTF-8."""
    return encodable(text) == text


def literals(values: Any) -> Any:
    """Plain values with `literal_text` of each string."""
    if isinstance(values, dict):
        return {key: literals(value) for key, value in values.items()}
    if isinstance(values, list):
        return [literals(value) for value in values]
    return literal_text(values) if isinstance(values, str) else values


def byte(code: object) -> str:
    """The resolver of `${byte:e9}`."""
    return os.fsdecode(bytes.fromhex(str(code).zfill(2)))


def _byte(character: str) -> str:
    return f"${{byte:{ord(character) - 0xDC00:02x}}}"


def _read(found: re.Match[str]) -> str:
    backslashes, code = found[1], found[2]
    kept = "\\" * (len(backslashes) // 2)
    if len(backslashes) % 2:
        return kept + found[0].removeprefix(backslashes)
    return found[0] if code is None else kept + byte(code)


# config.yaml, the one record of a run's settings: what the run writes is what resuming, testing and reporting read.


# What a run reads, as paths, which must not depend on the folder that a program is started in.
PATHS = (("data", "root"), ("data", "csv"), ("data", "archive"), ("model", "weights"), ("features", "dir"))
# How Hydra calls a section of a run's settings: this, and the option of conf/ which it was made from.
OF_RUN = "_run_"
# What reading a file that somebody has changed may raise.
DAMAGED = (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError, AttributeError, KeyError, TypeError)


def record_of(settings: TrainSettings) -> str:
    """The text of config.yaml: all settings, resolved, with absolute paths."""
    values = asdict(settings)
    _replace_paths(values, lambda key, path: os.path.abspath(os.path.expanduser(path)))
    values["ckpt_path"] = values["ckpt_path"] and os.path.abspath(values["ckpt_path"])
    return OmegaConf.to_yaml(OmegaConf.create(literals(values)))


def choices() -> dict[str, str | None]:
    """The options of the groups of conf/ that the run, if a program has started it, was composed from."""
    if not HydraConfig.initialized():
        return {}
    chosen = HydraConfig.get().runtime.choices
    return {
        group: (option and option.removeprefix(OF_RUN)) or None for group, option in chosen.items() if "/" not in group
    }


def read_record(run: RunFolder) -> DictConfig:
    """The settings in a run's config.yaml, as Hydra would have composed them.

    Where a path is gone and the run's folder was moved, the path that has moved along with it is used.

    Raises:
        HeadstartError: the file is missing or damaged.
    """
    try:
        config = OmegaConf.load(run.config)
        values: Any = OmegaConf.to_container(config)
        before, now = str(OmegaConf.select(config, "run_dir")), os.path.abspath(run.path)
        _replace_paths(values, lambda key, path: literal_text(_moved(key, plain_text(path), before, now)))
        for entry in values["callbacks"].values():
            # It follows from the metric, which may be given anew.
            if entry is not None and "monitor" in entry:
                entry.pop("mode", None)
        # Version 0.1 had it; checkpoints say whether it was used.
        values["finetune"].pop("rest_lr_factor", None)
        return OmegaConf.create(values)
    except DAMAGED as error:
        reason = (isinstance(error, OSError) and error.strerror) or "it is damaged"
        raise HeadstartError(f"the settings of the run, {run.config}, cannot be read: {reason}") from None


def _replace_paths(values: dict[str, Any], replace: Callable[[str, str], str]) -> None:
    """Replaces, in place, the values that are paths; `replace` is given the key and the path."""
    for group, name in PATHS:
        path = values[group].get(name)
        is_name = (group, name) == ("model", "weights") and (path in (DEFAULT, BUNDLED) or not _is_file(path))
        if isinstance(path, str) and not is_name:
            values[group][name] = replace(f"{group}.{name}", path)


def _is_file(weights: Any) -> bool:
    """Whether `model.weights` is a file, if perhaps a missing one, rather than the name of published weights."""
    return isinstance(weights, str) and (os.sep in weights or os.path.isfile(os.path.expanduser(weights)))


def _moved(key: str, path: str, before: str, now: str) -> str:
    """`path`, or where it is if it is gone and was moved together with the run's folder, from `before` to `now`."""
    if before == now or not os.path.isabs(path) or os.path.lexists(path):
        return path
    if os.path.dirname(common := os.path.commonpath([os.path.abspath(before), path])) == common:
        # They have only the root of the file system in common, so nothing can have moved both.
        return path
    moved = os.path.normpath(os.path.join(now, os.path.relpath(path, before)))
    if not os.path.lexists(moved):
        return path
    log.info("%s: %s, which was moved together with the run's folder", key, moved)
    return moved
