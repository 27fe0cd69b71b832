"""Every file name in the folder of a run and of a sweep."""

from dataclasses import dataclass
from fnmatch import fnmatch
from os.path import isdir, isfile, lexists
from pathlib import Path
from typing import Literal

from headstart.errors import HeadstartError, listed
from headstart.files import MARKER
from headstart.storage import local
from headstart.text import is_url

# Where runs and sweeps are, unless the user chooses another folder.
LOGS = Path("logs")
# What ckpt_path calls the newest of them.
NEWEST = "last"
# Of checkpoints, and of the record of an ensemble: what ends so is no run's name.
SUFFIXES = (".ckpt", ".json", ".pt", ".pth")


class _File:
    """The path of a file in a folder; `early` if a run may write it before its first epoch ends."""

    def __init__(self, *parts: str, early: bool = False) -> None:
        self.parts, self.early = parts, early

    def __get__(self, folder: "RunFolder | SweepFolder | EnsembleFolder", owner: type) -> Path:
        return folder.path.joinpath(*self.parts)


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run, or of a trial of a sweep."""

    path: Path

    marker = _File(MARKER)
    record = _File("run.json", early=True)  # what the run is made of; every run's folder has it
    config = _File("config.yaml", early=True)
    split = _File("split.csv", early=True)  # path, class and split of each image
    best = _File("checkpoints", "best.ckpt", early=True)
    last = _File("checkpoints", "last.ckpt", early=True)
    history = _File("history.csv")
    metrics = _File("metrics.json")
    valid_predictions = _File("valid_predictions.csv")
    test_predictions = _File("test_predictions.csv")
    audit = _File("audit.json", early=True)
    report = _File("report")
    page = _File("report", "index.html")
    curves = _File("report", "curves.png")
    trial = _File("trial.json")  # how a trial ended
    output = _File("output.txt")  # the messages of a trial
    traceback = _File("traceback.txt")
    compared = _File("compare.csv")  # the backbones that were compared
    bundle = _File("model.ckpt")  # the best checkpoint with the backbone's weights
    label_next = _File("label_next")  # the images to label next
    test = _File("test")  # the run that tests the best trial of a sweep

    def exported(self, file_format: str, precision: str, takes: str) -> Path:
        """Returns the file that task=export writes for values of export.format, export.precision and export.input."""
        kind = [part for part in (precision, takes) if part not in ("float32", "model")]
        return self.path / ".".join(["model", *kind, file_format])


@dataclass(frozen=True)
class SweepFolder:
    """The folder of a sweep, which holds one run folder per trial."""

    path: Path

    marker = _File(MARKER)
    record = _File("sweep.json")  # which sweep the folder belongs to
    leaderboard = _File("leaderboard.csv")
    summary = _File("leaderboard.json")  # how many trials there are, and the test of the best one
    out_of_fold = _File(
        "out_of_fold.csv"
    )  # with data.fold: each image, predicted by the trial that was not trained on it
    plot = _File("sweep.png")
    best = _File("best")  # links to the files of the best trial
    ensemble = _File("ensemble")  # the best trials as one predictor

    def trial(self, name: str) -> RunFolder:
        """Returns the folder of the trial `name`."""
        return RunFolder(self.path / name)


@dataclass(frozen=True)
class EnsembleFolder:
    """The folder of an ensemble. Nothing in it refers to anything outside, so it can be moved."""

    path: Path

    marker = _File(MARKER)
    record = _File("ensemble.json")  # its members; written last
    metrics = _File("metrics.json")
    valid_predictions = _File("valid_predictions.csv")
    test_predictions = _File("test_predictions.csv")
    checkpoints = _File("checkpoints")  # the members'


def checkpoint_in(folder: Path, name: Literal["best", "last"]) -> Path | None:
    """Returns the checkpoint `name` in the folder of a run, of its checkpoints, or of a sweep (its best trial's).

    The best one in the folder of an ensemble is its record.
    """
    runs = [RunFolder(folder), RunFolder(SweepFolder(folder).best)]
    if folder.name == RunFolder(folder).best.parent.name:
        runs.append(RunFolder(folder.parent))
    paths: list[Path] = [getattr(run, name) for run in runs]
    if name == "best":
        paths.append(EnsembleFolder(folder).record)
    # os.path.isfile, because Path.is_file raises an error for names that are too long.
    return next((path for path in paths if isfile(path)), None)


def checkpoint_file(path: Path, name: Literal["best", "last"]) -> Path:
    """Returns `path`, or the checkpoint `name` in it if it is a folder, or in the run of that name in logs/.

    Raises:
        HeadstartError: the folder holds none; or there is no such run, or more than one.
    """
    if is_url(path):
        path = local(path)
    if not isdir(path):
        return path if lexists(path) or path.suffix in SUFFIXES else _checkpoint_named(str(path), name)
    if checkpoint := checkpoint_in(path, name):
        return checkpoint
    runs = sorted([*path.glob(f"*/*/{name}.ckpt"), *path.glob(f"*/*/*/{name}.ckpt")], key=lambda p: p.stat().st_mtime)
    newest = f"; the newest run in it is {run_folder_of(runs[-1]).path}" if runs else ""
    raise HeadstartError(f"{path} is not the folder of a run, which has checkpoints/{name}.ckpt{newest}")


def runs_named(text: str, name: Literal["best", "last"] = "best") -> list[Path]:
    """Returns the folders of runs and sweeps in logs/ with a checkpoint `name` that `text` names, the newest last.

    It is "last", for the newest one; or a folder's name, its last part ("1f2e3d"), its path in logs/, or the name of
    the folder that it is in.
    """
    runs = _runs(name)
    if text == NEWEST:
        return runs[-1:]
    text = text.rstrip("/")
    return [
        run
        for run in runs
        if text
        in (run.name, run.name.rpartition("-")[2], str(run.relative_to(LOGS)), run.parent.relative_to(LOGS).name)
    ]


def newest_run() -> str:
    """Returns the end of a sentence, "ckpt_path=last, the newest run (logs/…)", or "ckpt_path=RUN" without one."""
    runs = _runs("best")
    return f"ckpt_path={NEWEST}, the newest run ({runs[-1]})" if runs else "ckpt_path=RUN, the folder of a run"


def _checkpoint_named(text: str, name: Literal["best", "last"]) -> Path:
    runs = runs_named(text, name)
    if len(runs) > 1:
        raise HeadstartError(f"{text} is the name of {len(runs)} runs: choose one of {listed(runs[::-1])}")
    if runs and (checkpoint := checkpoint_in(runs[0], name)):
        return checkpoint
    if text == NEWEST:
        raise HeadstartError(
            f"there is no run in {LOGS}/ whose checkpoints/{name}.ckpt could be used as ckpt_path={text}"
        )
    others = f" ({newest_run()})" if _runs("best") else ""
    raise HeadstartError(f"ckpt_path={text} does not exist, and no run in {LOGS}/ has that name{others}")


def _runs(name: Literal["best", "last"]) -> list[Path]:
    """Returns the folders of runs in logs/ with a checkpoint `name`, and of sweeps, not of trials; the newest last."""
    changed = {}
    for folder in LOGS.glob("*"):
        # Other folders there hold the runs with the same data and architecture.
        is_run = SweepFolder(folder).record.is_file() or checkpoint_in(folder, name) is not None
        for run in [folder] if is_run else folder.glob("*"):
            if checkpoint := checkpoint_in(run, name):
                changed[run] = checkpoint.stat().st_mtime_ns
    return sorted(changed, key=lambda run: changed[run])


def run_folder_of(checkpoint: Path) -> RunFolder:
    """Returns the folder of the run that wrote `checkpoint`, which is in it, as a bundle is, or in checkpoints/."""
    folder = RunFolder(checkpoint.absolute().parent)
    return folder if isfile(folder.record) else RunFolder(folder.path.parent)


def is_ensemble(checkpoint: Path) -> bool:
    """Whether what `checkpoint_file` returned is the record of an ensemble."""
    return checkpoint.name == EnsembleFolder(checkpoint.parent).record.name


# What a run writes, by its name in the folder: the files above, Hydra's, TensorBoard's, and those of other loggers.
_FILES = [file for file in vars(RunFolder).values() if isinstance(file, _File)]
EARLY_FILES = {MARKER, ".hydra", "hparams.yaml", "events.*", *(file.parts[0] for file in _FILES if file.early)}
FILES = {*EARLY_FILES, *(file.parts[0] for file in _FILES), "*-profile*", "compare.*", "model.*"}


def is_early_file(name: str) -> bool:
    """Whether a run may have written the file `name` before its first epoch ended."""
    return any(fnmatch(name, pattern) for pattern in EARLY_FILES)


def is_of_a_run(name: str) -> bool:
    """Whether a run or a trial may have written the file `name`."""
    return name != MARKER and any(fnmatch(name, pattern) for pattern in FILES)


def is_left_over(name: str) -> bool:
    """Whether an earlier attempt at a trial may have left the file `name`; Hydra rewrites its own."""
    return name != ".hydra" and is_of_a_run(name)
