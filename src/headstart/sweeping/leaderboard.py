"""The leaderboard: trials ordered, and whether the best one is better than chance."""

import csv
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from headstart.cli.overrides import shortened
from headstart.evaluation.predictions import SIGNIFICANT, mcnemar
from headstart.files import exclusively, read_json, remove, write_csv, write_json
from headstart.log import log, render_table
from headstart.metrics import metric_of
from headstart.run_folder import EnsembleFolder, RunFolder, SweepFolder, is_of_a_run
from headstart.sweeping.trial_record import FOLD, OverFolds, Trial, mean_objectives, over_folds, read_trials, setting_of

# Which trials of a sweep differ by more than chance: between settings, and between seeds.


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


# SWEEP/best: the files of the best trial, for commands that need not know which one that is.


def show_best(sweep: SweepFolder, best: RunFolder | None) -> None:
    """Fills the folder `sweep.best` with links to the files of the trial `best`; None: removes it.

    It has no links to TensorBoard's events, and is no link itself: TensorBoard would show the best trial twice.
    """
    wanted = {path.name for path in best.path.iterdir() if _is_shown(path.name)} if best is not None else set()
    try:
        # Version 0.1 made it a link to the trial's folder.
        if sweep.best.is_symlink():
            remove(sweep.best)
        if wanted:
            sweep.best.mkdir(exist_ok=True)
        for name in wanted:
            _link(sweep.best / name, Path("..", best.path.name, name) if best is not None else Path())
        _clear(sweep.best, wanted)
    except OSError as error:
        # Something else has the name, or the file system has no links. The leaderboard names the best trial too.
        log.warning("%s could not be linked to the best trial: %s", sweep.best, error.strerror)


def _is_shown(name: str) -> bool:
    return is_of_a_run(name) and not name.startswith("events.")


def _link(link: Path, target: Path) -> None:
    """Makes `link` point to `target`, replacing an earlier link atomically, and nothing else."""
    if link.is_symlink() and link.readlink() == target:
        return
    if os.path.lexists(link) and not _is_ours(link):
        raise FileExistsError(None, "it holds other files")
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(target)
        temporary.replace(link)
    finally:
        temporary.unlink(missing_ok=True)


def _is_ours(path: Path) -> bool:
    """Whether it is a link to the file of that name in a trial's folder."""
    return path.is_symlink() and path.readlink().parts[::2] == ("..", path.name)


