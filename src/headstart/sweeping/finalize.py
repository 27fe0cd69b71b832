"""After the last trial: the best one is tested, once, and gets a report; the best ones become an ensemble; a plot."""

import math
import shutil
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

from hydra.core.override_parser.types import ChoiceSweep, IntervalSweep, RangeSweep
from matplotlib.axes import Axes
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter
from omegaconf import OmegaConf

from headstart.auditing.report import preparation
from headstart.config.data import FOLD
from headstart.config.model import EncoderSettings
from headstart.config.overrides import key_of, parsed_override, shortened
from headstart.config.train import TrainSettings, check_train, literals, read_record
from headstart.datasets import open_data
from headstart.errors import HeadstartError
from headstart.evaluation.predictions import Predictions, mcnemar, mean_of, predict_splits, write_predictions
from headstart.files import ENSEMBLE, claim, read_json, remove, replacing, sha256_of, write_json
from headstart.log import log
from headstart.machine import training_device
from headstart.metrics import metric_of
from headstart.model.checkpoint import load_ensemble
from headstart.pipeline import report, test
from headstart.report.style import cut, drawing
from headstart.run_folder import EnsembleFolder, RunFolder, SweepFolder
from headstart.sweeping.leaderboard import (
    EnsembleScore,
    Member,
    Tie,
    describe_leaderboard,
    find_tie,
    only_test,
    test_metrics,
    update_leaderboard,
)
from headstart.sweeping.trial import forget_shared
from headstart.sweeping.trial_record import Trial, completed, write_out_of_fold

# On which scale a key of a sweep was sampled, as far as its search space says.
Scale = Literal["log", "linear", "choice"]


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
    forget_shared()
    trials = update_leaderboard(sweep, objective)
    if not trials:
        if not is_complete:
            return False
        raise HeadstartError("the sweep ran no trials: is there anything to sweep over?")
    best, done = sweep.trial(trials[0].folder), completed(trials)
    succeeded = len(done) == len(trials)
    tie: Tie | None = None
    score: EnsembleScore | None = None
    if is_complete and done:
        succeeded &= _test(best)
        _report(best)
        tie = find_tie(sweep, trials)
        if ensemble:
            try:
                score = update_ensemble(sweep, trials, ensemble, _settings(best))
            except (HeadstartError, OSError) as error:
                log.error("there is no ensemble: %s", error)
                succeeded = False
        trials = update_leaderboard(sweep, objective, tie, score)
    draw_sweep(trials, objective, sweep.plot, scales)
    has_folds = write_out_of_fold(sweep, trials)
    log.info("%s", describe_leaderboard(trials, objective, tie, score))
    log.info("%d trials, %d of them failed; %s", len(trials), len(trials) - len(done), sweep.leaderboard)
    if has_folds:
        log.info("out-of-fold predictions: %s", sweep.out_of_fold)
    if done:
        log.info("%s", _line("best", RunFolder(sweep.best).best, test_metrics(best)))
    if score is not None:
        log.info("%s", _line("ensemble", sweep.ensemble, only_test(score.metrics)))
    return succeeded


def _line(name: str, path: Path, metrics: Mapping[str, float]) -> str:
    """Returns "best: sweep/best/checkpoints/best.ckpt  test/acc 0.9610"."""
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


def _settings(run: RunFolder, **changes: Any) -> TrainSettings:
    """Returns the settings of a trial, to evaluate its best checkpoint."""
    values: Any = OmegaConf.to_container(read_record(run))
    return check_train(OmegaConf.create(values | literals({"ckpt_path": str(run.best), **changes})))


# SWEEP/ensemble: the best trials of a sweep as one predictor, scored as the best trial is.


def update_ensemble(
    sweep: SweepFolder, trials: Sequence[Trial], size: int, settings: TrainSettings
) -> EnsembleScore | None:
    """Makes the ensemble of the `size` best of the ranked `trials`, or of all, unless that was done before.

    None if they cannot be averaged, which a warning explains. `settings` are those of the best trial.

    Raises:
        HeadstartError: the data have changed, or a checkpoint could not be used.
    """
    done = completed(trials)
    if reason := _why_not(done):
        log.warning("sweep.ensemble=%d: there is no ensemble, because %s", size, reason)
        return None
    members = tuple(_member(sweep, place, trial) for place, trial in enumerate(done[:size], start=1))
    folder = EnsembleFolder(sweep.ensemble)
    score = _read_score(folder)
    if score is not None and score.members == members:
        return score
    return _make(folder, sweep, members, settings, done[0].data)


def _why_not(trials: Sequence[Trial]) -> str | None:
    """Returns why completed trials cannot be averaged; None: they can."""
    if len(trials) < 2:
        return "fewer than two trials were completed"
    if any(FOLD in trial.values for trial in trials):
        return f"the trials of a sweep over {FOLD} validate on different images"
    if len({trial.data for trial in trials}) > 1:
        return (
            "the trials were trained on different images, or on different splits of them: to give all the same split, "
            "set data.seed=0"
        )
    return None


def _member(sweep: SweepFolder, place: int, trial: Trial) -> Member:
    folder = EnsembleFolder(sweep.ensemble)
    checkpoint = (folder.checkpoints / f"{place}.ckpt").relative_to(folder.path)
    return Member(str(checkpoint), trial.folder, sha256_of(sweep.trial(trial.folder).best))


