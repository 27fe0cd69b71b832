"""What is recorded of a trial, and what trials of one setting achieve together, over folds and over seeds."""

import csv
import functools
import hashlib
import json
import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf

from headstart.config.data import FOLD
from headstart.files import read_json, sha256_of, write_csv, write_json
from headstart.metrics import worst_value
from headstart.run_folder import RunFolder, SweepFolder

# Settings that do not change a trial's metrics; its views are averaged if it is tested.
NOT_OF_A_TRIAL = ("run_dir", "sweep", "ckpt_path", "logger", "evaluation")
# Records without it are of version 0.1, whose epochs counted from 0.
FORMAT = {"format": 2}


@dataclass(frozen=True)
class Trial:
    """A completed or failed trial. `values` are those of the swept keys; `reason` says why it failed, None: it did not.

    `metrics` are those of metrics.json: valid/* of the best epoch, best_epoch (counted from 1), epochs. `config` is the
    hash of all settings that they depend on, `data` the fingerprint of the images.
    """

    folder: str
    values: dict[str, str]
    reason: str | None
    metrics: dict[str, float]
    seconds: float
    config: str
    data: str

    def objective(self, name: str) -> float:
        """Returns the metric `name`; the worst possible value if the trial failed."""
        value = self.metrics.get(name, math.nan)
        return worst_value(name) if self.reason is not None or math.isnan(value) else value


def completed(trials: Iterable[Trial]) -> list[Trial]:
    """Returns the trials that did not fail."""
    return [trial for trial in trials if trial.reason is None]


def read_trial(run: RunFolder) -> Trial | None:
    """Reads the trial in its folder; None: it has not ended, or was run by version 0.1 and has to be run again."""
    try:
        values: dict[str, Any] = read_json(run.trial)
        del values["format"]
        return Trial(folder=run.path.name, **values)
    except (OSError, ValueError, TypeError, KeyError):
        return None


def read_trials(sweep: SweepFolder) -> list[Trial]:
    """Reads the trials that have ended in a sweep, by name."""
    folders = [path for path in sorted(sweep.path.iterdir()) if path != sweep.best and not path.is_symlink()]
    return [trial for path in folders if (trial := read_trial(RunFolder(path))) is not None]


def write_trial(run: RunFolder, trial: Trial) -> None:
    """Writes `trial` into its folder."""
    write_json(run.trial, FORMAT | {key: value for key, value in asdict(trial).items() if key != "folder"})


def config_sha256(config: DictConfig) -> str:
    """Returns the hash of all settings that a trial's metrics depend on, and of the weights file that they name."""
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
    """Reads a file once per process, as long as it does not change."""
    return sha256_of(path)


# Trials that differ in nothing but the fold of a cross-validation, or the seed.

SEED = "seed"
Setting = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class OverFolds:
    """The mean and the standard deviation of each metric over the completed folds of one setting."""

    values: dict[str, str]
    folds: int
    means: dict[str, float]
    deviations: dict[str, float]


@dataclass(frozen=True)
class OverSeeds:
    """The mean and the standard deviation of a metric over trials that differ by their seed only."""

    values: dict[str, str]
    trials: int
    mean: float
    deviation: float


def setting_of(trial: Trial, key: str = FOLD) -> Setting:
    """Returns the values of all keys but `key`."""
    return tuple(item for item in trial.values.items() if item[0] != key)


def _by_setting(trials: Iterable[Trial], key: str) -> dict[Setting, list[Trial]]:
    """Groups the trials that have a value of `key` by the values of all others."""
    groups: dict[Setting, list[Trial]] = {}
    for trial in trials:
        if key in trial.values:
            groups.setdefault(setting_of(trial, key), []).append(trial)
    return groups


def mean_objectives(trials: Iterable[Trial], objective: str) -> dict[Setting, float]:
    """Returns the mean objective over the folds of each setting; the worst possible value if one of them failed."""
    groups = _by_setting(trials, FOLD).items()
    return {setting: statistics.fmean(trial.objective(objective) for trial in group) for setting, group in groups}


def over_folds(trials: Sequence[Trial], metrics: Iterable[str]) -> list[OverFolds]:
    """Summarizes each setting of which two or more folds are completed, in the order of `trials`."""
    metrics, summaries = list(metrics), []
    for setting, group in _by_setting(completed(trials), FOLD).items():
        shared = [name for name in metrics if all(name in trial.metrics for trial in group)]
        if len(group) > 1 and shared:
            values = {name: [trial.metrics[name] for trial in group] for name in shared}
            means = {name: statistics.fmean(numbers) for name, numbers in values.items()}
            deviations = {name: statistics.stdev(numbers) for name, numbers in values.items()}
            summaries.append(OverFolds(dict(setting), len(group), means, deviations))
    return summaries


def over_seeds(trials: Sequence[Trial], metric: str) -> list[OverSeeds]:
    """Summarizes each setting that was completed with several seeds, in the order of `trials`."""
    groups = _by_setting([trial for trial in completed(trials) if metric in trial.metrics], SEED)
    values = [(dict(setting), [trial.metrics[metric] for trial in group]) for setting, group in groups.items()]
    return [OverSeeds(s, len(v), statistics.mean(v), statistics.stdev(v)) for s, v in values if len(v) > 1]


def write_out_of_fold(sweep: SweepFolder, trials: Sequence[Trial]) -> bool:
    """Writes the predictions of each fold by the trial that was not trained on it. Returns whether there are any.

    One row per image and setting, with the swept values before the columns of valid_predictions.csv.
    """
    of_folds = [trial for trial in completed(trials) if FOLD in trial.values]
    if not of_folds:
        return False
    header: list[str] = []
    rows = []
    for trial in of_folds:
        path = sweep.trial(trial.folder).valid_predictions
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            header, *of_trial = csv.reader(file)
        rows += [[*trial.values.values(), *row] for row in of_trial]
    write_csv(sweep.out_of_fold, [*of_folds[0].values, *header], rows)
    return True
