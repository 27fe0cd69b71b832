"""The charts of a report: how good a classifier is, compared with what, how far its probabilities can be believed."""

from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.text import Text
from matplotlib.ticker import MaxNLocator

from headstart.data.preprocessing import Array
from headstart.evaluation.answers import FeatureAnalysis, LearningCurve
from headstart.evaluation.predictions import Result
from headstart.metrics import METRICS, UNFROZEN, Row
from headstart.report.style import BLUE, GREEN, GREY, ORANGE, RED, drawing, families, push_apart, short, tidy

MOST_CLASSES = 40  # in a confusion matrix, and in the bars of an audit
CURVES = ("loss", "acc")
NAMED = 20  # classes up to which a map has their names
NUMBERED = 25  # classes up to which the cells of a confusion matrix have numbers


def draw_accuracy(result: Result, analysis: FeatureAnalysis | None, path: Path) -> None:
    """Draws bars with 95 % intervals: the trained head and each baseline, whose best one is also a line."""
    rows = [("this classifier", result.accuracy, result.interval, BLUE)]
    if analysis is not None:
        rows += [(of.name, of.accuracy, of.interval, GREY) for of in analysis.baselines]
    names, values, intervals, colours = zip(*rows, strict=True)
    with drawing(path, 7, 0.9 + 0.42 * len(rows)) as figure:
        axes = figure.subplots()
        places = np.arange(len(rows))
        errors = np.abs(np.array(intervals).T - np.array(values))
        axes.barh(places, values, color=colours, height=0.62, xerr=errors, error_kw={"ecolor": "#333333", "capsize": 3})
        if analysis is not None:
            axes.axvline(analysis.best_baseline().accuracy, color=ORANGE, linestyle="--", linewidth=1.2)
        axes.set_yticks(places, [f"{name}  {value:.3f}" for name, value in zip(names, values, strict=True)])
        axes.invert_yaxis()
        axes.set_xlim(0, 1)
        axes.set_xlabel(f"accuracy on the {len(result.correct)} {result.split} images, with 95 % intervals")
        tidy(axes)


def draw_confusion(result: Result, path: Path) -> None:
    """Draws the confusion matrix of at most MOST_CLASSES classes, those with most mistakes."""
    matrix = result.confusion.numpy()
    mistakes = matrix.sum(0) + matrix.sum(1) - 2 * matrix.diagonal()
    shown = np.arange(len(matrix))
    if len(matrix) > MOST_CLASSES:
        shown = np.sort(np.argsort(-mistakes, kind="stable")[:MOST_CLASSES])
    matrix = matrix[np.ix_(shown, shown)]
    names, count = [short(result.classes[i]) for i in shown], len(shown)
    side = max(3.6, min(11.0, 2.2 + 0.34 * count))
    with drawing(path, side + 0.6, side) as figure:
        axes = figure.subplots()
        shares = matrix / np.maximum(matrix.sum(1, keepdims=True), 1)
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        size, fonts = 9 if count <= 15 else 7, families(names)
        axes.set_xticks(range(count), names, rotation=90 if count > 4 else 0, size=size, family=fonts)
        axes.set_yticks(range(count), names, size=size, family=fonts)
        if count <= NUMBERED:
            for row, column in zip(*np.nonzero(matrix), strict=True):
                colour = "white" if shares[row, column] > 0.5 else "black"
                axes.text(column, row, matrix[row, column], ha="center", va="center", color=colour, size=size)
        axes.set_xlabel("predicted")
        axes.set_ylabel("true")


def draw_map(result: Result, places: Array, path: Path) -> None:
    """Draws where each image (N, 2) lies among the others, coloured by its class; mistakes have a ring."""
    labels, count = result.predictions.labels.numpy(), len(result.classes)
    with drawing(path, 7, 5) as figure:
        axes = figure.subplots()
        colours = matplotlib.colormaps["turbo"]((labels + 0.5) / count)
        axes.scatter(places[:, 0], places[:, 1], c=colours, s=14, linewidths=0)
        wrong = ~result.correct.numpy()
        axes.scatter(places[wrong, 0], places[wrong, 1], s=60, facecolors="none", edgecolors=RED, linewidths=1)
        axes.margins(0.12)
        names = [short(name) for name in result.classes]
        texts: list[Text] = []
        fonts = families(names)
        for label in np.unique(labels) if count <= NAMED else ():
            own = labels == label
            x, y = np.median(places[own], axis=0)
            box = {"boxstyle": "round,pad=0.2", "fc": "white", "ec": colours[own][0], "alpha": 0.8}
            texts.append(axes.text(x, y, names[label], ha="center", va="center", size=8, family=fonts, bbox=box))
        axes.set_xlabel("first principal component")
        axes.set_ylabel("second principal component")
        axes.set_xticks([])
        axes.set_yticks([])
        tidy(axes)
        push_apart(texts)


