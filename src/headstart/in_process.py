"""Running a program of the command line inside another one, which is left as it was."""

import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra._internal.hydra
import hydra.core.utils
import numpy as np
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig

from headstart.cli.errors import Failed
from headstart.cli.main import Program, run_program
from headstart.cli.output_folder import remembered_output
from headstart.data.workers import use_one_thread_after_fork
from headstart.errors import HeadstartError
from headstart.features.encoder import usual_numerics
from headstart.files import ForkSafeLock

# The exit status of a program that Ctrl-C ended.
INTERRUPTED = 130
# Settings of the process, which a run changes.
_lock = ForkSafeLock()


@dataclass(frozen=True)
class Done:
    """The folder of a run or of a sweep, and the exit status that the program would have had."""

    folder: Path
    status: int


def run_in_process(program: Program, arguments: list[str]) -> Done:
    """Runs a program with these arguments.

    Raises:
        HeadstartError: what it would have ended with.
        KeyboardInterrupt: Ctrl-C.
    """
    with _lock, _left_as_it_was():
        use_one_thread_after_fork()
        _import_matplotlib()
        sys.argv = [f"{program.name}.py", *arguments]
        # With it, errors in the command line would stay those of Hydra; here they are the causes of ours.
        os.environ.pop("HYDRA_FULL_ERROR", None)
        status = 0
        try:
            run_program(program)
        except Failed as failed:
            raise HeadstartError(failed.sentence) from failed.__context__
        except SystemExit as ended:
            if ended.code == INTERRUPTED:
                raise KeyboardInterrupt from None
            # Status 1 is that of a sweep with a failed trial; others are those of signals, which end this process too.
            if ended.code != 1:
                raise
            status = 1
        return Done(remembered_output().absolute(), status)


def _import_matplotlib() -> None:
    """Imports Matplotlib if it has not been, whatever MPLBACKEND is: with an invalid one its import fails.

    A valid one is the surrounding program's as if it had imported it; headstart's figures have their own canvas.
    """
    if "MPLBACKEND" not in os.environ or "matplotlib" in sys.modules:
        return
    backend = os.environ.pop("MPLBACKEND")
    try:
        import matplotlib

        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend or matplotlib.rcParams["backend"]
    finally:
        os.environ["MPLBACKEND"] = backend


@contextmanager
def _left_as_it_was() -> Iterator[None]:
    with ExitStack() as stack:
        for part in (
            _process,
            _hydra,
            _logging,
            _randomness,
            torch_settings_restored,
            usual_numerics,
            _signals,
            warnings.catch_warnings,
        ):
            stack.enter_context(part())
        yield


@contextmanager
def _process() -> Iterator[None]:
    argv, environment = sys.argv, dict(os.environ)
    try:
        yield
    finally:
        sys.argv = argv
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


@contextmanager
def _hydra() -> Iterator[None]:
    """What it is at; and it must not configure logging, which is the surrounding program's."""
    hydras, configuration = GlobalHydra.instance(), HydraConfig.instance()
    initialized, current = hydras.hydra, configuration.cfg
    places: list[Any] = [hydra.core.utils, hydra._internal.hydra]
    before = [place.configure_log for place in places]
    for place in places:
        place.configure_log = lambda *arguments, **keywords: None
    hydras.clear()
    try:
        yield
    finally:
        for place, function in zip(places, before, strict=True):
            place.configure_log = function
        hydras.hydra, configuration.cfg = initialized, current


@contextmanager
def _logging() -> Iterator[None]:
    loggers = [logging.getLogger(), *map(logging.getLogger, list(logging.root.manager.loggerDict))]
    before = [(of.level, of.propagate, of.disabled, list(of.handlers), list(of.filters)) for of in loggers]
    try:
        yield
    finally:
        for of, (level, propagate, disabled, handlers, filters) in zip(loggers, before, strict=True):
            of.setLevel(level)
            of.propagate, of.disabled, of.handlers, of.filters = propagate, disabled, handlers, filters


@contextmanager
def _randomness() -> Iterator[None]:
    states = random.getstate(), np.random.get_state()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            random.setstate(states[0])
            np.random.set_state(states[1])


@contextmanager
def torch_settings_restored() -> Iterator[None]:
    """Undoes what the block changes of PyTorch's settings, as Lightning does: trainer.deterministic, for example."""
    threads, grad = torch.get_num_threads(), torch.is_grad_enabled()
    precision, benchmark = torch.get_float32_matmul_precision(), torch.backends.cudnn.benchmark
    deterministic = torch.are_deterministic_algorithms_enabled(), torch.is_deterministic_algorithms_warn_only_enabled()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
        torch.set_grad_enabled(grad)
        torch.set_float32_matmul_precision(precision)
        torch.backends.cudnn.benchmark = benchmark
        torch.use_deterministic_algorithms(deterministic[0], warn_only=deterministic[1])


@contextmanager
def _signals() -> Iterator[None]:
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.getsignal(number) for number in signal.valid_signals()}
    try:
        yield
    finally:
        for number, handler in before.items():
            if handler is not None and signal.getsignal(number) != handler:
                signal.signal(number, handler)
