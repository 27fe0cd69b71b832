"""Hydra's callback at the start of a run and around the trials of a sweep, and the study that Optuna continues."""

import gc
import sys
import traceback
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, open_dict, read_write
from omegaconf.errors import OmegaConfBaseException

from headstart.config.data import FOLD
from headstart.config.overrides import all_swept, as_written, sweep_name, swept_keys, swept_values, trial_name
from headstart.config.train import INTO_RUN, check_sweep
from headstart.errors import HeadstartError
from headstart.files import RUN, SWEEP, check, claim, exclusively, mark, read_json, write_json
from headstart.log import is_first_process, log, shown
from headstart.program import OUTPUT, Failed, exit_on_error
from headstart.run_folder import RunFolder, SweepFolder
from headstart.sweeping.trial_record import completed, read_trials

if TYPE_CHECKING:
    # It takes a second, and need not be installed.
    from optuna import Study
    from optuna.trial import FrozenTrial

# Held while this process runs a sweep. Not by the callback, which is sent to other processes.
_held: list[FileLock] = []


class SweepCallback(Callback):
    """Claims the folder that is written into; rejects what cannot be swept, and reports the best trial of a sweep."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        # Further processes share the folder of the first.
        if not is_first_process():
            return
        try:
            HydraConfig.instance().set_config(config)
            folder = Path(config.hydra.run.dir)
            # Reports are written into their run's, where Hydra records nothing.
            is_into_run = config.get("task") in INTO_RUN and config.hydra.output_subdir is None
            if not (is_into_run and folder.exists()):
                _claim_run(folder)
        except HeadstartError as error:
            raise Failed(str(error)) from error
        except (OmegaConfBaseException, OSError):
            # Hydra is about to raise it too.
            return

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _exit_on_any_error():
            _held.append(_begin(config))

    def on_job_end(self, config: DictConfig, job_return: JobReturn, **kwargs: Any) -> None:
        # Hydra keeps what its jobs return to the end of the sweep. Nothing needs their configs.
        job_return.cfg = job_return.hydra_cfg = None

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if not _held:
            return
        # Hydra calls this whatever happened.
        error = sys.exc_info()[1]
        try:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                log.warning("stopped; run the same command again to continue the sweep")
            else:
                _finalize(config, is_complete=error is None)
        finally:
            gc.unfreeze()
            _held.pop().release()


def _claim_run(folder: Path) -> None:
    """Makes the folder of a run, before Hydra writes its own files.

    Raises:
        HeadstartError: it already holds a run, or what headstart did not write.
    """
    check(folder, RUN, "hydra.run.dir")
    if RunFolder(folder).record.exists():
        raise HeadstartError(f"{folder} already holds a run: choose another folder")
    mark(folder, RUN)


@contextmanager
def _exit_on_any_error() -> Iterator[None]:
    """Ends the program at an exception in a callback, of which Hydra would only warn."""
    try:
        with exit_on_error():
            yield
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def _begin(config: DictConfig) -> FileLock:
    """Checks a sweep, claims its folder, and prepares the study of Optuna, if it chooses the trials.

    Returns:
        The lock of the folder, to be held while the sweep runs.

    Raises:
        HeadstartError: the sweep cannot be run, or not in this folder.
    """
    check_sweep(config)
    sweep = SweepFolder(Path(config.hydra.sweep.dir))
    OUTPUT.set(sweep.path)
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


def _finalize(config: DictConfig, *, is_complete: bool) -> None:
    with _exit_on_any_error():
        # Imported here because torch takes seconds.
        from headstart.sweeping.finalize import finalize, scales_of

        scales = scales_of(config.hydra.sweeper.get("params") or {}, as_written(config.hydra.overrides.task))
        sweep = SweepFolder(Path(config.hydra.sweep.dir))
        objective, ensemble = config.sweep.objective, config.sweep.ensemble
        succeeded = finalize(sweep, objective, scales, is_complete=is_complete, ensemble=ensemble)
    if is_complete and not succeeded:
        sys.exit(1)


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
