"""Resuming and testing again: the settings of the run that a checkpoint belongs to."""

import os
from pathlib import Path
from typing import Any, Literal

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore
from omegaconf import OmegaConf

from headstart.cli.arguments import expand_home, flags
from headstart.config import CONF, GROUPS, options_of
from headstart.config.overrides import given, key_of, value_of, written_as
from headstart.config.train import EVALUATING, INTO_RUN, OF_RUN, WITHOUT_DATA, read_record
from headstart.errors import HeadstartError
from headstart.files import read_json
from headstart.log import log
from headstart.run_folder import RunFolder, checkpoint_file, is_ensemble, run_folder_of

# What a resumed run does not take over. A trial of a sweep is resumed as a run of its own.
NOT_REPEATED = ("ckpt_path", "task", "sweep", "run_dir")
# Sections whose entries are arguments of Lightning's classes: one that a run does not have must stay away.
OPEN = ("trainer", "callbacks", "logger")
# What says which data to use, if a checkpoint's run does not.
DATA = ("data", "data.root", "experiment")


def with_checkpoint_file(arguments: list[str], name: Literal["best", "last"]) -> list[str]:
    """Returns `arguments` with the checkpoint `name` of a run, where ckpt_path is a run's folder.

    Raises:
        HeadstartError: ckpt_path is another folder.
    """
    return [
        _with_file(argument, path, name) if (path := _checkpoint_in(argument)) else argument for argument in arguments
    ]


def _checkpoint_in(argument: str) -> str | None:
    """Returns the value of ckpt_path, if this is the argument that sets it."""
    path = expand_home(value_of(argument)) if key_of(argument) == "ckpt_path" else ""
    return None if path.lower() in ("", "null") or "${" in path else path


def _with_file(argument: str, path: str, name: Literal["best", "last"]) -> str:
    file = str(checkpoint_file(Path(path), name))
    if file == str(Path(path)):
        return argument
    if not os.path.lexists(path):
        log.info("ckpt_path=%s: %s", path, file)
    return f"ckpt_path={file}"


def evaluates(arguments: list[str]) -> bool:
    """Whether these arguments use a checkpoint as it is, instead of training it further."""
    return not set(EVALUATING).isdisjoint(given(arguments, "task"))


def with_runs_own_folder(arguments: list[str]) -> list[str]:
    """Returns `arguments`; where they write into the folder of a run, with it as Hydra's, which records nothing."""
    paths = given(arguments, "ckpt_path")
    if not paths or set(INTO_RUN).isdisjoint(given(arguments, "task")):
        return arguments
    return [*arguments, f"hydra.run.dir={run_folder_of(Path(expand_home(paths[-1]))).path}", "hydra.output_subdir=null"]


def with_settings_of_run(arguments: list[str]) -> list[str]:
    """Returns `arguments` with the settings of the run whose checkpoint `ckpt_path` names, if there is such a key.

    Hydra finds each section of the run's config.yaml as an option of a group. What `arguments` set is set on top of
    it; an option that they choose anew changes what distinguishes it from the run's own.

    Raises:
        HeadstartError: there is no such file, or its run's settings are gone and `arguments` do not say which data.
    """
    path = _checkpoint_of(arguments)
    if path is None or not set(WITHOUT_DATA).isdisjoint(given(arguments, "task")):
        return arguments
    if is_ensemble(path):
        raise HeadstartError(
            f"ckpt_path={path} is an ensemble, which only predict.py, embed, task=demo and task=export take"
        )
    run = run_folder_of(path)
    if not run.config.is_file():
        _check_has_data(run, arguments)
        return arguments
    record: Any = OmegaConf.to_container(read_record(run))
    log.info("settings of the run: %s", run.config)
    chosen = {
        key_of(argument): value_of(argument).removeprefix(OF_RUN) for argument in arguments if _is_choice(argument)
    }
    own = flags(arguments).get("--config-dir")
    places = [os.path.abspath(own)] if own else []
    before = _choices(run, record, places)
    old = _composed(before, places)
    new = _composed(before | chosen, places) if chosen else old
    values = _changed(record, old, new)
    deleted = {argument.lstrip("~") for argument in arguments if argument.startswith("~")}
    stored = _store(values, before | chosen)
    return [o for o in stored if key_of(o) not in deleted] + [a for a in arguments if not _is_choice(a)]


def _checkpoint_of(arguments: list[str]) -> Path | None:
    path = next(filter(None, map(_checkpoint_in, arguments)), None)
    if path is None:
        return None
    if not os.path.lexists(path):
        raise HeadstartError(f"ckpt_path={path} does not exist")
    return Path(path)


