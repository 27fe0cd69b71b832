"""Optuna studies in a database: they continue where they stopped."""

import optuna
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from optuna.trial import FrozenTrial, TrialState

from headstart.config.overrides import all_swept, swept_values, trial_name
from headstart.errors import HeadstartError
from headstart.run_folder import SweepFolder
from headstart.sweeping.trial_record import completed, read_trials


def prepare_study(config: DictConfig, sweep: SweepFolder) -> None:
    """Sets `hydra.sweeper` so that `n_trials` includes those in the database, and none of these is chosen again.

    Trials that were interrupted, failed, or are no longer in the sweep's folder come first. Without a database there is
    nothing to do: the same seed chooses the same trials, and completed ones are recognized by their folders.

    Raises:
        HeadstartError: the database cannot be used.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    sweeper = config.hydra.sweeper
    if sweeper.storage is None:
        return
    name = sweeper.study_name or sweep.path.name
    study = _study(sweeper, name)
    # A study that the user named may be shared with processes that are running these trials.
    for trial in study.get_trials(states=(TrialState.RUNNING,)) if sweeper.study_name is None else ():
        study.tell(trial.number, state=TrialState.FAIL)
        study.enqueue_trial(trial.params)
    keys = all_swept(config.sweep.over, config.sweep.fixed)
    # A trial that ran twice has the same folder.
    chosen = {_folder_name(trial, keys): trial for trial in study.get_trials(states=(TrialState.COMPLETE,))}
    done = {trial.folder for trial in completed(read_trials(sweep))}
    gone = [trial for folder, trial in chosen.items() if folder not in done]
    for trial in gone:
        study.enqueue_trial(trial.params)
    changes = {"study_name": name, "n_trials": max(0, sweeper.n_trials - len(chosen) + len(gone))}
    if sweeper.sampler.get("seed") is not None:
        # The sampler restarts its random numbers, and would choose its first trials again.
        changes["sampler.seed"] = sweeper.sampler.seed + len(study.trials)
    # As if on the command line, from which each trial's configuration is composed.
    with read_write(config.hydra), open_dict(config.hydra):
        for key, value in changes.items():
            OmegaConf.update(sweeper, key, value)
            config.hydra.overrides.hydra.append(f"hydra.sweeper.{key}={value}")


def _study(sweeper: DictConfig, name: str) -> optuna.Study:
    try:
        return optuna.create_study(
            study_name=name, storage=sweeper.storage, direction=sweeper.direction, load_if_exists=True
        )
    except Exception as error:
        # SQLAlchemy's, its drivers', or Optuna's own.
        first = str(error).strip().partition("\n")[0]
        raise HeadstartError(f"hydra.sweeper.storage={sweeper.storage} cannot be used: {first}") from None


def _folder_name(trial: FrozenTrial, keys: list[str]) -> str:
    """Returns the name of the folder of `trial` in the sweep."""
    values = trial.user_attrs | trial.params
    return trial_name(swept_values([f"{key}={value}" for key, value in values.items()], keys))
