"""The leaderboard: trials ordered, and whether the best one is better than chance."""

import csv
import math
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any

import numpy as np

from headstart.config.data import FOLD
from headstart.config.overrides import shortened
from headstart.evaluation.predictions import holm, mcnemar
from headstart.files import exclusively, read_json, write_csv, write_json
from headstart.log import log, render_table
from headstart.metrics import SIGNIFICANT, metric_of
from headstart.run_folder import RunFolder, SweepFolder, is_of_a_run
from headstart.sweeping.trial_record import (
    OverFolds,
    OverSeeds,
    Trial,
    completed,
    mean_objectives,
    over_folds,
    over_seeds,
    read_trials,
    setting_of,
)

COLUMNS = ("valid/loss", "valid/acc", "best_epoch")
ENSEMBLE, MEAN, DEVIATION = "ensemble", "mean", "standard deviation"  # in place of a rank
MOST_ROWS, MOST_FAILED = 30, 5  # on the terminal


@dataclass(frozen=True)
class Tie:
    """The first `ranks` completed trials classify the same `images` of the valid split equally well, as far as a paired
    test can tell."""

    ranks: int
    images: int


@dataclass(frozen=True)
class Member:
    """A copy of a trial's checkpoint: its place in the ensemble's folder, the trial, and its SHA-256."""

    checkpoint: str
    trial: str
    sha256: str


@dataclass(frozen=True)
class EnsembleScore:
    """Metrics of an ensemble on the valid and the test split, its `members` best first.

    `p_value` is that the ensemble and the best trial, whose accuracy is `best_accuracy`, are equally often right about
    the `images` valid images (exact McNemar test).
    """

    members: tuple[Member, ...]
    metrics: dict[str, float]
    images: int
    best_accuracy: float
    p_value: float


def ranked(trials: Iterable[Trial], objective: str) -> list[Trial]:
    """Sorts trials, the best first, failed ones last. The folds of a setting stand together, ranked by their mean."""
    trials, sign = list(trials), -1 if metric_of(objective).direction == "max" else 1
    means = mean_objectives(trials, objective)

    def place(trial: Trial) -> tuple[Any, ...]:
        if FOLD in trial.values:
            setting = setting_of(trial)
            return trial.reason is not None, sign * means[setting], setting, trial.values[FOLD].zfill(9)
        return False, sign * trial.objective(objective), (), trial.folder

    return sorted(trials, key=place)


def _ranks(trials: list[Trial]) -> list[int]:
    """Returns the rank of each of the `ranked` trials; the folds of a setting have one together."""
    settings = [setting_of(trial) if FOLD in trial.values else trial.folder for trial in trials]
    places = {setting: rank for rank, setting in enumerate(dict.fromkeys(settings), start=1)}
    return [places[setting] for setting in settings]


def find_tie(sweep: SweepFolder, trials: Sequence[Trial]) -> Tie | None:
    """Compares each completed trial with the first one; `trials` are ranked. None: they were scored on other images.

    The p-values are corrected for the number of trials. Images of one unit, such as a group, count as one.
    """
    first = _correct(sweep, trials[0])
    if first is None:
        return None
    rows, p_values = _rows(sweep.trial(trials[0].folder).valid_predictions) or [], []
    unit_of = {(row["path"], row["label"]): row.get("unit", row["path"]) for row in rows}
    units = np.unique([unit_of[place] for place in first], return_inverse=True)[1]
    for trial in trials[1:]:
        other = _correct(sweep, trial) if trial.reason is None else None
        if other is None or other.keys() != first.keys():
            break
        pairs = np.array([(first[place], other[place]) for place in first])
        p_values.append(mcnemar(pairs[:, 0], pairs[:, 1], units))
    equal = takewhile(lambda p_value: p_value >= SIGNIFICANT, holm(p_values))
    return Tie(1 + sum(1 for _ in equal), len(first))


def _correct(sweep: SweepFolder, trial: Trial) -> dict[tuple[str, str], bool] | None:
    """Returns whether each valid image was classified correctly, by its path and label; None: it is not known."""
    rows = _rows(sweep.trial(trial.folder).valid_predictions)
    if rows is None:
        return None
    return {(row["path"], row["label"]): row["label"] == row["prediction"] for row in rows}


def _rows(path: Path) -> list[dict[str, str]] | None:
    """Returns the rows of a CSV of a run; None: there is none."""
    try:
        with path.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            return list(csv.DictReader(file))
    except OSError:
        return None