def _check_has_data(run: RunFolder, arguments: list[str]) -> None:
    if not {key_of(argument) for argument in arguments} & set(DATA):
        raise HeadstartError(
            f"the settings of the checkpoint's run are gone, because {run.path} has no {run.config.name}: give its "
            "data and settings again (data=folder data.root=DIR …)"
        )


def _is_choice(argument: str) -> bool:
    """Whether it chooses an option of a group of conf/."""
    return "=" in argument and not argument.startswith("~") and key_of(argument) in GROUPS


def _choices(run: RunFolder, record: dict[str, Any], places: list[str]) -> dict[str, str]:
    """Returns the options that the run was made from, as far as they are recorded and still there."""
    data = record["data"]
    own = "csv" if data.get("csv") is not None else "folder"
    inferred = next((o for o in options_of("data") if o.startswith(str(data["maker"]))), own) if data["maker"] else own
    try:
        recorded: dict[str, str] = read_json(run.record)["choices"]
    except (OSError, ValueError, KeyError, TypeError):
        recorded = {}
    folders = [CONF, *map(Path, places)]
    return {"data": inferred} | {
        group: option
        for group, option in recorded.items()
        if group in GROUPS and any(option in options_of(group, place) for place in folders)
    }


def _composed(choices: dict[str, str], places: list[str]) -> Any:
    """Returns what these options of conf/ say, before anything in it is resolved."""
    searched = [f"hydra.searchpath={written_as([f'file://{place}' for place in places])}"] if places else []
    overrides = [f"{group}={option or 'null'}" for group, option in choices.items() if group != "sweep"]
    with initialize_config_dir(str(CONF)):
        return OmegaConf.to_container(compose("train", [*overrides, *searched]), resolve=False)


def _changed(values: dict[str, Any], old: dict[str, Any], new: dict[str, Any]) -> dict[str, Any]:
    """Returns `values` with what distinguishes `new` from `old`."""
    result = {key: value for key, value in values.items() if key in new or key not in old}
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(old.get(key), dict) and isinstance(values.get(key), dict):
            result[key] = _changed(values[key], old[key], value)
        elif key not in old or old[key] != value:
            result[key] = value
    return result


def as_given(arguments: list[str]) -> list[str]:
    """Returns what `with_settings_of_run` was given, from `arguments` that it passed on to another process."""
    given = [argument.replace(f"={OF_RUN}", "=") if _is_choice(argument) else argument for argument in arguments]
    return [
        argument for argument, before in zip(given, arguments, strict=True) if argument == before or value_of(argument)
    ]


def _store(values: dict[str, Any], choices: dict[str, str]) -> list[str]:
    """Lets Hydra find the sections of `values` as options of their groups; returns the overrides that choose them."""
    values = _in_new_folder(values)
    kept = {key: value for key, value in values.items() if key not in NOT_REPEATED and key != "hydra"}
    sections = {key: value for key, value in kept.items() if key in GROUPS}
    # It is applied last, and has what is in no group.
    sections["experiment"] = {key: value for key, value in kept.items() if key not in GROUPS}
    names = {group: f"{OF_RUN}{choices.get(group) or ''}" for group in sections}
    configs = ConfigStore.instance()
    for group, name in names.items():
        package = "_global_" if group == "experiment" else group
        configs.store(name=name, group=group, node=OmegaConf.create(sections[group]), package=package)
    return [f"{group}={name}" for group, name in names.items()]


def forget_settings_of_runs() -> None:
    """Removes the options that an earlier run of the same process has left, which --help would list."""
    groups = (options for options in ConfigStore.instance().repo.values() if isinstance(options, dict))
    for options in groups:
        for name in [name for name in options if name.startswith(OF_RUN)]:
            del options[name]


def _in_new_folder(values: dict[str, Any]) -> dict[str, Any]:
    """Returns `values` with the run's own folder, in arguments of Lightning's classes, as that of the new run."""

    def moved(value: Any) -> Any:
        if isinstance(value, dict):
            return {key: moved(inner) for key, inner in value.items()}
        if isinstance(value, list):
            return [moved(inner) for inner in value]
        is_in_it = isinstance(value, str) and (value == folder or value.startswith(f"{folder}/"))
        return f"${{run_dir}}{value[len(folder) :]}" if is_in_it else value

    folder = str(values["run_dir"])
    return values | {key: moved(values[key]) for key in OPEN}
