"""sweep.png: the objective of a sweep's trials against each swept key."""

import math
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from headstart.files import replacing
from headstart.metrics import metric_of
from headstart.sweep.trial_record import Trial

COLUMNS = 3
# Values that differ by this factor are shown on a logarithmic axis.
WIDE = 30
ALL, BEST = "#1f77b4", "#d62728"


def draw_sweep(trials: list[Trial], objective: str, path: Path) -> None:
    """Writes a PNG of the completed trials, with the best one (the first) marked; none if there are no such trials."""
    done = [trial for trial in trials if trial.reason is None]
    keys = list(dict.fromkeys(key for trial in done for key in trial.values))
    if not keys:
        path.unlink(missing_ok=True)
        return
    columns = min(COLUMNS, len(keys))
    rows = -(-len(keys) // columns)
    figure = Figure(figsize=(4.2 * columns, 3.4 * rows), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(rows, columns, squeeze=False)
    for axes, key in zip(grid.flat, keys, strict=False):
        _draw(axes, done, key, objective)
    for axes in list(grid.flat)[len(keys) :]:
        axes.set_axis_off()
    with replacing(path) as temporary:
        figure.savefig(temporary, format="png", dpi=120)


def _draw(axes: Axes, trials: list[Trial], key: str, objective: str) -> None:
    trials = [trial for trial in trials if key in trial.values]
    texts = [trial.values[key] for trial in trials]
    numbers = [_number(text) for text in texts]
    if all(number is not None for number in numbers):
        places = [number for number in numbers if number is not None]
        if min(places) > 0 and max(places) >= WIDE * min(places):
            axes.set_xscale("log")
    else:
        names = sorted(set(texts))
        places = [float(names.index(text)) for text in texts]
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right", parse_math=False)
    values = [trial.metrics[objective] for trial in trials]
    axes.plot(places, values, "o", color=ALL, alpha=0.6)
    axes.plot(places[0], values[0], "o", color=BEST, label=f"best: {values[0]:.4f}")
    if metric_of(objective).direction == "min" and max(values) >= WIDE * min(values) > 0:
        axes.set_yscale("log")
    axes.set_xlabel(key)
    axes.set_ylabel(objective)
    axes.grid(alpha=0.3)
    axes.legend()


def _number(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None