def test_metrics(run: RunFolder) -> dict[str, float]:
    """Returns the metrics of a trial on the test split; empty if it has not been tested."""
    try:
        return only_test(read_json(RunFolder(run.test).metrics))
    except (OSError, ValueError):
        return {}


def only_test(metrics: Mapping[str, float]) -> dict[str, float]:
    """Returns the metrics of the test split."""
    return {name: value for name, value in metrics.items() if name.startswith("test/")}


# Its files: leaderboard.csv, leaderboard.json, and the folder of the best trial.


def update_leaderboard(
    sweep: SweepFolder, objective: str, tie: Tie | None = None, ensemble: EnsembleScore | None = None
) -> list[Trial]:
    """Writes the leaderboard of the trials so far, with the files of the best one, and returns them in its order."""
    with exclusively(sweep.leaderboard):
        trials = ranked(read_trials(sweep), objective)
        best = sweep.trial(trials[0].folder) if trials and trials[0].reason is None else None
        _write_csv(sweep.leaderboard, trials, objective, ensemble)
        write_json(sweep.summary, _summary(trials, objective, best, tie, ensemble))
        show_best(sweep, best)
        return trials


def _write_csv(path: Path, trials: list[Trial], objective: str, ensemble: EnsembleScore | None) -> None:
    keys, metrics = _swept(trials), _metrics(objective)

    def row(
        rank: object, values: Mapping[str, str], numbers: Mapping[str, float], last: Sequence[object]
    ) -> list[object]:
        return [rank, *(values.get(key, "") for key in keys), *(numbers.get(name, "") for name in metrics), *last]

    rows = []
    for rank, trial in zip(_ranks(trials), trials, strict=True):
        last = (trial.seconds, trial.folder, trial.reason or "")
        is_completed = trial.reason is None
        rows.append(row(rank if is_completed else "", trial.values, trial.metrics if is_completed else {}, last))
    for setting in over_folds(trials, metrics):
        rows.append(row(MEAN, setting.values, setting.means, ("", "", "")))
        rows.append(row(DEVIATION, setting.values, setting.deviations, ("", "", "")))
    if ensemble is not None:
        rows.append(row(ENSEMBLE, {}, ensemble.metrics, ("", ENSEMBLE, "")))
    write_csv(path, ("rank", *keys, *metrics, "seconds", "folder", "reason"), rows)


def _metrics(objective: str) -> list[str]:
    return list(dict.fromkeys([objective, *COLUMNS]))


def _swept(trials: list[Trial]) -> list[str]:
    return list(dict.fromkeys(key for trial in trials for key in trial.values))


def _summary(
    trials: list[Trial], objective: str, best: RunFolder | None, tie: Tie | None, ensemble: EnsembleScore | None
) -> dict[str, Any]:
    """Returns what leaderboard.json says; `test` is empty, `tie` and `ensemble` null, until the sweep is complete."""
    return {
        "trials": len(trials),
        "failed": len(trials) - len(completed(trials)),
        "objective": objective,
        "order": "highest first" if metric_of(objective).direction == "max" else "lowest first",
        "best": best.path.name if best is not None else None,
        "test": test_metrics(best) if best is not None else {},
        "tie": tie and asdict(tie),
        "over_seeds": [asdict(setting) for setting in over_seeds(trials, objective)],
        "over_folds": [asdict(setting) for setting in over_folds(trials, _metrics(objective))],
        "ensemble": ensemble and asdict(ensemble),
    }


def show_best(sweep: SweepFolder, best: RunFolder | None) -> None:
    """Fills the folder `sweep.best` with links to the files of the trial `best`; None: removes it.

    So commands need not know which trial that is. It has no links to TensorBoard's events, and is no link itself:
    TensorBoard would show the best trial twice.
    """
    names = [path.name for path in best.path.iterdir()] if best is not None else []
    targets = {
        n: Path("..", best.path.name, n) for n in names if best and is_of_a_run(n) and not n.startswith("events.")
    }
    try:
        if targets:
            sweep.best.mkdir(exist_ok=True)
        for name, target in targets.items():
            _link(sweep.best / name, target)
        for path in _own_links(sweep.best):
            if path.name not in targets:
                path.unlink()
        if not targets and sweep.best.is_dir() and not any(sweep.best.iterdir()):
            sweep.best.rmdir()
    except OSError as error:
        # Something else has the name, or the file system has no links. The leaderboard names the best trial too.
        log.warning("%s could not be linked to the best trial: %s", sweep.best, error.strerror)


