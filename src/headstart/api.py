"""headstart from Python: the same runs, with the same files, as on the command line.

Every setting can be given as on the command line ("model.lr=1e-3"); the keywords are the most common ones. Runs of one
process wait for each other.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from headstart.auditing.findings import Finding
from headstart.cli.overrides import written_as
from headstart.cli.script import options_of
from headstart.cli.train import TRAIN
from headstart.config.suggest import nearest
from headstart.errors import HeadstartError
from headstart.files import read_json
from headstart.in_process import run_in_process
from headstart.predict.predictor import Predictor, load
from headstart.run_folder import EnsembleFolder, RunFolder, SweepFolder

KEYWORDS = {
    "arch": "model.arch",
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
        metrics: dict[str, float] = read_json(RunFolder(self.folder).metrics)
        return metrics

    @property
    def history(self) -> list[Row]:
        """One row per epoch, as in history.csv; epochs count from 1."""
        with RunFolder(self.folder).history.open(encoding="utf-8", newline="") as file:
            return [{key: float(value) for key, value in row.items() if value} for row in csv.DictReader(file)]

    @property
    def checkpoint(self) -> Path:
        """That of the best epoch."""
        return RunFolder(self.folder).best

    @property
    def report(self) -> Path:
        """The page of its report."""
        return RunFolder(self.folder).page

    def predictor(self, **options: Any) -> Predictor:
        """Predicts with its best checkpoint; `options` are those of `headstart.load`."""
        return load(self.checkpoint, **options)


@dataclass(frozen=True)
class Ensemble:
    """The best trials of a sweep as one predictor, in `folder`, which can be moved."""

    folder: Path

    @property
    def metrics(self) -> dict[str, float]:
        """Those of the mean of the members' probabilities, such as {"valid/acc": 0.97, "test/acc": 0.96}."""
        metrics: dict[str, float] = read_json(EnsembleFolder(self.folder).metrics)
        return metrics

    def predictor(self, **options: Any) -> Predictor:
        """Predicts with it; `options` are those of `headstart.load`."""
        return load(self.folder, **options)


@dataclass(frozen=True)
class Leaderboard:
    """The trials of a sweep in `folder`."""

    folder: Path

    @property
    def rows(self) -> list[dict[str, str]]:
        """leaderboard.csv: the best trial first, then failed ones, the means over folds, and the ensemble last."""
        with SweepFolder(self.folder).leaderboard.open(encoding="utf-8", newline="") as file:
            return list(csv.DictReader(file))

    @property
    def summary(self) -> dict[str, Any]:
        """leaderboard.json: how many trials there are, the test of the best one, and what chance explains."""
        summary: dict[str, Any] = read_json(SweepFolder(self.folder).summary)
        return summary

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
        keywords: arch, weights, lr, epochs, batch_size, finetune, seed, checkpoint (to resume from) and folder (for
            the run).

    Raises:
        HeadstartError: what the command line would have ended with.
    """
    return Run(run_in_process(TRAIN, [*overrides, *_overrides(data, keywords)]).folder)


def sweep(*overrides: str, data: str | PathLike[str] | None = None, **keywords: Any) -> Leaderboard:
    """Runs every combination of the settings that have several values, as `python train.py -m` does.

    Args:
        overrides, data: as in `train`; "model.lr=1e-2,1e-3" has two values.
        keywords: as in `train`; a list has several values. `folder` is that of the sweep.

    Raises:
        HeadstartError: what the command line would have ended with. A trial that fails is a row of the leaderboard.
    """
    arguments = ["-m", *overrides, *_overrides(data, keywords, folder_key="hydra.sweep.dir")]
    return Leaderboard(run_in_process(TRAIN, arguments).folder)


def audit(data: str | PathLike[str], *overrides: str, **keywords: Any) -> list[Finding]:
    """What is wrong with a folder of images, as `python train.py task=audit` says.

    Raises:
        HeadstartError: what the command line would have ended with; not for findings.
    """
    done = run_in_process(TRAIN, ["task=audit", *overrides, *_overrides(data, keywords)])
    findings = read_json(RunFolder(done.folder).audit)["findings"]
    return [Finding(found["kind"], tuple(found["paths"]), found["says"]) for found in findings]


def _overrides(
    data: str | PathLike[str] | None, keywords: dict[str, Any], *, folder_key: str = KEYWORDS["folder"]
) -> Iterator[str]:
    """The keywords as overrides."""
    if data is not None:
        yield from _data(fspath(data))
    for name, value in keywords.items():
        if name not in KEYWORDS:
            hint = nearest(name, ["data", *KEYWORDS])
            raise HeadstartError(f"{name} is not a keyword{hint or '.'} Give other settings as strings: 'KEY=VALUE'")
        key = folder_key if name == "folder" else KEYWORDS[name]
        values = value if isinstance(value, list | tuple) else [value]
        written = [fspath(v) if name in AS_IS and v is not None else written_as(v) for v in values]
        yield f"{key}={','.join(written)}"


def _data(data: str) -> list[str]:
    datasets = options_of("data")
    if Path(data).expanduser().is_dir() or data not in datasets:
        return ["data=folder", f"data.root={data}"]
    return [f"data={data}"]
