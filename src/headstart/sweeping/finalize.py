"""After a sweep: the plot, the best trial's test, the ensemble."""

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from omegaconf import OmegaConf

from headstart.cli.overrides import shortened
from headstart.config.record import literals, read_record
from headstart.config.train import TrainSettings, check_train
from headstart.errors import HeadstartError
from headstart.files import read_json, remove
from headstart.log import log
from headstart.metrics import metric_of
from headstart.pipeline import report, test
from headstart.report.style import drawing
from headstart.run_folder import RunFolder, SweepFolder
from headstart.sweeping.ensemble import update_ensemble
from headstart.sweeping.leaderboard import (
    EnsembleScore,
    describe_leaderboard,
    find_tie,
    only_test,
    test_metrics,
    update_leaderboard,
)
from headstart.sweeping.trial_record import Scale, Trial, write_out_of_fold

# sweep.png: the objective of a sweep's trials against each swept key.


PANEL = (4.2, 3.4)  # inches
NARROWEST = 6.0  # inches, with room for the title
# Values that differ by this factor are shown on a logarithmic axis.
WIDE, WIDE_OBJECTIVE = 10, 30
ALL, BEST = "#1f77b4", "#d62728"
LONGEST = 24  # characters of a label
MOST_CHARACTERS = 32  # of the labels below a panel
# Characters per inch of the overall title.
DENSITY = 13


def draw_sweep(trials: list[Trial], objective: str, path: Path, scales: Mapping[str, Scale] | None = None) -> None:
    """Writes a PNG of the completed trials, one panel per swept key, with the best trial (the first) marked and named.

    None if there are no such trials. `scales` are those of the keys whose search space says so.
    """
    done = [trial for trial in trials if trial.reason is None]
    keys = list(dict.fromkeys(key for trial in done for key in trial.values))
    if not keys:
        remove(path)
        return
    columns = min(3 if len(keys) <= 9 else 4, len(keys))
    rows = -(-len(keys) // columns)
    width = max(NARROWEST, PANEL[0] * columns)
    with drawing(path, width, PANEL[1] * rows) as figure:
        figure.suptitle(_title(done, objective, width), size=10, parse_math=False)
        grid = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes, key in zip(grid.flat, keys, strict=False):
            _draw(axes, [trial for trial in done if key in trial.values], key, objective, (scales or {}).get(key))
        for axes in grid[:, 0]:
            axes.set_ylabel(objective)
        for axes in list(grid.flat)[len(keys) :]:
            axes.set_axis_off()


def _title(trials: list[Trial], objective: str, width: float) -> str:
    """Which way is better, and the best trial with its values."""
    better = "lower" if metric_of(objective).direction == "min" else "higher"
    best = trials[0]
    values = ", ".join(f"{key}={short_label(value)}" for key, value in best.values.items())
    count = f"{len(trials)} trial{'s' if len(trials) > 1 else ''}"
    lines = [f"{objective} of {count} ({better} is better)", f"★ best: {best.metrics[objective]:.4f} with {values}"]
    return "\n".join(part for line in lines for part in textwrap.wrap(line, int(width * DENSITY)))


def _draw(axes: Axes, trials: list[Trial], key: str, objective: str, scale: Scale | None) -> None:
    texts, values = [trial.values[key] for trial in trials], [trial.metrics[objective] for trial in trials]
    places = _place(axes, texts, scale)
    axes.plot(places, values, "o", color=ALL, alpha=0.6)
    axes.plot(places[0], values[0], "*", color=BEST, markersize=13)
    if metric_of(objective).direction == "min" and max(values) >= WIDE_OBJECTIVE * min(values) > 0:
        axes.set_yscale("log")
    axes.set_title(short_label(key), size=10, parse_math=False)
    axes.tick_params(labelleft=True)
    axes.grid(alpha=0.3)


def _place(axes: Axes, texts: list[str], scale: Scale | None) -> list[float]:
    """Where on the x-axis the values belong: by size, by magnitude, or evenly spaced if they are names or choices."""
    numbers = [_number(text) for text in texts]
    places = [number for number in numbers if number is not None]
    if len(places) < len(texts) or scale == "choice" or len(set(texts)) == 1:
        # Choices that are numbers are in their order.
        names = sorted(set(texts), key=lambda text: (_number(text) is None, _number(text) or 0.0, text))
        labels = [short_label(name) for name in names]
        is_long = len(labels) * max(map(len, labels)) > MOST_CHARACTERS
        axes.set_xticks(range(len(names)), labels, rotation=30 if is_long else 0, parse_math=False)
        for label in axes.get_xticklabels():
            label.set_horizontalalignment("right" if is_long else "center")
        axes.set_xlim(-0.5, len(names) - 0.5)
        return [float(names.index(text)) for text in texts]
    if min(places) > 0 and (scale == "log" or (scale is None and max(places) >= WIDE * min(places))):
        _scale_by_magnitude(axes, math.log10(max(places) / min(places)))
    return places


def _scale_by_magnitude(axes: Axes, decades: float) -> None:
    """A logarithmic x-axis with few enough labels, whatever its range."""
    axes.set_xscale("log")
    subdivisions = (1, 2, 5) if decades < 1.3 else (1, 3) if decades < 2.5 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=subdivisions))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def short_label(text: str) -> str:
    """At most LONGEST characters, of which those in the middle are left out; of a number four digits."""
    text = shortened(text)
    half = (LONGEST - 1) // 2
    return text if len(text) <= LONGEST else f"{text[:half]}…{text[-half:]}"


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