def _clear(folder: Path, wanted: set[str]) -> None:
    """Removes its own links that are not `wanted`, and the folder if nothing is left in it."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.name not in wanted and _is_ours(path):
            path.unlink()
    if not wanted and not any(folder.iterdir()):
        folder.rmdir()


# ensemble.json: the members of an ensemble, and how good it is.


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


def read_score(folder: EnsembleFolder) -> EnsembleScore | None:
    """That of the ensemble in its folder; None: there is none, or it is incomplete."""
    try:
        values = read_json(folder.record)
        score = EnsembleScore(**values | {"members": tuple(Member(**member) for member in values["members"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return score if all((folder.path / member.checkpoint).is_file() for member in score.members) else None


# leaderboard.csv and leaderboard.json: how the trials of a sweep compare.


COLUMNS = ("valid/loss", "valid/acc", "best_epoch")
ENSEMBLE, MEAN, DEVIATION = "ensemble", "mean", "standard deviation"  # in place of a rank
MOST_ROWS, MOST_FAILED = 30, 5  # on the terminal


def ranked(trials: Iterable[Trial], objective: str) -> list[Trial]:
    """Best first, failed ones last. The folds of a setting stand together, ranked by their mean."""
    trials, sign = list(trials), -1 if metric_of(objective).direction == "max" else 1
    means = mean_objectives(trials, objective)

    def place(trial: Trial) -> tuple[Any, ...]:
        if FOLD in trial.values:
            setting = setting_of(trial)
            return trial.reason is not None, sign * means[setting], setting, trial.values[FOLD].zfill(9)
        return False, sign * trial.objective(objective), (), trial.folder

    return sorted(trials, key=place)


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


def describe_leaderboard(
    trials: list[Trial], objective: str, tie: Tie | None, ensemble: EnsembleScore | None = None
) -> str:
    """A table of the best trials for the terminal, what differs by more than chance, and the reasons of failures.

    The last rows are the means over folds, and that of the `ensemble`.
    """
    keys, metrics = _swept(trials), _metrics(objective)
    completed = [trial for trial in trials if trial.reason is None]
    rows = []
    for rank, trial in zip(_ranks(completed), completed[:MOST_ROWS], strict=False):
        values = [shortened(trial.values.get(key, "")) for key in keys]
        shown = (_shown(name, trial.metrics) for name in metrics)
        rows.append([str(rank), *values, *shown, f"{trial.seconds:.1f}"])
    rows += [_mean_row(found, keys, metrics) for found in over_folds(trials, metrics)[:MOST_ROWS]]
    if ensemble is not None:
        rows.append([ENSEMBLE, *("" for _ in keys), *(_shown(name, ensemble.metrics) for name in metrics), ""])
    columns = ["rank", *keys, *(name.replace("_", " ") for name in metrics), "seconds"]
    lines = [render_table(columns, rows)] if completed else []
    lines += [f"… and {len(completed) - MOST_ROWS} more"] if len(completed) > MOST_ROWS else []
    if tie is not None and tie.ranks > 1:
        lines.append(
            f"ranks 1–{tie.ranks} cannot be told apart by their predictions of the {tie.images} valid images "
            f"(exact McNemar test, p ≥ {SIGNIFICANT})"
        )
    lines += [_against_best(ensemble)] if ensemble is not None else []
    lines += [_over_seeds(found, objective) for found in over_seeds(trials, objective)[:MOST_ROWS]]
    failed = [trial for trial in trials if trial.reason is not None]
    lines += [f"failed: {trial.folder}: {trial.reason}" for trial in failed[:MOST_FAILED]]
    lines += [f"… and {len(failed) - MOST_FAILED} more failed"] if len(failed) > MOST_FAILED else []
    return "\n".join(lines)


def _ranks(trials: list[Trial]) -> list[int]:
    """The rank of each of the `ranked` trials; the folds of a setting have one together."""
    settings = [setting_of(trial) if FOLD in trial.values else trial.folder for trial in trials]
    places = {setting: rank for rank, setting in enumerate(dict.fromkeys(settings), start=1)}
    return [places[setting] for setting in settings]


def _mean_row(found: OverFolds, keys: list[str], metrics: list[str]) -> list[str]:
    values = found.values | {FOLD: f"{found.folds} folds"}
    shown = [_with_deviation(name, found) if name in found.means else "" for name in metrics]
    return [MEAN, *(shortened(values.get(key, "")) for key in keys), *shown, ""]


def _with_deviation(name: str, found: OverFolds) -> str:
    digits = 1 if name == "best_epoch" else 4
    return f"{found.means[name]:.{digits}f} ± {found.deviations[name]:.{digits}f}"


def _against_best(ensemble: EnsembleScore) -> str:
    """Whether the ensemble is better than the best trial."""
    own, of_best = ensemble.metrics["valid/acc"], ensemble.best_accuracy
    verdict = f"it is {'better' if own > of_best else 'worse'}"
    if ensemble.p_value >= SIGNIFICANT:
        verdict = "the difference may be chance"
    return (
        f"on the {ensemble.images} valid images, the ensemble of {len(ensemble.members)} trials has accuracy {own:.4f} "
        f"and the best trial {of_best:.4f}: {verdict} (exact McNemar test, p = {ensemble.p_value:.2g})"
    )


def _over_seeds(found: OverSeeds, objective: str) -> str:
    values = "  ".join(f"{key}={shortened(value)}" for key, value in found.values.items())
    return f"{values}  {objective} {found.mean:.4f} ± {found.deviation:.4f} over {found.trials} seeds".strip()


def test_metrics(run: RunFolder) -> dict[str, float]:
    """Those of a trial; empty if it has not been tested."""
    try:
        metrics = read_json(RunFolder(run.test).metrics)
    except (OSError, ValueError):
        return {}
    return only_test(metrics)


def only_test(metrics: Mapping[str, float]) -> dict[str, float]:
    """Those of the test split."""
    return {name: value for name, value in metrics.items() if name.startswith("test/")}


def _summary(
    trials: list[Trial], objective: str, best: RunFolder | None, tie: Tie | None, ensemble: EnsembleScore | None
) -> dict[str, Any]:
    """What leaderboard.json says; `test` is empty, and `tie` and `ensemble` null, until the sweep is complete."""
    return {
        "trials": len(trials),
        "failed": sum(trial.reason is not None for trial in trials),
        "objective": objective,
        "order": "highest first" if metric_of(objective).direction == "max" else "lowest first",
        "best": best.path.name if best is not None else None,
        "test": test_metrics(best) if best is not None else {},
        "tie": tie and asdict(tie),
        "over_seeds": [asdict(found) for found in over_seeds(trials, objective)],
        "over_folds": [asdict(found) for found in over_folds(trials, _metrics(objective))],
        "ensemble": ensemble and asdict(ensemble),
    }


def _write_csv(path: Path, trials: list[Trial], objective: str, ensemble: EnsembleScore | None) -> None:
    keys, metrics, rows = _swept(trials), _metrics(objective), []
    for rank, trial in zip(_ranks(trials), trials, strict=True):
        completed = trial.reason is None
        values = [trial.values.get(key, "") for key in keys]
        found = [trial.metrics.get(name, "") if completed else "" for name in metrics]
        rows.append([rank if completed else "", *values, *found, trial.seconds, trial.folder, trial.reason or ""])
    for of_folds in over_folds(trials, metrics):
        values = [of_folds.values.get(key, "") for key in keys]
        for name, numbers in ((MEAN, of_folds.means), (DEVIATION, of_folds.deviations)):
            rows.append([name, *values, *(numbers.get(metric, "") for metric in metrics), "", "", ""])
    if ensemble is not None:
        found = [ensemble.metrics.get(name, "") for name in metrics]
        rows.append([ENSEMBLE, *("" for _ in keys), *found, "", ENSEMBLE, ""])
    write_csv(path, ("rank", *keys, *metrics, "seconds", "folder", "reason"), rows)


def _metrics(objective: str) -> list[str]:
    return list(dict.fromkeys([objective, *COLUMNS]))


def _swept(trials: list[Trial]) -> list[str]:
    return list(dict.fromkeys(key for trial in trials for key in trial.values))


def _shown(name: str, metrics: Mapping[str, float]) -> str:
    value = metrics.get(name, math.nan)
    if math.isnan(value):
        return ""
    return str(int(value)) if name == "best_epoch" else f"{value:.4f}"
