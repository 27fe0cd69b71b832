"""Optuna studies that are kept in a database: they go on where they were."""

from pathlib import Path

import optuna
from omegaconf import DictConfig
from optuna.trial import TrialState


def prepare(sweeper: DictConfig, folder: Path) -> None:
    """Sets `hydra.sweeper` so that `n_trials` counts those that the database has, and none of them is chosen again.

    A trial that was interrupted is the first to come. Without a database there is nothing to do: the same seed goes
    through the same trials, and those that are over are recognised by their folders.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if sweeper.storage is None:
        return
    is_own = sweeper.study_name is None
    if is_own:
        sweeper.study_name = folder.name
    study = optuna.create_study(
        study_name=sweeper.study_name, storage=sweeper.storage, direction=sweeper.direction, load_if_exists=True
    )
    # A study that the user has named may be shared with processes that are at those trials.
    for trial in study.get_trials(states=(TrialState.RUNNING,)) if is_own else ():
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    done = len(study.get_trials(states=(TrialState.COMPLETE,)))
    sweeper.n_trials = max(0, sweeper.n_trials - done)
    if sweeper.sampler.get("seed") is not None:
        # The sampler begins its random numbers anew, and would choose its first trials again.
        sweeper.sampler.seed += len(study.trials)