def draw_learning_curve(curve: LearningCurve, classes: tuple[str, ...], path: Path) -> None:
    """Draws the accuracy by images per class, its forecast, and the recall of the worst classes."""
    with drawing(path, 7, 3.8) as figure:
        axes = figure.subplots()
        means, spread = np.array(curve.accuracies), np.array(curve.spreads)
        axes.fill_between(curve.counts, means - spread, means + spread, color=BLUE, alpha=0.2, linewidth=0)
        axes.plot(curve.counts, means, color=BLUE, marker="o", label="all classes (band: ± one standard deviation)")
        worst = [label for label in curve.worst_classes(2) if len(classes) > 2]
        for label, colour in zip(worst, (RED, GREEN), strict=False):
            name = short(classes[label])
            axes.plot(curve.counts, curve.recall(label), color=colour, linewidth=1, marker=".", label=f"only {name}")
        value, low, high = curve.forecast
        end = 2 * curve.counts[-1]
        axes.plot([curve.counts[-1], end], [means[-1], value], color=BLUE, linestyle=":")
        errors = [[value - low], [high - value]]
        axes.errorbar([end], [value], yerr=errors, color=BLUE, marker="o", mfc="white", capsize=4, label="forecast")
        axes.set_xscale("log")
        axes.set_xticks([*curve.counts, end], [f"{count:.3g}" for count in (*curve.counts, end)])
        axes.minorticks_off()
        axes.set_xlabel("training images per class")
        axes.set_ylabel("accuracy")
        axes.legend(prop={"family": families(map(short, classes)), "size": 9})
        tidy(axes)


def draw_reliability(result: Result, path: Path) -> None:
    """Draws the share of correct predictions by probability, before and after temperature scaling."""
    with drawing(path, 4.6, 4.2) as figure:
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, linestyle="--", linewidth=1, label="as it should be")
        parts = (("before scaling", result.uncalibrated, ORANGE), ("after scaling", result.calibrated, BLUE))
        for name, calibration, colour in parts:
            means, shares, counts = (np.array(column) for column in zip(*calibration.bins, strict=True))
            axes.plot(means, shares, color=colour, linewidth=1, label=name)
            # The area of a dot is proportional to its images.
            axes.scatter(means, shares, s=12 + 160 * counts / counts.sum(), color=colour, alpha=0.75, linewidths=0)
        axes.set_xlim(0, 1.02)
        axes.set_ylim(0, 1.02)
        axes.set_xlabel("probability of the predicted class")
        axes.set_ylabel("share that is correct")
        axes.yaxis.set_major_locator(MaxNLocator(5))
        axes.legend()
        tidy(axes)


def draw_curves(rows: list[Row], best_epoch: int, path: Path) -> None:
    """Draws loss and accuracy by epoch for train and valid.

    The best epoch is marked, and those in which stages of the backbone were unfrozen.
    """
    with drawing(path, 10, 4) as figure:
        for axes, metric in zip(figure.subplots(1, len(CURVES)), CURVES, strict=True):
            _draw(axes, rows, best_epoch, metric)


def _draw(axes: Axes, rows: list[Row], best_epoch: int, metric: str) -> None:
    for split, colour in (("train", GREY), ("valid", BLUE)):
        key = f"{split}/{metric}"
        points = [(row["epoch"], row[key]) for row in rows if key in row]
        axes.plot(*zip(*points, strict=True), color=colour, marker=".", label=split) if points else None
    best = next((row for row in rows if row["epoch"] == best_epoch and f"valid/{metric}" in row), None)
    axes.axvline(best_epoch, color=RED, linestyle=":", linewidth=1)
    if best is not None:
        value = best[f"valid/{metric}"]
        label = f"best epoch {best_epoch}: {value:.3f}"
        axes.plot(best_epoch, value, "o", color=RED, label=label)
    _mark_unfreezing(axes, rows)
    axes.set_xlabel("epoch")
    axes.set_title(METRICS[metric].label)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.legend()
    tidy(axes)


def _mark_unfreezing(axes: Axes, rows: list[Row]) -> None:
    """Draws a thin labelled line in each epoch that unfroze stages."""
    before = 0.0
    for row in rows:
        now = row.get(UNFROZEN, 0.0)
        if now > before:
            axes.axvline(row["epoch"], color=GREEN, linestyle="--", linewidth=0.8)
            text = f"{now:.0f} stage{'s' if now > 1 else ''} unfrozen"
            # Along the line, within the axes whatever their limits.
            place = axes.get_xaxis_transform()
            axes.text(row["epoch"], 0.02, text, transform=place, rotation=90, size=7, ha="right", va="bottom")
        before = now
