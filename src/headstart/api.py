"""headstart in Python: `train`, `audit`, `compare` and `load`, which call what the command line calls."""

import csv
import logging
import os
import random
import signal
import sys
import threading
import warnings
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

import hydra._internal.core_plugins.basic_launcher
import hydra._internal.hydra
import hydra.core.utils
import numpy as np
import torch
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

from headstart.auditing.findings import Finding
from headstart.cli.arguments import Program
from headstart.cli.main import BLAS_THREADS, TRAIN, run_program
from headstart.config import options_of
from headstart.config.checks import nearest
from headstart.config.overrides import written_as
from headstart.config.train import check_train, read_record
from headstart.errors import HeadstartError
from headstart.features.encoder import torch_settings_restored, usual_numerics
from headstart.files import ForkSafeLock, read_json
from headstart.predict.predictor import Predictor, load_predictor
from headstart.processes import use_one_thread_after_fork
from headstart.program import OUTPUT, Failed
from headstart.run_folder import EnsembleFolder, RunFolder, SweepFolder, checkpoint_file, run_folder_of

if TYPE_CHECKING:
    # It needs the extra `review`.
    from headstart.reviewing.demo import DemoServer
    from headstart.reviewing.local import ReviewServer

# Running a program of the command line inside another one, which is left as it was.

# The exit status of a program that Ctrl-C ended.
INTERRUPTED = 130
# Settings of the process, which a run changes.
_lock = ForkSafeLock()


def run_in_process(program: Program, arguments: list[str]) -> Path:
    """Runs a program with these arguments, and returns the folder of its run or sweep.

    Raises:
        HeadstartError: what it would have ended with.
        KeyboardInterrupt: Ctrl-C.
    """
    with _lock, _restore_process_state():
        use_one_thread_after_fork()
        _import_matplotlib()
        sys.argv = [program.script, *arguments]
        # With it, errors in the command line would stay those of Hydra; here they are the causes of ours.
        os.environ.pop("HYDRA_FULL_ERROR", None)
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
        return OUTPUT.get().absolute()


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
def _one_core_for_numpy() -> Iterator[None]:
    """Lets NumPy compute on one core, as the commands do (see share_cores), unless the user chose how many."""
    with nullcontext() if BLAS_THREADS in os.environ else threadpool_limits(1, "blas"):
        yield


@contextmanager
def _restore_process_state() -> Iterator[None]:
    numerics = (_one_core_for_numpy, torch_settings_restored, usual_numerics)
    others = (_arguments_and_environment, _hydra, _logging, _randomness, _signals, warnings.catch_warnings)
    with ExitStack() as stack:
        for part in (*numerics, *others):
            stack.enter_context(part())
        yield


@contextmanager
def _arguments_and_environment() -> Iterator[None]:
    argv, environment = sys.argv, dict(os.environ)
    # For libraries that are imported within the block.
    os.environ.setdefault(BLAS_THREADS, "1")
    try:
        yield
    finally:
        sys.argv = argv
        for name in os.environ.keys() - environment.keys():
            del os.environ[name]
        os.environ.update(environment)


# Private, for Hydra can be told not to configure logging only on the command line, which a run records.
CONFIGURING: tuple[Any, ...] = (
    hydra.core.utils,
    hydra._internal.hydra,
    hydra._internal.core_plugins.basic_launcher,
)


@contextmanager
def _hydra() -> Iterator[None]:
    """Restores Hydra's state, and keeps it from configuring logging, which is the surrounding program's."""
    hydras, configuration = GlobalHydra.instance(), HydraConfig.instance()
    initialized, current = hydras.hydra, configuration.cfg
    before = [place.configure_log for place in CONFIGURING]
    for place in CONFIGURING:
        place.configure_log = lambda *arguments, **keywords: None
    hydras.clear()
    try:
        yield
    finally:
        for place, function in zip(CONFIGURING, before, strict=True):
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


# headstart from Python: the same runs, with the same files, as on the command line. Every setting can be given as on
# the command line ("model.lr=1e-3"); the keywords are the most common ones. Runs of one process wait for each other.

KEYWORDS = {
    "arch": "model.arch",
    "head": "model.head",
    "weights": "model.weights",
    "lr": "model.lr",
    "epochs": "trainer.max_epochs",
    "batch_size": "data.batch_size",
    "finetune": "finetune",
    "seed": "seed",
    "checkpoint": "ckpt_path",
    "folder": "hydra.run.dir",
}
# Paths, and the choice of a group, need no quotes.
AS_IS = ("checkpoint", "folder", "weights", "finetune")
Row = dict[str, float]


@dataclass(frozen=True)
class Run:
    """A finished run in `folder`."""

    folder: Path

    @property
    def metrics(self) -> dict[str, float]:
        """The contents of metrics.json, such as {"valid/acc": 0.97, "test/acc": 0.96}."""
        return dict(read_json(RunFolder(self.folder).metrics))

    @property
    def history(self) -> list[Row]:
        """The history, one row per epoch, as in history.csv; epochs count from 1."""
        with RunFolder(self.folder).history.open(encoding="utf-8", newline="") as file:
            return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]

    @property
    def checkpoint(self) -> Path:
        """The checkpoint of the best epoch."""
        return RunFolder(self.folder).best

    @property
    def report(self) -> Path:
        """The page of its report."""
        return RunFolder(self.folder).page

    def predictor(self, **options: Any) -> Predictor:
        """Predicts with its best checkpoint; `options` are those of `headstart.load`."""
        return load_predictor(self.checkpoint, **options)