def _own_links(folder: Path) -> list[Path]:
    """Returns the links in a folder to files of the same name in a trial's folder."""
    links = [path for path in folder.iterdir() if path.is_symlink()] if folder.is_dir() else []
    return [path for path in links if path.readlink().parts[::2] == ("..", path.name)]


def _link(link: Path, target: Path) -> None:
    """Makes `link` point to `target`, replacing an earlier link atomically, and nothing else."""
    if link.is_symlink() and link.readlink() == target:
        return
    if os.path.lexists(link) and link not in _own_links(link.parent):
        raise FileExistsError(None, "it holds other files")
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(target)
        temporary.replace(link)
    finally:
        temporary.unlink(missing_ok=True)


# What the terminal says at the end of a sweep.


def describe_leaderboard(
    trials: list[Trial], objective: str, tie: Tie | None, ensemble: EnsembleScore | None = None
) -> str:
    """Returns a table of the best trials, what differs by more than chance, and the reasons of failures.

    The last rows are the means over folds, and that of the `ensemble`.
    """
    lines = [_table(trials, objective, ensemble)] if (done := completed(trials)) else []
    lines += _and_more(len(done) - MOST_ROWS, "more")
    if tie is not None and tie.ranks > 1:
        lines.append(
            f"ranks 1–{tie.ranks} cannot be told apart by their predictions of the {tie.images} valid images "
            f"(exact McNemar test, p ≥ {SIGNIFICANT})"
        )
    lines += [_against_best(ensemble)] if ensemble is not None else []
    lines += [_over_seeds(setting, objective) for setting in over_seeds(trials, objective)[:MOST_ROWS]]
    failed = [trial for trial in trials if trial.reason is not None]
    lines += [f"failed: {trial.folder}: {trial.reason}" for trial in failed[:MOST_FAILED]]
    return "\n".join([*lines, *_and_more(len(failed) - MOST_FAILED, "more failed")])


def _table(trials: list[Trial], objective: str, ensemble: EnsembleScore | None) -> str:
    keys, metrics, done = _swept(trials), _metrics(objective), completed(trials)

    def row(rank: str, values: Mapping[str, str], cells: Iterable[str], seconds: str = "") -> list[str]:
        return [rank, *(shortened(values.get(key, "")) for key in keys), *cells, seconds]

    rows = [
        row(str(rank), trial.values, _cells(metrics, trial.metrics), f"{trial.seconds:.1f}")
        for rank, trial in zip(_ranks(done), done[:MOST_ROWS], strict=False)
    ]
    for setting in over_folds(trials, metrics)[:MOST_ROWS]:
        rows.append(row(MEAN, setting.values | {FOLD: f"{setting.folds} folds"}, _with_deviations(metrics, setting)))
    if ensemble is not None:
        rows.append(row(ENSEMBLE, {}, _cells(metrics, ensemble.metrics)))
    return render_table(["rank", *keys, *(name.replace("_", " ") for name in metrics), "seconds"], rows)


def _cells(names: list[str], metrics: Mapping[str, float]) -> Iterator[str]:
    for name in names:
        value = metrics.get(name, math.nan)
        yield "" if math.isnan(value) else str(int(value)) if name == "best_epoch" else f"{value:.4f}"


def _with_deviations(names: list[str], setting: OverFolds) -> Iterator[str]:
    for name in names:
        digits = 1 if name == "best_epoch" else 4
        mean, deviation = setting.means.get(name), setting.deviations.get(name)
        yield "" if mean is None else f"{mean:.{digits}f} ± {deviation:.{digits}f}"


def _and_more(count: int, what: str) -> list[str]:
    return [f"… and {count} {what}"] if count > 0 else []


def _against_best(ensemble: EnsembleScore) -> str:
    """Returns a sentence on whether the ensemble is better than the best trial."""
    own, of_best = ensemble.metrics["valid/acc"], ensemble.best_accuracy
    verdict = f"it is {'better' if own > of_best else 'worse'}"
    if ensemble.p_value >= SIGNIFICANT:
        verdict = "the difference may be chance"
    return (
        f"on the {ensemble.images} valid images, the ensemble of {len(ensemble.members)} trials has accuracy {own:.4f} "
        f"and the best trial {of_best:.4f}: {verdict} (exact McNemar test, p = {ensemble.p_value:.2g})"
    )


def _over_seeds(setting: OverSeeds, objective: str) -> str:
    values = "  ".join(f"{key}={shortened(value)}" for key, value in setting.values.items())
    return f"{values}  {objective} {setting.mean:.4f} ± {setting.deviation:.4f} over {setting.trials} seeds".strip()