def _read_score(folder: EnsembleFolder) -> EnsembleScore | None:
    """Reads the score of the ensemble in its folder; None: there is none, or it is incomplete."""
    try:
        values = read_json(folder.record)
        score = EnsembleScore(**values | {"members": tuple(Member(**member) for member in values["members"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return score if all((folder.path / member.checkpoint).is_file() for member in score.members) else None


def _make(
    folder: EnsembleFolder, sweep: SweepFolder, members: tuple[Member, ...], settings: TrainSettings, trained_on: str
) -> EnsembleScore:
    """Copies and scores the members. The record is removed first and written last: without it, all is made again."""
    claim(folder.path, ENSEMBLE)
    files = (folder.record, folder.metrics, folder.valid_predictions, folder.test_predictions)
    for path in (*files, *folder.checkpoints.glob("*.ckpt")):
        remove(path)
    for member in members:
        with replacing(folder.path / member.checkpoint) as temporary:
            shutil.copyfile(sweep.trial(member.trial).best, temporary)
    classes, of_members = _predict(folder, members, settings, trained_on)
    mean = {split: mean_of([of[split] for of in of_members]) for split in of_members[0]}
    write_predictions(mean, classes, RunFolder(folder.path))
    metrics = {name: value for split, of in mean.items() for name, value in of.metrics(split).items()}
    valid = mean["valid"], of_members[0]["valid"]
    own, of_best = ((of.log_probs.argmax(1) == of.labels).numpy() for of in valid)
    score = EnsembleScore(members, metrics, len(own), float(of_best.mean()), mcnemar(own, of_best, valid[0].units))
    write_json(folder.metrics, score.metrics)
    write_json(folder.record, asdict(score))
    return score


def _predict(
    folder: EnsembleFolder, members: tuple[Member, ...], settings: TrainSettings, trained_on: str
) -> tuple[tuple[str, ...], list[dict[str, Predictions]]]:
    """Returns the classes, and each member's predictions of the valid and the test split."""
    manifest = open_data(settings.data, preparation(settings)).manifest
    if manifest.fingerprint != trained_on:
        raise HeadstartError("the images have changed since the trials were trained: run the same command again")
    features = EncoderSettings(precision="auto", compile=settings.features.compile)
    ensemble = load_ensemble((folder.path / member.checkpoint for member in members), features, moved_to=None)
    on_device = ensemble.to(training_device(settings.trainer))
    of_members = [predict_splits(of, of.feature_source(settings, manifest), ("valid", "test")) for of in on_device]
    return manifest.classes, of_members


# sweep.png: the objective of a sweep's trials against each swept key.

PANEL = (4.2, 3.4)  # inches
NARROWEST = 6.0  # inches, with room for the title
# Values that differ by this factor are shown on a logarithmic axis.
WIDE, WIDE_OBJECTIVE = 10, 30
ALL, BEST = "#1f77b4", "#d62728"
LONGEST = 24  # characters of a label
MOST_CHARACTERS = 32  # of the labels below a panel
DENSITY = 13  # characters per inch of the overall title


def scales_of(params: Mapping[str, Any], overrides: Iterable[str]) -> dict[str, Scale]:
    """Returns the scales of the sweeper's search space `params`, over which the command line's `overrides` prevail."""
    written = {key.lstrip("+~"): str(value) for key, value in params.items()}
    written |= {key_of(override): override.partition("=")[2] for override in overrides}
    return {key: scale for key, text in written.items() if (scale := _scale_of(text)) is not None}


def _scale_of(text: str) -> Scale | None:
    """Returns that of tag(log, interval(1e-4, 1e-2)), interval(0, 0.7) or choice(64, 128); None: of listed values."""
    override = parsed_override(f"key={text}")
    value = override.value() if override is not None else None
    if isinstance(value, ChoiceSweep | RangeSweep | IntervalSweep) and "log" in value.tags:
        return "log"
    if isinstance(value, ChoiceSweep):
        return None if value.simple_form else "choice"
    return "linear" if isinstance(value, RangeSweep | IntervalSweep) else None


def draw_sweep(trials: list[Trial], objective: str, path: Path, scales: Mapping[str, Scale] | None = None) -> None:
    """Writes a PNG of the completed trials, one panel per swept key, with the best trial (the first) marked and named.

    None if there are no such trials. `scales` are those of the keys whose search space says so.
    """
    done = completed(trials)
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
    """Returns which way is better, and the best trial with its values."""
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
    """Returns where on the x-axis values are: by size, by magnitude, or evenly spaced if they are names or choices."""
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
    """Makes a logarithmic x-axis with few enough labels, whatever its range."""
    axes.set_xscale("log")
    subdivisions = (1, 2, 5) if decades < 1.3 else (1, 3) if decades < 2.5 else (1,)
    axes.xaxis.set_major_locator(LogLocator(subs=subdivisions))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())


def short_label(text: str) -> str:
    """Returns at most LONGEST characters, of which those in the middle are left out; of a number four digits."""
    return cut(shortened(text), LONGEST)


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
