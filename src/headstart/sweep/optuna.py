"""Optuna studies that are kept in a database: they go on where they were."""

from pathlib import Path
from typing import Any

import optuna
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from optuna.trial import FrozenTrial, TrialState

from headstart.errors import HeadstartError
from headstart.names import all_swept, swept_values, trial_name
from headstart.sweep.record import read_trial


def prepare(config: DictConfig, folder: Path) -> None:
    """Sets `hydra.sweeper` so that `n_trials` counts those that the database has, and none of them is chosen again.

    A trial that was interrupted, failed, or is no longer in the sweep's `folder`, is among the first to come. Without a
    database there is nothing to do: the same seed goes through the same trials, and those that are over are recognised
    by their folders.

    Raises:
        HeadstartError: the database cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sweeper = config.hydra.sweeper
    if sweeper.storage is None:
        return
    name = sweeper.study_name or folder.name
    study = _study(sweeper, name)
    # A study that the user has named may be shared with processes that are at those trials.
    for trial in study.get_trials(states=(TrialState.RUNNING,)) if sweeper.study_name is None else ():
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    keys = all_swept(config.sweep.over, config.sweep.fixed)
    # One that was done twice has the same place.
    complete = {_place(trial, keys): trial for trial in study.get_trials(states=(TrialState.COMPLETE,))}
    gone = [trial for place, trial in complete.items() if not _is_there(folder / place)]
    for trial in gone:
        study.enqueue_trial(trial.params)
    changes = {"study_name": name, "n_trials": max(0, sweeper.n_trials - len(complete) + len(gone))}
    if sweeper.sampler.get("seed") is not None:
        # The sampler begins its random numbers anew, and would choose its first trials again.
        changes["sampler.seed"] = sweeper.sampler.seed + len(study.trials)
    _set(config.hydra, changes)


def _study(sweeper: DictConfig, name: str) -> optuna.Study:
    try:
        return optuna.create_study(
            study_name=name, storage=sweeper.storage, direction=sweeper.direction, load_if_exists=True
        )
    except Exception as error:
        # SQLAlchemy's, its drivers', or Optuna's own.
        first = str(error).strip().partition("\n")[0]
        raise HeadstartError(f"hydra.sweeper.storage={sweeper.storage} cannot be used: {first}") from None


def _place(trial: FrozenTrial, keys: list[str]) -> str:
    """The name of the folder that the sweep gives to `trial`."""
    values = trial.user_attrs | trial.params
    return trial_name(swept_values([f"{key}={value}" for key, value in values.items()], keys))


def _is_there(run: Path) -> bool:
    record = read_trial(run)
    return record is not None and record.reason is None


def _set(hydra: DictConfig, changes: dict[str, Any]) -> None:
    """Sets keys of `hydra.sweeper` as if the command line had: each trial's configuration is made from that anew."""
    with read_write(hydra), open_dict(hydra):
        for key, value in changes.items():
            OmegaConf.update(hydra, f"sweeper.{key}", value)
            hydra.overrides.hydra.append(f"hydra.sweeper.{key}={value}")
