"""Cross-validation by a sweep over `data.fold`: what settings achieve on average, and the out-of-fold predictions."""

import csv
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from headstart.files import write_csv
from headstart.run_folder import SweepFolder
from headstart.sweeping.trial_record import Trial

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
