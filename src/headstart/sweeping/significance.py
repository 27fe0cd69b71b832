"""Which trials of a sweep differ by more than chance: between settings, and between seeds."""

import csv
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from headstart.evaluation.statistics import SIGNIFICANT, mcnemar
from headstart.run_folder import SweepFolder
from headstart.sweeping.trial_record import Trial

SEED = "seed"


@dataclass(frozen=True)
class Tie:
    """The first `ranks` completed trials classify the same `images` of the valid split equally well, as far as a paired
    test can tell."""

    ranks: int
    images: int


@dataclass(frozen=True)
class OverSeeds:
    """The mean and the standard deviation of a metric over trials that differ by their seed only."""

    values: dict[str, str]
    trials: int
    mean: float
    deviation: float


def find_tie(sweep: SweepFolder, trials: Sequence[Trial]) -> Tie | None:
    """Compares each completed trial with the first one; `trials` are ranked. None: they were scored on other images."""
    first, ranks = _correct(sweep, trials[0]), 1
    if first is None:
        return None
    for trial in trials[1:]:
        other = _correct(sweep, trial) if trial.reason is None else None
        if other is None or other.keys() != first.keys():
            break
        pairs = np.array([(first[path], other[path]) for path in first])
        if mcnemar(pairs[:, 0], pairs[:, 1]) < SIGNIFICANT:
            break
        ranks += 1
    return Tie(ranks, len(first))


def over_seeds(trials: Sequence[Trial], metric: str) -> list[OverSeeds]:
    """For each combination of the other swept values that was run with several seeds, in the order of `trials`."""
    groups: dict[tuple[tuple[str, str], ...], list[float]] = {}
    for trial in trials:
        if trial.reason is None and SEED in trial.values and metric in trial.metrics:
            others = tuple((key, value) for key, value in trial.values.items() if key != SEED)
            groups.setdefault(others, []).append(trial.metrics[metric])
    return [
        OverSeeds(dict(values), len(found), statistics.mean(found), statistics.stdev(found))
        for values, found in groups.items()
        if len(found) > 1
    ]


def _correct(sweep: SweepFolder, trial: Trial) -> dict[str, bool] | None:
    """Whether each image of the valid split was classified correctly, by its path and label; None: it is not known."""
    path = sweep.trial(trial.folder).valid_predictions
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            return {f"{row['path']}\0{row['label']}": row["label"] == row["prediction"] for row in csv.DictReader(file)}
    except OSError:
        return None
