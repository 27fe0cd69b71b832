"""What Hydra calls at the start of a run, and around the trials of a sweep."""

import gc
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock
from hydra.core.hydra_config import HydraConfig
from hydra.core.utils import JobReturn
from hydra.experimental.callback import Callback
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from headstart.config.overrides import as_written
from headstart.config.train import INTO_RUN
from headstart.errors import HeadstartError
from headstart.files import RUN, check, mark
from headstart.log import is_first_process, log
from headstart.program import Failed, exit_on_error
from headstart.run_folder import RunFolder, SweepFolder
from headstart.sweeping.start import begin

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
            _held.append(begin(config))

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
