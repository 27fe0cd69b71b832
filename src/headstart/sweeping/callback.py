"""Multirun: what is checked and claimed before a run or a sweep, and what happens after the last trial."""

import gc
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, ListConfig
from omegaconf.errors import OmegaConfBaseException

from headstart.cli.errors import INTO_RUN, claim_run_folder, exit_on_error, fail, remember_output
from headstart.cli.overrides import as_written, sweep_name, swept_keys
from headstart.config.model import ENSEMBLE, OBJECTIVES, is_ensemble_size
from headstart.errors import HeadstartError
from headstart.files import SWEEP, claim, exclusively, mark, read_json, write_json
from headstart.log import is_first_process, log, shown
from headstart.machine import place_in_job
from headstart.run_folder import SweepFolder
from headstart.sweeping.trial_record import FOLD

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
                claim_run_folder(folder)
        except HeadstartError as error:
            fail(str(error))
        except (OmegaConfBaseException, OSError):
            # Hydra is about to raise it too.
            return

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            with _exit_on_any_error():
                _begin(config)
        except SystemExit:
            # The sweep does not start.
            while _held:
                _held.pop().release()
            raise

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


@contextmanager
def _exit_on_any_error() -> Iterator[None]:
    """Ends the program at an exception in a callback, of which Hydra would only warn."""
    try:
        with exit_on_error():
            yield
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def _begin(config: DictConfig) -> None:
    """Checks a sweep, locks and claims its folder, and prepares the study of Optuna, if it chooses the trials."""
    check_sweep(config)
    folder = Path(config.hydra.sweep.dir)
    remember_output(folder)
    overrides = as_written(config.hydra.overrides.task) + as_written(config.hydra.overrides.hydra)
    if swept_keys(overrides)[0] != list(config.sweep.over):
        raise HeadstartError("the keys with several values could not be determined: start sweeps with -m")
    if any(override.lstrip("+").startswith("hydra.sweep.subdir") for override in overrides):
        raise HeadstartError("hydra.sweep.subdir cannot be set: a trial's folder is named after its overrides")
    lock = exclusively(folder / "sweep")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise HeadstartError(f"another process is running this sweep: {folder}") from None
    _held.append(lock)
    _claim(SweepFolder(folder), sweep_name(overrides))
    if config.hydra.runtime.choices.get("hydra/sweeper") == "optuna":
        # Imported here because Optuna takes a second, and need not be installed.
        from headstart.sweeping.optuna import prepare_study

        if FOLD in config.sweep.over:
            raise HeadstartError(f"{FOLD} cannot be chosen by Optuna: sweep over folds without sweep=optuna")
        prepare_study(config, SweepFolder(folder))
    log.info("sweep folder: %s", shown(folder))


def _claim(sweep: SweepFolder, name: str) -> None:
    """Makes the folder that of the sweep `name`. Two sweeps in one folder would take each other's trials for theirs."""
    try:
        existing = str(read_json(sweep.record)["name"])
    except (OSError, ValueError, TypeError, KeyError):
        existing = ""
    if existing == name:
        # Of an earlier version, it has no marker.
        mark(sweep.path, SWEEP)
        return
    if existing.startswith("sweep"):
        raise HeadstartError(f"{sweep.path} holds another sweep: choose another hydra.sweep.dir")
    claim(sweep.path, SWEEP, "hydra.sweep.dir")
    write_json(sweep.record, {"name": name})


def _finalize(config: DictConfig, *, is_complete: bool) -> None:
    with _exit_on_any_error():
        # Imported here because torch takes seconds.
        from headstart.sweeping.finalize import finalize, scales_of
        from headstart.sweeping.trial import forget_shared

        forget_shared()
        scales = scales_of(config.hydra.sweeper.get("params") or {}, as_written(config.hydra.overrides.task))
        sweep = SweepFolder(Path(config.hydra.sweep.dir))
        objective, ensemble = config.sweep.objective, config.sweep.ensemble
        succeeded = finalize(sweep, objective, scales, is_complete=is_complete, ensemble=ensemble)
    if is_complete and not succeeded:
        sys.exit(1)


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


def collect_garbage() -> None:
    """Frees what a trial, and Hydra, which composed it, has left in reference cycles.

    What is there after the first trial, such as a million objects of imported modules, is frozen until the end of the
    sweep: to search it would take longer than a few epochs.
    """
    gc.collect()
    if not gc.get_freeze_count():
        gc.freeze()
