"""What is recorded of a trial, and its place among folds and swept values."""

import csv
import functools
import hashlib
import json
import math
import re
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig, OmegaConf

from headstart.cli.overrides import key_of
from headstart.files import read_json, sha256_of, write_csv, write_json
from headstart.metrics import worst_value
from headstart.run_folder import RunFolder, SweepFolder

# On which scale each key of a sweep was sampled, as far as its search space says.


Scale = Literal["log", "linear", "choice"]


def scales_of(params: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Scale]:
    """Of the sweeper's search space `params`, and of the command line's `overrides`, which take precedence."""
    written = {key.lstrip("+~"): str(value) for key, value in params.items()}
    written |= {key_of(override): override.partition("=")[2] for override in overrides}
    scales = {key: _scale_of(text) for key, text in written.items()}
    return {key: scale for key, scale in scales.items() if scale is not None}


def _scale_of(text: str) -> Scale | None:
    """Of tag(log, interval(1e-4, 1e-2)), interval(0, 0.7) or choice(64, 128); None: of values that are listed."""
    if re.match(r"\s*tag\(([^()]*,)?\s*log\s*,", text):
        return "log"
    kind = re.match(r"\s*(?:tag\([^()]*,\s*)?(choice|interval|range)\(", text)
    if kind is None:
        return None
    return "choice" if kind.group(1) == "choice" else "linear"


# trial.json: how a trial ended, and what identifies it.


# Settings that do not change a trial's metrics; its views are averaged if it is tested.
NOT_OF_A_TRIAL = ("run_dir", "sweep", "ckpt_path", "logger", "evaluation")

# Records without it are of version 0.1, whose epochs counted from 0.
FORMAT = ("format", 2)


@dataclass(frozen=True)
class Trial:
    """A completed or failed trial. `values` are those of the swept keys; `reason` says why it failed, None: it did not.

    `metrics` are those of metrics.json: valid/* of the best epoch, best_epoch (counted from 1), epochs.
    """

    folder: str
    values: dict[str, str]
    reason: str | None
    metrics: dict[str, float]
    seconds: float
    config: str
    data: str

    def objective(self, name: str) -> float:
        """The metric `name`; the worst possible value if the trial failed."""
        value = self.metrics.get(name, math.nan)
        return worst_value(name) if self.reason is not None or math.isnan(value) else value


def read_trial(run: RunFolder) -> Trial | None:
    """The trial in its folder; None: it has not ended, or was run by version 0.1 and has to be run again."""
    try:
        values: dict[str, Any] = read_json(run.trial)
        del values[FORMAT[0]]
        return Trial(folder=run.path.name, **values)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def read_trials(sweep: SweepFolder) -> list[Trial]:
    """Those that have ended in a sweep, by name."""
    runs = [RunFolder(path) for path in sorted(sweep.path.iterdir()) if path != sweep.best]
    found = [read_trial(run) for run in runs if not run.path.is_symlink()]
    return [trial for trial in found if trial is not None]


def write_trial(run: RunFolder, trial: Trial) -> None:
    """Writes `trial` into its folder."""
    values = {key: value for key, value in asdict(trial).items() if key != "folder"}
    write_json(run.trial, dict([FORMAT]) | values)


def config_sha256(config: DictConfig) -> str:
    """Of all settings that a trial's metrics depend on, and of the weights file that they name."""
    # The run's folder occurs in other settings too.
    values = OmegaConf.to_container(OmegaConf.merge(config, {"run_dir": ""}), resolve=True)
    assert isinstance(values, dict)
    kept = {key: value for key, value in values.items() if key not in NOT_OF_A_TRIAL}
    weights = Path(str(config.model.weights)).expanduser()
    if weights.is_file():
        status = weights.stat()
        kept["weights"] = _file_sha256(weights.resolve(), status.st_size, status.st_mtime_ns)
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


@functools.cache
def _file_sha256(path: Path, size: int, changed: int) -> str:
    """Read once per process, as long as the file does not change."""
    return sha256_of(path)


# Cross-validation by a sweep over `data.fold`: what settings achieve on average, and the out-of-fold predictions.


FOLD = "data.fold"
Setting = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class OverFolds:
    """The mean and the standard deviation of each metric over the completed folds of one setting."""

    values: dict[str, str]
    folds: int
    means: dict[str, float]
    deviations: dict[str, float]


def setting_of(trial: Trial) -> Setting:
    """The values of all keys but the fold."""
    return tuple((key, value) for key, value in trial.values.items() if key != FOLD)


def mean_objectives(trials: Iterable[Trial], objective: str) -> dict[Setting, float]:
    """The mean of the objective over the folds of each setting; the worst possible value if one of them failed."""
    found: dict[Setting, list[float]] = {}
    for trial in trials:
        if FOLD in trial.values:
            found.setdefault(setting_of(trial), []).append(trial.objective(objective))
    return {setting: statistics.fmean(values) for setting, values in found.items()}


def over_folds(trials: Sequence[Trial], metrics: Iterable[str]) -> list[OverFolds]:
    """Each setting of which two or more folds are completed, in the order of `trials`."""
    by_setting: dict[Setting, list[Trial]] = {}
    for trial in trials:
        if FOLD in trial.values and trial.reason is None:
            by_setting.setdefault(setting_of(trial), []).append(trial)
    metrics = list(metrics)
    found = []
    for setting, of_setting in by_setting.items():
        values = {name: [t.metrics[name] for t in of_setting if name in t.metrics] for name in metrics}
        complete = {name: numbers for name, numbers in values.items() if len(numbers) == len(of_setting) > 1}
        if complete:
            means = {name: statistics.fmean(numbers) for name, numbers in complete.items()}
            deviations = {name: statistics.stdev(numbers) for name, numbers in complete.items()}
            found.append(OverFolds(dict(setting), len(of_setting), means, deviations))
    return found


def write_out_of_fold(sweep: SweepFolder, trials: Sequence[Trial]) -> bool:
    """Writes the predictions of each fold by the trial that was not trained on it. Returns whether there are any.

    One row per image and setting, with the swept values before the columns of valid_predictions.csv.
    """
    of_folds = [trial for trial in trials if FOLD in trial.values and trial.reason is None]
    if not of_folds:
        return False
    header: list[str] = []
    rows = []
    for trial in of_folds:
        path = sweep.trial(trial.folder).valid_predictions
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            header, *found = csv.reader(file)
        rows += [[*trial.values.values(), *row] for row in found]
    write_csv(sweep.out_of_fold, [*of_folds[0].values, *header], rows)
    return True
