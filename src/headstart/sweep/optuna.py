"""Optuna studies that are kept in a database: they go on where they were."""

from pathlib import Path
from typing import Any

import optuna
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from optuna.trial import TrialState


def prepare(hydra: DictConfig, folder: Path) -> None:
    """Sets `hydra.sweeper` so that `n_trials` counts those that the database has, and none of them is chosen again.

    A trial that was interrupted is the first to come. Without a database there is nothing to do: the same seed goes
    through the same trials, and those that are over are recognised by their folders.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sweeper = hydra.sweeper
    if sweeper.storage is None:
        return
    name = sweeper.study_name or folder.name
    study = optuna.create_study(
        study_name=name, storage=sweeper.storage, direction=sweeper.direction, load_if_exists=True
    )
    # A study that the user has named may be shared with processes that are at those trials.
    for trial in study.get_trials(states=(TrialState.RUNNING,)) if sweeper.study_name is None else ():
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    done = len(study.get_trials(states=(TrialState.COMPLETE,)))
    changes = {"study_name": name, "n_trials": max(0, sweeper.n_trials - done)}
    if sweeper.sampler.get("seed") is not None:
        # The sampler begins its random numbers anew, and would choose its first trials again.
        changes["sampler.seed"] = sweeper.sampler.seed + len(study.trials)
    _set(hydra, changes)


def _set(hydra: DictConfig, changes: dict[str, Any]) -> None:
    """Sets keys of `hydra.sweeper` as if the command line had: each trial's configuration is made from that anew."""
    with read_write(hydra), open_dict(hydra):
        for key, value in changes.items():
            OmegaConf.update(hydra, f"sweeper.{key}", value)
            hydra.overrides.hydra.append(f"hydra.sweeper.{key}={value}")
