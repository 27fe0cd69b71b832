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
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from headstart.config.data import FOLD
from headstart.config.overrides import as_written, sweep_name, swept_keys
from headstart.config.train import INTO_RUN, check_sweep
from headstart.errors import HeadstartError
from headstart.files import RUN, SWEEP, check, claim, lock_for, mark, read_json, write_json
from headstart.log import is_first_process, log, shown
from headstart.program import OUTPUT, Failed, exit_on_error
from headstart.run_folder import RunFolder, SweepFolder

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


def _begin(config: DictConfig) -> None:
    """Checks a sweep, locks and claims its folder, and prepares the study of Optuna, if it chooses the trials."""
    check_sweep(config)
    folder = Path(config.hydra.sweep.dir)
    OUTPUT.set(folder)
    overrides = as_written(config.hydra.overrides.task) + as_written(config.hydra.overrides.hydra)
    if swept_keys(overrides)[0] != list(config.sweep.over):
        raise HeadstartError("the keys with several values could not be determined: start sweeps with -m")
    if any(override.lstrip("+").startswith("hydra.sweep.subdir") for override in overrides):
        raise HeadstartError("hydra.sweep.subdir cannot be set: a trial's folder is named after its overrides")
    lock = lock_for(folder / "sweep")
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
