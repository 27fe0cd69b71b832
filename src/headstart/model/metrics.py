"""Metrics that are accumulated without ever asking the device for a number."""

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection
from torchmetrics.classification import MulticlassAccuracy


class MacroF1(Metric):
    """The mean of the classes' F1; a class that neither occurs nor is predicted does not count.

    torchmetrics' own gives the same, but counts by `bincount`, for which a GPU has to be waited for at each step.
    """

    full_state_update = False
    mentions: Tensor
    hits: Tensor

    def __init__(self, classes: int) -> None:
        super().__init__()
        # Of each class: how often it occurs or is predicted, and how often both.
        self.add_state("mentions", torch.zeros(classes), dist_reduce_fx="sum")
        self.add_state("hits", torch.zeros(classes), dist_reduce_fx="sum")

    def update(self, log_probs: Tensor, labels: Tensor) -> None:
        """Adds log-probabilities (N, classes) and their labels (N)."""
        found = log_probs.argmax(1)
        ones = torch.ones_like(labels, dtype=self.hits.dtype)
        self.mentions.scatter_add_(0, labels, ones).scatter_add_(0, found, ones)
        self.hits.scatter_add_(0, labels, (found == labels).to(ones.dtype))

    def compute(self) -> Tensor:
        return (2 * self.hits / self.mentions.clamp(min=1)).sum() / (self.mentions > 0).sum()


def build_metrics(classes: int, prefix: str) -> MetricCollection:
    """Accuracy over all examples and macro F1, named `prefix` + "acc" and "f1"."""
    # validate_args would look at the values on the host.
    accuracy = MulticlassAccuracy(classes, average="micro", validate_args=False)
    return MetricCollection({"acc": accuracy, "f1": MacroF1(classes)}, prefix=prefix, compute_groups=False)
