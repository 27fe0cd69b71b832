"""The curves of a training."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from headstart.metrics import METRICS, UNFROZEN, Row
from headstart.report.style import BLUE, GREEN, GREY, RED, drawing, tidy

COLOURS = {"train": GREY, "valid": BLUE}
CURVES = ("loss", "acc")


def draw_curves(rows: list[Row], best_epoch: int, path: Path) -> None:
    """Writes a PNG of loss and accuracy by epoch for train and valid.

    The best epoch is marked, and those in which stages of the backbone were unfrozen.
    """
    with drawing(path, 10, 4) as figure:
        for axes, metric in zip(figure.subplots(1, len(CURVES)), CURVES, strict=True):
            _draw(axes, rows, best_epoch, metric)


def _draw(axes: Axes, rows: list[Row], best_epoch: int, metric: str) -> None:
    for split, colour in COLOURS.items():
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
    """A thin labelled line in each epoch that unfroze stages."""
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
