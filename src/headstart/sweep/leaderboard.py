"""leaderboard.csv and `best`: which trial of a sweep is how good."""

import csv
import io
import json
import math
import os
import sys
from collections.abc import Iterable
from pathlib import Path

from headstart.files import exclusively, write_text
from headstart.names import shortened
from headstart.sweep.record import Trial, is_maximised, read_trials

LEADERBOARD = "leaderboard.csv"
BEST = "best"  # the link to the best trial's folder
TEST = "test"  # in it, where its test figures are
FIGURES = ("valid/loss", "valid/acc", "best_epoch")
MOST_ROWS, MOST_FAILED = 30, 5  # on the terminal


def ranked(trials: Iterable[Trial], objective: str) -> list[Trial]:
    """The best first, those that failed last."""
    sign = -1 if is_maximised(objective) else 1
    return sorted(trials, key=lambda trial: (sign * trial.objective(objective), trial.folder))


def update_leaderboard(folder: Path, objective: str) -> list[Trial]:
    """Writes what there is to say of the trials in `folder`, whole or not at all; returns them in their order."""
    with exclusively(folder / LEADERBOARD):
        trials = ranked(read_trials(folder), objective)
        write_text(folder / LEADERBOARD, _as_csv(folder, trials, objective))
        _point(folder / BEST, trials[0].folder if trials and trials[0].reason is None else None)
        return trials


def describe_leaderboard(trials: list[Trial], objective: str) -> str:
    """A table of the best trials for the terminal, and the reasons of those that failed."""
    keys, figures = _swept(trials), _figures(objective)
    done = [trial for trial in trials if trial.reason is None]
    rows = [["rank", *keys, *(name.replace("_", " ") for name in figures), "seconds"]]
    for rank, trial in enumerate(done[:MOST_ROWS], start=1):
        values = [shortened(trial.values.get(key, "")) for key in keys]
        rows.append([str(rank), *values, *(_shown(name, trial) for name in figures), f"{trial.seconds:.1f}"])
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = ["  ".join(map(str.ljust, row, widths)).rstrip() for row in rows] if done else []
    lines += [f"… and {len(done) - MOST_ROWS} more"] if len(done) > MOST_ROWS else []
    failed = [trial for trial in trials if trial.reason is not None]
    lines += [f"failed: {trial.folder}: {trial.reason}" for trial in failed[:MOST_FAILED]]
    lines += [f"… and {len(failed) - MOST_FAILED} more failed"] if len(failed) > MOST_FAILED else []
    return "\n".join(lines)


def test_figures(run: Path) -> dict[str, float]:
    """Those of the trial in the folder `run`; {}: it has not been tested."""
    try:
        metrics = json.loads((run / TEST / "metrics.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return {name: value for name, value in metrics.items() if name.startswith("test/")}


def _as_csv(folder: Path, trials: list[Trial], objective: str) -> str:
    text, keys, figures = io.StringIO(), _swept(trials), _figures(objective)
    failed = sum(trial.reason is not None for trial in trials)
    order = "the highest" if is_maximised(objective) else "the lowest"
    text.write(f"# {len(trials)} trials, {failed} of them failed, by {objective}, {order} first\n")
    test = test_figures(folder / trials[0].folder) if trials else {}
    figures_of_test = ", ".join(f"{name} {value:.4f}" for name, value in test.items())
    text.write(f"# test of the best one, made once: {figures_of_test or 'not yet'}\n")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["rank", *keys, *figures, "seconds", "folder", "reason"])
    for rank, trial in enumerate(trials, start=1):
        is_over = trial.reason is None
        values = [trial.values.get(key, "") for key in keys]
        shown = [trial.metrics.get(name, "") if is_over else "" for name in figures]
        writer.writerow([rank if is_over else "", *values, *shown, trial.seconds, trial.folder, trial.reason or ""])
    return text.getvalue()


def _figures(objective: str) -> list[str]:
    return list(dict.fromkeys([objective, *FIGURES]))


def _swept(trials: list[Trial]) -> list[str]:
    return list(dict.fromkeys(key for trial in trials for key in trial.values))


def _shown(name: str, trial: Trial) -> str:
    value = trial.metrics.get(name, math.nan)
    if math.isnan(value):
        return ""
    # On the terminal epochs count from 1.
    return str(int(value) + 1) if name == "best_epoch" else f"{value:.4f}"


def _point(link: Path, target: str | None) -> None:
    """Makes `link` point at its sibling `target`, at no time at nothing; None: there is no link."""
    if target is None:
        if link.is_symlink():
            link.unlink()
        return
    temporary = link.with_name(f".{link.name}.{os.getpid()}.tmp")
    try:
        temporary.unlink(missing_ok=True)
        temporary.symlink_to(target, target_is_directory=True)
        temporary.replace(link)
    except OSError as error:
        # Something else has the name, or there are no links on this file system. The leaderboard tells it too.
        temporary.unlink(missing_ok=True)
        print(f"warning: {link} cannot be made to point at the best trial: {error.strerror}", file=sys.stderr)
