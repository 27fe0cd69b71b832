"""What happens before the first trial of a sweep and after the last: Hydra calls it."""

import json
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from headstart import cli
from headstart.errors import HeadstartError
from headstart.files import lock_for, write_json
from headstart.names import as_written, sweep_name, swept_keys
from headstart.sweep.rules import check_sweep

# Which sweep a folder belongs to.
RECORD = "sweep.json"
# Held while this process is at a sweep. Not by the callback, which is sent to other processes.
_held: list[FileLock] = []


class SweepEvents(Callback):
    """Refuses what cannot be swept, keeps other processes out of the sweep, and tells which trial was best."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        with _gives_back(), _ends_the_program(), cli.one_sentence():
            check_sweep(config)
            folder = Path(config.hydra.sweep.dir)
            overrides = as_written(config.hydra.overrides.task) + as_written(config.hydra.overrides.hydra)
            _check_command_line(config, overrides)
            _hold(folder)
            _claim(folder, sweep_name(overrides))
            if config.hydra.runtime.choices.get("hydra/sweeper") == "optuna":
                # Imported here because Optuna takes a second, and need not be there.
                from headstart.sweep.optuna import prepare

                prepare(config, folder)
            print(f"sweep folder: {folder}", flush=True)

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        if not _held:
            return
        # Hydra calls this whatever has happened.
        error = sys.exc_info()[1]
        try:
            if isinstance(error, KeyboardInterrupt | SystemExit):
                print("stopped; the same command goes on with the sweep", file=sys.stderr)
            else:
                _finish(Path(config.hydra.sweep.dir), config.sweep.objective, is_whole=error is None)
        finally:
            _held.pop().release()


def _finish(folder: Path, objective: str, *, is_whole: bool) -> None:
    with _ends_the_program(), cli.one_sentence():
        # Imported here because torch takes seconds.
        from headstart.sweep.finish import finish

        is_well = finish(folder, objective, is_whole=is_whole)
    if is_whole and not is_well:
        sys.exit(1)


def _check_command_line(config: DictConfig, overrides: list[str]) -> None:
    if swept_keys(overrides)[0] != list(config.sweep.over):
        raise HeadstartError("which keys have several values cannot be told: ask for a sweep with -m")
    if any(override.lstrip("+").startswith("hydra.sweep.subdir") for override in overrides):
        raise HeadstartError("hydra.sweep.subdir cannot be given: a trial's folder is named by what it overrides")


def _hold(folder: Path) -> None:
    lock = lock_for(folder / "sweep")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise HeadstartError(f"another process is at this sweep: {folder}") from None
    _held.append(lock)


def _claim(folder: Path, name: str) -> None:
    """Makes the folder that of the sweep `name`. Two of them in one would take each other's trials for their own."""
    try:
        there = json.loads((folder / RECORD).read_text(encoding="utf-8"))["name"]
    except FileNotFoundError:
        write_json(folder / RECORD, {"name": name})
        return
    if there != name:
        raise HeadstartError(f"{folder} holds another sweep: choose another hydra.sweep.dir")


@contextmanager
def _ends_the_program() -> Iterator[None]:
    """An error that nobody has foreseen; Hydra would only warn of it, and go on."""
    try:
        yield
    except Exception:
        traceback.print_exc()
        sys.exit(1)


@contextmanager
def _gives_back() -> Iterator[None]:
    """Lets go of the sweep where it does not begin."""
    try:
        yield
    except SystemExit:
        while _held:
            _held.pop().release()
        raise