@dataclass(frozen=True)
class Ensemble:
    """The best trials of a sweep as one predictor, in `folder`, which can be moved."""

    folder: Path

    @property
    def metrics(self) -> dict[str, float]:
        """The metrics of the mean of the members' probabilities, such as {"valid/acc": 0.97, "test/acc": 0.96}."""
        return dict(read_json(EnsembleFolder(self.folder).metrics))

    def predictor(self, **options: Any) -> Predictor:
        """Predicts with it; `options` are those of `headstart.load`."""
        return load_predictor(self.folder, **options)


@dataclass(frozen=True)
class Leaderboard:
    """The trials of a sweep in `folder`."""

    folder: Path

    @property
    def rows(self) -> list[dict[str, str]]:
        """The rows of leaderboard.csv: the best trial first, failed ones, the means over folds, the ensemble last."""
        with SweepFolder(self.folder).leaderboard.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    @property
    def summary(self) -> dict[str, Any]:
        """The contents of leaderboard.json: the number of trials, the test of the best, and what chance explains."""
        return dict(read_json(SweepFolder(self.folder).summary))

    @property
    def best(self) -> Run:
        """The best trial.

        Raises:
            HeadstartError: all trials failed.
        """
        first = self.rows[0]
        if not first["rank"]:
            raise HeadstartError(f"no trial of {self.folder} succeeded: {first['reason']}")
        return Run(SweepFolder(self.folder).trial(first["folder"]).path)

    @property
    def ensemble(self) -> Ensemble:
        """The ensemble of the best trials.

        Raises:
            HeadstartError: there is none.
        """
        if self.summary["ensemble"] is None:
            raise HeadstartError(f"{self.folder} has no ensemble: sweep.ensemble=5 makes one of the best five trials")
        return Ensemble(SweepFolder(self.folder).ensemble)


def train(*overrides: str, data: str | PathLike[str] | None = None, **keywords: Any) -> Run:
    """Trains a classifier, as `python train.py` does.

    Args:
        overrides: settings as on the command line.
        data: a folder of images, or one of the datasets in conf/data.
        keywords: arch, head, weights, lr, epochs, batch_size, finetune, seed, checkpoint (to resume from) and folder
            (for the run).

    Raises:
        HeadstartError: what the command line would have ended with.
    """
    return Run(run_in_process(TRAIN, [*overrides, *_overrides(data, keywords)]))


def sweep(*overrides: str, data: str | PathLike[str] | None = None, **keywords: Any) -> Leaderboard:
    """Runs every combination of the settings that have several values, as `python train.py -m` does.

    Args:
        overrides, data: as in `train`; "model.lr=1e-2,1e-3" has two values.
        keywords: as in `train`; a list has several values. `folder` is that of the sweep.

    Raises:
        HeadstartError: what the command line would have ended with. A trial that fails is a row of the leaderboard.
    """
    arguments = ["-m", *overrides, *_overrides(data, keywords, folder_key="hydra.sweep.dir")]
    return Leaderboard(run_in_process(TRAIN, arguments))


def review(run: str | PathLike[str] | Run) -> "ReviewServer":
    """Serves the page on which labels of a run are corrected, as `headstart review RUN` does, in a thread.

    Returns:
        The server; its `address` is that of the page, and `close()` ends it.

    Raises:
        HeadstartError: what the command line would have ended with.

    Example:
        >>> headstart.review(run).address
    """
    from headstart.pipeline import review_server

    folder = run.folder if isinstance(run, Run) else Path(run)
    path = checkpoint_file(folder, "best")
    settings = check_train(read_record(run_folder_of(path)))
    return review_server(replace(settings, ckpt_path=str(path))).serve_in_thread()


def demo(run: str | PathLike[str] | Run, **options: Any) -> "DemoServer":
    """Serves a page on which images are predicted, as `headstart demo RUN` does, in a thread.

    Args:
        run: a run, a checkpoint, or the folder of a run, a sweep or an ensemble.
        options: those of `headstart.load`.

    Returns:
        The server; its `address` is that of the page, and `close()` ends it.

    Raises:
        HeadstartError: what the command line would have ended with.

    Example:
        >>> headstart.demo(run).address
    """
    from headstart.pipeline import demo_server

    return demo_server(run.folder if isinstance(run, Run) else Path(run), **options).serve_in_thread()


def audit(data: str | PathLike[str], *overrides: str, **keywords: Any) -> list[Finding]:
    """Returns what is wrong with a folder of images, as `python train.py task=audit` says.

    Raises:
        HeadstartError: what the command line would have ended with; not for findings.
    """
    folder = run_in_process(TRAIN, ["task=audit", *overrides, *_overrides(data, keywords)])
    findings = read_json(RunFolder(folder).audit)["findings"]
    return [Finding(finding["kind"], tuple(finding["paths"]), finding["says"]) for finding in findings]


def _overrides(
    data: str | PathLike[str] | None, keywords: dict[str, Any], *, folder_key: str = KEYWORDS["folder"]
) -> Iterator[str]:
    """Yields the keywords as overrides."""
    if data is not None:
        is_dataset = fspath(data) in options_of("data") and not Path(data).expanduser().is_dir()
        yield from [f"data={fspath(data)}"] if is_dataset else ["data=folder", f"data.root={fspath(data)}"]
    for name, value in keywords.items():
        if name not in KEYWORDS:
            hint = nearest(name, ["data", *KEYWORDS])
            raise HeadstartError(f"{name} is not a keyword{hint or '.'} Give other settings as strings: 'KEY=VALUE'")
        key = folder_key if name == "folder" else KEYWORDS[name]
        values = value if isinstance(value, list | tuple) else [value]
        written = [fspath(v) if name in AS_IS and v is not None else written_as(v) for v in values]
        yield f"{key}={','.join(written)}"
