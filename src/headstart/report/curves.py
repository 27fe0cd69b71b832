"""Loss and accuracy by epoch, as one picture."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from headstart.files import replacing

COLOURS = {"train": "#7f7f7f", "valid": "#1f77b4"}


def draw_curves(rows: list[dict[str, float]], best_epoch: int, path: Path) -> None:
    """Writes a PNG of loss and accuracy for train and valid, the best epoch marked. Epochs count from 1 in it."""
    figure = Figure(figsize=(10, 4), layout="constrained")
    FigureCanvasAgg(figure)
    for axes, (metric, title) in zip(figure.subplots(1, 2), (("loss", "loss"), ("acc", "accuracy")), strict=True):
        _draw(axes, rows, best_epoch, metric, title)
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _draw(axes: Axes, rows: list[dict[str, float]], best_epoch: int, metric: str, title: str) -> None:
    for split, colour in COLOURS.items():
        key = f"{split}/{metric}"
        points = [(row["epoch"] + 1, row[key]) for row in rows if key in row]
        axes.plot(*zip(*points, strict=True), color=colour, marker=".", label=split) if points else None
    best = next((row for row in rows if row["epoch"] == best_epoch and f"valid/{metric}" in row), None)
    axes.axvline(best_epoch + 1, color="#d62728", linestyle=":", linewidth=1)
    if best is not None:
        value = best[f"valid/{metric}"]
        label = f"best epoch {best_epoch + 1}: {value:.3f}"
        axes.plot(best_epoch + 1, value, "o", color="#d62728", label=label)
    axes.set_xlabel("epoch")
    axes.set_title(title)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.grid(alpha=0.3)
    axes.legend()
