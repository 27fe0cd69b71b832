"""What is checked and claimed before a sweep starts, and the study of Optuna, which continues where it stopped."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout
from omegaconf import DictConfig, ListConfig, OmegaConf, open_dict, read_write

from headstart.cli.errors import remember_output
from headstart.cli.overrides import all_swept, as_written, sweep_name, swept_keys, swept_values, trial_name
from headstart.config.model import ENSEMBLE, OBJECTIVES, is_ensemble_size
from headstart.errors import HeadstartError
from headstart.files import SWEEP, claim, exclusively, read_json, write_json
from headstart.log import log, shown
from headstart.machine import place_in_job
from headstart.run_folder import SweepFolder
from headstart.sweeping.trial_record import FOLD, completed, read_trials

if TYPE_CHECKING:
    # It takes a second, and need not be installed.
    from optuna import Study
    from optuna.trial import FrozenTrial


def begin(config: DictConfig) -> FileLock:
    """Checks a sweep, claims its folder, and prepares the study of Optuna, if it chooses the trials.

    Returns:
        The lock of the folder, to be held while the sweep runs.

    Raises:
        HeadstartError: the sweep cannot be run, or not in this folder.
    """
    check_sweep(config)
    sweep = SweepFolder(Path(config.hydra.sweep.dir))
    remember_output(sweep.path)
    overrides = as_written(config.hydra.overrides.task) + as_written(config.hydra.overrides.hydra)
    if swept_keys(overrides)[0] != list(config.sweep.over):
        raise HeadstartError("the keys with several values could not be determined: start sweeps with -m")
    if any(override.lstrip("+").startswith("hydra.sweep.subdir") for override in overrides):
        raise HeadstartError("hydra.sweep.subdir cannot be set: a trial's folder is named after its overrides")
    lock = exclusively(sweep.path / "sweep")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise HeadstartError(f"another process is running this sweep: {sweep.path}") from None
    with ExitStack() as stack:
        stack.callback(lock.release)
        _claim(sweep, sweep_name(overrides))
        if config.hydra.runtime.choices.get("hydra/sweeper") == "optuna":
            if FOLD in config.sweep.over:
                raise HeadstartError(f"{FOLD} cannot be chosen by Optuna: sweep over folds without sweep=optuna")
            _prepare_study(config, sweep)
        log.info("sweep folder: %s", shown(sweep.path))
        # It stays locked.
        stack.pop_all()
    return lock


def _claim(sweep: SweepFolder, name: str) -> None:
    """Makes the folder that of the sweep `name`. Two sweeps in one folder would take each other's trials for theirs."""
    try:
        existing = str(read_json(sweep.record)["name"])
    except (OSError, ValueError, TypeError, KeyError):
        existing = ""
    if existing.startswith("sweep") and existing != name:
        raise HeadstartError(f"{sweep.path} holds another sweep: choose another hydra.sweep.dir")
    claim(sweep.path, SWEEP, "hydra.sweep.dir")
    write_json(sweep.record, {"name": name})


def check_sweep(config: DictConfig) -> None:
    """Raises HeadstartError, with the reason, if the trials of `config` could not be run or compared."""
    if (place := place_in_job()).world_size > 1:
        raise HeadstartError(f"a sweep (-m) runs in one process: start it without {place.launcher}")
    if config.task != "train":
        raise HeadstartError(f"task={config.task} cannot be swept (-m): only training runs can be compared")
    if config.ckpt_path is not None:
        raise HeadstartError("ckpt_path cannot be combined with a sweep (-m): trials start from scratch")
    objective = config.sweep.objective
    if objective not in OBJECTIVES:
        raise HeadstartError(f"sweep.objective={objective} is invalid: it must be one of {', '.join(OBJECTIVES)}")
    for key in config.sweep.over:
        if key.startswith("sweep."):
            raise HeadstartError(f"{key} cannot have several values: it belongs to the sweep as a whole")
    if not is_ensemble_size(config.sweep.ensemble):
        raise HeadstartError(f"sweep.ensemble={config.sweep.ensemble} is invalid: it must be {ENSEMBLE}")
    if config.callbacks.get("checkpoint") is None or config.trainer.get("fast_dev_run"):
        raise HeadstartError(
            "a sweep (-m) needs callbacks.checkpoint, to keep the best trial, and no trainer.fast_dev_run"
        )
    if FOLD in config.sweep.over and config.data.folds is None and "data.folds" not in config.sweep.over:
        raise HeadstartError(f"{FOLD} has several values, but how many folds there are is not set: add data.folds=5")
    _check_single_process(config.trainer)


def _check_single_process(trainer: DictConfig) -> None:
    devices = trainer.get("devices", 1)
    is_single = {
        "strategy": str(trainer.get("strategy", "auto")) in ("auto", "single_device", "None"),
        "devices": str(devices) == "1" or (isinstance(devices, ListConfig) and len(devices) == 1),
        "num_nodes": trainer.get("num_nodes", 1) == 1,
    }
    for key in (key for key, value in is_single.items() if not value):
        raise HeadstartError(
            f"trainer.{key}={trainer[key]} cannot be used in a sweep (-m), because each trial runs in one process: set "
            "trainer.devices=1, and run trials in parallel with hydra/launcher=joblib"
        )


# Optuna studies in a database.


def _prepare_study(config: DictConfig, sweep: SweepFolder) -> None:
    """Sets `hydra.sweeper` so that `n_trials` includes those in the database, and none of these is chosen again.

    Trials that were interrupted, failed, or are no longer in the sweep's folder come first. Without a database there is
    nothing to do: the same seed chooses the same trials, and completed ones are recognized by their folders.

    Raises:
        HeadstartError: the database cannot be used.
    """
    import optuna
    from optuna.trial import TrialState

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


def _study(sweeper: DictConfig, name: str) -> "Study":
    import optuna

    try:
        return optuna.create_study(
            study_name=name, storage=sweeper.storage, direction=sweeper.direction, load_if_exists=True
        )
    except Exception as error:
        # SQLAlchemy's, its drivers', or Optuna's own.
        first = str(error).strip().partition("\n")[0]
        raise HeadstartError(f"hydra.sweeper.storage={sweeper.storage} cannot be used: {first}") from None


def _folder_name(trial: "FrozenTrial", keys: list[str]) -> str:
    """Returns the name of the folder of `trial` in the sweep."""
    values = trial.user_attrs | trial.params
    return trial_name(swept_values([f"{key}={value}" for key, value in values.items()], keys))
