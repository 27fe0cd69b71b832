"""What happens before the first trial of a sweep and after the last: Hydra calls it."""

import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

from headstart import cli
from headstart.errors import HeadstartError
from headstart.files import lock_for
from headstart.sweep.rules import check_comparison, check_one_process

# Held while this process is at a sweep. Not by the callback, which is sent to other processes.
_held: list[FileLock] = []


class SweepEvents(Callback):
    """Refuses what cannot be swept, keeps a second process out of the same sweep, and tells which trial was best."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _ends_the_program(), cli.one_sentence():
            check_comparison(config.task, config.sweep.objective)
            check_one_process(OmegaConf.to_container(config.trainer))  # type: ignore[arg-type]
            folder = Path(config.hydra.sweep.dir)
            _hold(folder)
            if config.hydra.runtime.choices.get("hydra/sweeper") == "optuna":
                # Imported here because Optuna takes a second, and need not be there.
                from headstart.sweep.optuna import prepare

                prepare(config.hydra, folder)
            print(f"sweep folder: {folder}", flush=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if not _held:
            return
        _held.pop().release()
        # Hydra calls this whatever has happened.
        error = sys.exc_info()[1]
        if isinstance(error, KeyboardInterrupt | SystemExit):
            print("stopped; the same command goes on with the sweep", file=sys.stderr)
        elif error is None:
            with _ends_the_program(), cli.one_sentence():
                from headstart.sweep.finish import finish

                if finish(Path(config.hydra.sweep.dir), config.sweep.objective):
                    sys.exit(1)


@contextmanager
def _ends_the_program() -> Iterator[None]:
    """An error that nobody has foreseen; Hydra would only warn of it, and go on."""
    try:
        yield
    except Exception:
        traceback.print_exc()
        sys.exit(1)


def _hold(folder: Path) -> None:
    lock = lock_for(folder / "sweep")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise HeadstartError(f"another process is at this sweep: {folder}") from None
    _held.append(lock)
