"""leaderboard.csv and leaderboard.json: how the trials of a sweep compare."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from headstart.cli.names import shortened
from headstart.evaluation.statistics import SIGNIFICANT
from headstart.files import exclusively, read_json, write_csv, write_json
from headstart.metrics import metric_of
from headstart.run_folder import RunFolder, SweepFolder
from headstart.sweeping.best import show_best
from headstart.sweeping.ensemble_score import EnsembleScore
from headstart.sweeping.folds import FOLD, OverFolds, mean_objectives, over_folds, setting_of
from headstart.sweeping.significance import OverSeeds, Tie, over_seeds
from headstart.sweeping.trial_record import Trial, read_trials
from headstart.tables import render_table

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
