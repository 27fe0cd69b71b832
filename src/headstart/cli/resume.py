"""Resuming and testing again: the settings of the run that a checkpoint belongs to."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import yaml  # type: ignore[import-untyped]
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from headstart.cli.cleanup import INTO_RUN
from headstart.cli.names import as_written
from headstart.cli.overrides import expand_home, key_of, value_of, written_as
from headstart.config.train import EVALUATING
from headstart.errors import HeadstartError
from headstart.log import log
from headstart.run_folder import RunFolder, checkpoint_file, is_ensemble, run_folder_of

# A trial of a sweep is resumed as a run of its own.
OF_A_SWEEP = ("sweep", "sweep.over", "sweep.fixed", "sweep.objective", "sweep.ensemble")
NOT_REPEATED = ("ckpt_path", "task", *OF_A_SWEEP, "run_dir")
# A checkpoint knows where its weights came from, and this key where they are now.
NOT_TO_EVALUATE = ("model.weights",)
# What says which data to use, if a checkpoint's run does not.
DATA = ("data", "data.root", "experiment")
# What reading the settings of a run may raise.
DAMAGED = (yaml.YAMLError, OmegaConfBaseException, OSError, ValueError, AttributeError, KeyError, TypeError)


def with_checkpoint_file(arguments: list[str], name: Literal["best", "last"]) -> list[str]:
    """`arguments` with the checkpoint `name` of a run, where ckpt_path is a run's folder.

    Raises:
        HeadstartError: ckpt_path is another folder.
    """
    return [_with_file(argument, name) if key_of(argument) == "ckpt_path" else argument for argument in arguments]


def evaluates(arguments: list[str]) -> bool:
    """Whether these arguments use a checkpoint as it is, instead of training it further."""
    return any(key_of(argument) == "task" and value_of(argument) in EVALUATING for argument in arguments)


def with_runs_own_folder(arguments: list[str]) -> list[str]:
    """`arguments`; where they write into the folder of a run, with it as Hydra's, which records nothing."""
    paths = [value_of(argument) for argument in arguments if key_of(argument) == "ckpt_path"]
    if INTO_RUN.isdisjoint(value_of(argument) for argument in arguments if key_of(argument) == "task") or not paths:
        return arguments
    return [*arguments, f"hydra.run.dir={run_folder_of(Path(expand_home(paths[-1]))).path}", "hydra.output_subdir=null"]


def overrides_to_repeat(arguments: list[str]) -> list[str]:
    """The settings of the run whose checkpoint `ckpt_path` names, as overrides; empty if there is no such key.

    Raises:
        HeadstartError: there is no such file, or its run's settings are gone and `arguments` do not say which data.
    """
    for argument in arguments:
        value = expand_home(value_of(argument))
        if key_of(argument) == "ckpt_path" and value.lower() not in ("", "null") and "${" not in value:
            if not os.path.lexists(value):
                raise HeadstartError(f"ckpt_path={value} does not exist")
            if is_ensemble(Path(value)):
                raise HeadstartError(f"ckpt_path={value} is an ensemble, which only predict.py and embed take")
            if "task=export" in arguments:
                # It takes nothing but the checkpoint.
                return []
            repeated = _overrides_of(run_folder_of(Path(value)), {key_of(argument) for argument in arguments})
            return [
                override for override in repeated if not (evaluates(arguments) and key_of(override) in NOT_TO_EVALUATE)
            ]
    return []


def _with_file(argument: str, name: Literal["best", "last"]) -> str:
    path = expand_home(value_of(argument))
    file = str(checkpoint_file(Path(path), name))
    return argument if file == str(Path(path)) else f"ckpt_path={file}"


def _overrides_of(run: RunFolder, given: set[str]) -> list[str]:
    try:
        if run.overrides.is_file():
            return [
                override
                for override in as_written(OmegaConf.load(run.overrides))
                if key_of(override) not in NOT_REPEATED
            ]
        if run.config.is_file():
            log.info("settings of the run: %s", run.config)
            return list(_overrides_of_config(OmegaConf.to_container(OmegaConf.load(run.config))))
    except DAMAGED as error:
        reason = (isinstance(error, OSError) and error.strerror) or "one of its files is damaged"
        raise HeadstartError(f"the settings of the run in {run.path} cannot be read: {reason}") from None
    if not given & set(DATA):
        raise HeadstartError(
            f"the settings of the checkpoint's run are gone, because {run.path} has neither "
            f"{run.overrides.relative_to(run.path)} nor {run.config.name}: give its data and settings again "
            "(data=folder data.root=DIR …)"
        )
    return []


def _overrides_of_config(config: Any) -> Iterator[str]:
    """The overrides that give the resolved configuration `config` again, in another run's folder."""
    yield "data=folder"
    if not config["logger"]:
        yield "logger=none"
    for key, value in _leaves(config):
        if key not in NOT_REPEATED:
            # A dataset that headstart creates has keys that conf/data/folder.yaml lacks.
            new = "++" if key.startswith("data.") else ""
            yield f"{new}{key}={'${run_dir}' if value == config['run_dir'] else written_as(value)}"


def _leaves(values: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