# The end of a sweep: the best trial is tested, once, and gets a report; the best ones become an ensemble.


def finalize(
    sweep: SweepFolder, objective: str, scales: Mapping[str, Scale], *, is_complete: bool, ensemble: int = 0
) -> bool:
    """Plots and shows the trials so far; if the sweep `is_complete`, tests the best one, unless that was done before.

    With an `ensemble` of two or more, so many of the best trials are averaged and tested too.

    Returns:
        Whether no trial failed, and the best one and the ensemble could be tested.

    Raises:
        HeadstartError: there are no trials.
    """
    trials = update_leaderboard(sweep, objective)
    if not trials:
        if not is_complete:
            return False
        raise HeadstartError("the sweep ran no trials: is there anything to sweep over?")
    tie = score = None
    failed = sum(trial.reason is not None for trial in trials)
    succeeded = failed == 0
    if is_complete and failed < len(trials):
        succeeded &= _test(sweep.trial(trials[0].folder))
        _report(sweep.trial(trials[0].folder))
        tie = find_tie(sweep, trials)
        if ensemble:
            score, could_be_made = _average(sweep, trials, ensemble)
            succeeded &= could_be_made
        trials = update_leaderboard(sweep, objective, tie, score)
    draw_sweep(trials, objective, sweep.plot, scales)
    has_folds = write_out_of_fold(sweep, trials)
    log.info("%s", describe_leaderboard(trials, objective, tie, score))
    log.info("%d trials, %d of them failed; %s", len(trials), failed, sweep.leaderboard)
    if has_folds:
        log.info("out-of-fold predictions: %s", sweep.out_of_fold)
    if failed < len(trials):
        log.info("%s", _line("best", RunFolder(sweep.best).best, test_metrics(sweep.trial(trials[0].folder))))
    if score is not None:
        log.info("%s", _line("ensemble", sweep.ensemble, only_test(score.metrics)))
    return succeeded


def _line(name: str, path: Path, metrics: Mapping[str, float]) -> str:
    """ "best: sweep/best/checkpoints/best.ckpt  test/acc 0.9610"."""
    return "  ".join([f"{name}: {path}", *(f"{metric} {value:.4f}" for metric, value in metrics.items())])


def _test(run: RunFolder) -> bool:
    """Scores a trial on the test split, unless that was done or there is none. Returns whether it could be."""
    splits = read_json(run.audit)["images"]
    if test_metrics(run) or not splits.get("test"):
        return True
    try:
        test(_settings(run, task="test", run_dir=str(run.test), logger={}))
    except (HeadstartError, OSError) as error:
        log.error("the best trial could not be tested: %s", error)
        return False
    return True


def _report(run: RunFolder) -> None:
    """Writes the report of a trial, unless that was done or is not wanted."""
    settings = _settings(run, task="report")
    if settings.report == "full" and not run.page.exists():
        try:
            report(settings)
        except (HeadstartError, OSError) as error:
            log.error("the report of the best trial could not be written: %s", error)


def _average(sweep: SweepFolder, trials: list[Trial], size: int) -> tuple[EnsembleScore | None, bool]:
    """The score of the ensemble of the best trials, if they can be averaged, and False if that failed."""
    try:
        return update_ensemble(sweep, trials, size, _settings(sweep.trial(trials[0].folder))), True
    except (HeadstartError, OSError) as error:
        log.error("there is no ensemble: %s", error)
        return None, False


def _settings(run: RunFolder, **changes: Any) -> TrainSettings:
    """Those of a trial, to evaluate its best checkpoint."""
    values: Any = OmegaConf.to_container(read_record(run))
    return check_train(OmegaConf.create(values | literals({"ckpt_path": str(run.best), **changes})))
