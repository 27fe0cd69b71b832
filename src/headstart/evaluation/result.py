"""What predictions say of a classifier: accuracy with its interval, each class, confusions, calibration."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import nll_loss

from headstart.evaluation.predictions import Predictions

BINS = 15
TOP_K = (3, 5)


@dataclass(frozen=True)
class Calibration:
    """Whether probabilities can be believed: of the images predicted with 80 %, are 80 % right?

    `bins` are (mean probability, share of correct predictions, images) of each occupied bin of equal width. `ece` is
    the expected calibration error: the mean distance of the two, weighted by images (Naeini et al. 2015).
    """

    log_loss: float
    ece: float
    bins: tuple[tuple[float, float, int], ...]


def calibration(log_probs: Tensor, labels: Tensor) -> Calibration:
    """Returns the calibration of log-probabilities (N, classes) for `labels` (N)."""
    top, predicted = log_probs.double().exp().max(1)
    right, confidence = (predicted == labels).numpy(), top.clamp(max=1).numpy()
    # Bins are closed on the right, as in the paper; torchmetrics' are closed on the left.
    places = np.clip(np.ceil(confidence * BINS) - 1, 0, BINS - 1).astype(int)
    bins = []
    for inside in (places == place for place in np.unique(places)):
        bins.append((float(confidence[inside].mean()), float(right[inside].mean()), int(inside.sum())))
    ece = sum(abs(mean - share) * count for mean, share, count in bins) / len(labels)
    return Calibration(float(nll_loss(log_probs.double(), labels)), float(ece), tuple(bins))


@dataclass(frozen=True)
class ClassScore:
    """Scores of one class, which has `support` images. NaN: it has none, or was never predicted."""

    name: str
    precision: float
    recall: float
    f1: float
    support: int


@dataclass(frozen=True)
class Confusion:
    """`count` images of the class `true` were taken for `predicted`; `example` is the index of the most confident."""

    true: str
    predicted: str
    count: int
    example: int


@dataclass(frozen=True)
class Result:
    """How good `predictions` of the split `split` are."""

    split: str
    classes: tuple[str, ...]
    predictions: Predictions

    @cached_property
    def predicted(self) -> Tensor:
        """The predicted classes (N)."""
        return self.predictions.log_probs.argmax(1)

    @cached_property
    def correct(self) -> Tensor:
        """Whether (N) each prediction is right."""
        return self.predicted == self.predictions.labels

    @cached_property
    def confidence(self) -> Tensor:
        """The calibrated probability (N) of each prediction."""
        return self.predictions.calibrated.exp().amax(1)

    @property
    def accuracy(self) -> float:
        return float(self.correct.double().mean())

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the accuracy."""
        return self.predictions.interval

    @cached_property
    def confusion(self) -> Tensor:
        """How many images (classes, classes) of each true class, in rows, were predicted as each class, in columns."""
        count = len(self.classes)
        cells = self.predictions.labels * count + self.predicted
        return torch.bincount(cells, minlength=count**2).view(count, count)

    @cached_property
    def per_class(self) -> tuple[ClassScore, ...]:
        """The scores of each class, in the order of the classes."""
        hits, predicted, actual = self.confusion.diagonal(), self.confusion.sum(0), self.confusion.sum(1)
        columns = (hits / predicted, hits / actual, 2 * hits / (predicted + actual), actual)
        rows = zip(self.classes, *(column.tolist() for column in columns), strict=True)
        return tuple(ClassScore(*row) for row in rows)

    @property
    def balanced_accuracy(self) -> float:
        """The mean recall of the classes that have images."""
        return float(torch.tensor([score.recall for score in self.per_class]).nanmean())

    @property
    def macro_f1(self) -> float:
        return self.predictions.metrics(self.split)[f"{self.split}/f1"]

    @property
    def top_k(self) -> dict[int, float]:
        """How often the true class is among the k most probable, for k below the number of classes."""
        ranks = self.predictions.true_ranks()
        return {k: float((ranks <= k).double().mean()) for k in TOP_K if k < len(self.classes)}

    @property
    def unusual(self) -> tuple[int, ...]:
        """The indices of the images that are unusual, the least familiar first."""
        scores = self.predictions.familiarity
        if scores is None:
            return ()
        order: list[int] = scores.argsort(stable=True).tolist()
        return tuple(index for index in order if scores[index] < self.predictions.threshold)

    @cached_property
    def mistakes(self) -> tuple[int, ...]:
        """The indices of the wrong predictions, the most confident first."""
        order = self.confidence.argsort(descending=True, stable=True).tolist()
        return tuple(index for index in order if not self.correct[index])

    @cached_property
    def confusions(self) -> tuple[Confusion, ...]:
        """Pairs of classes, the most often confused first."""
        examples: dict[tuple[int, int], int] = {}
        for index in self.mistakes:
            examples.setdefault((int(self.predictions.labels[index]), int(self.predicted[index])), index)
        counts = {pair: int(self.confusion[pair]) for pair in examples}
        ranked = sorted(examples, key=lambda pair: (-counts[pair], pair))
        return tuple(Confusion(self.classes[t], self.classes[p], counts[t, p], examples[t, p]) for t, p in ranked)

    @property
    def uncalibrated(self) -> Calibration:
        """The calibration of the probabilities as the head gives them."""
        return calibration(self.predictions.log_probs, self.predictions.labels)

    @property
    def calibrated(self) -> Calibration:
        """The calibration of the probabilities after temperature scaling, which predict.py gives."""
        return calibration(self.predictions.calibrated, self.predictions.labels)
