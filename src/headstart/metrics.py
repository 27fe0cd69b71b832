"""Every metric of a split: how it is computed from log-probabilities, which direction is better, and its label.

To add a metric, add an entry to METRICS: training, early stopping, checkpoints, the leaderboard and the curves read it.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    # The command line reads the names; importing torch would take it a second.
    from torch import Tensor

Direction = Literal["min", "max"]
# One epoch in a history: its number ("epoch", counted from 1), "lr", UNFROZEN if the backbone is trained too, metrics.
Row = dict[str, float]
UNFROZEN = "unfrozen_stages"
# A p-value below this is called more than chance.
SIGNIFICANT = 0.05


def _loss(log_probs: "Tensor", labels: "Tensor") -> "Tensor":
    from torch.nn.functional import nll_loss

    return nll_loss(log_probs.double(), labels)


def _accuracy(log_probs: "Tensor", labels: "Tensor") -> "Tensor":
    return (log_probs.argmax(1) == labels).float().mean()


def _macro_f1(log_probs: "Tensor", labels: "Tensor") -> "Tensor":
    """Averaged over the classes that occur or are predicted."""
    from torchmetrics.functional.classification import multiclass_f1_score

    classes = log_probs.shape[1]
    score = multiclass_f1_score(log_probs, labels, num_classes=classes, average="macro", validate_args=False)
    # A sum of rounded terms may exceed 1.
    return score.clamp(max=1)


@dataclass(frozen=True)
class Metric:
    """A metric; `function` maps log-probabilities (N, classes) and labels (N) to a scalar."""

    function: Callable[["Tensor", "Tensor"], "Tensor"]
    direction: Direction
    label: str


METRICS = {
    "loss": Metric(_loss, "min", "loss"),
    "acc": Metric(_accuracy, "max", "accuracy"),
    "f1": Metric(_macro_f1, "max", "macro F1"),
}


def compute_metrics(log_probs: "Tensor", labels: "Tensor", split: str) -> dict[str, float]:
    """Returns every metric by its full name, such as "valid/loss", of log-probabilities (N, classes) and labels (N)."""
    return {f"{split}/{name}": float(metric.function(log_probs, labels)) for name, metric in METRICS.items()}


def full_names(*splits: str) -> tuple[str, ...]:
    """Returns "train/loss", "train/acc", … of each of `splits`."""
    return tuple(f"{split}/{name}" for split in splits for name in METRICS)


def metric_of(name: str) -> Metric:
    """Returns the metric with the full name `name`, such as "valid/loss"."""
    return METRICS[name.rpartition("/")[2]]


def is_better(name: str, value: float, other: float) -> bool:
    """Whether `value` is a better value of the metric `name` than `other`; NaN never is."""
    return value < other if metric_of(name).direction == "min" else value > other


def best_row(rows: Iterable[Row], name: str) -> Row | None:
    """Returns the first row with the best value of the metric `name`; None: no row has one."""
    best, value = None, worst_value(name)
    for row in rows:
        if is_better(name, row.get(name, math.nan), value):
            best, value = row, row[name]
    return best


def worst_value(name: str) -> float:
    """Returns the value that every other value of the metric `name` is better than."""
    return math.inf if metric_of(name).direction == "min" else -math.inf
