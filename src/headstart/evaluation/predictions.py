"""Predictions of a split: each image once, in order, from one view or several, and what they say of a classifier.

That is its accuracy with an interval, paired tests, the scores of each class, confusions and calibration.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import nll_loss
from torch.utils.data import DataLoader

from headstart.data.manifest import Split
from headstart.data.preprocessing import Array
from headstart.features.source import FeatureSource
from headstart.files import write_csv
from headstart.log import is_first_process, log
from headstart.metrics import compute_metrics
from headstart.model.closed_form import scale
from headstart.model.image_classifier import ImageClassifier
from headstart.processes import interleaved
from headstart.run_folder import RunFolder
from headstart.text import counted

COMPARED = ("valid/loss", "valid/acc")
BINS = 15
TOP_K = (3, 5)


def wilson_interval(correct: Array, units: Array | None = None) -> tuple[float, float]:
    """Returns the 95 % confidence interval of the share of `correct` (N) (Wilson 1927); (0, 1) for no samples.

    Images of the same of `units` (N) depend on each other: the interval is that of as many independent images as give
    the variance that the units show (the design effect; Kish 1965). It begins at exactly 0 if none is correct, and ends
    at exactly 1 if all are.
    """
    if len(correct) == 0:
        return 0.0, 1.0
    share, count = float(correct.mean()), len(correct) / design_effect(correct, units)
    z = 1.959963984540054
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return (0.0 if share == 0 else middle - half), (1.0 if share == 1 else middle + half)


def design_effect(values: Array, units: Array | None) -> float:
    """Returns how many times larger the variance of the mean of `values` (N) is than if images were independent."""
    variance = float(np.var(values)) / len(values)
    if units is None or variance == 0 or (count := len(np.unique(units))) in (1, len(units)):
        return 1.0
    residuals = np.bincount(np.unique(units, return_inverse=True)[1], weights=values - values.mean())
    return max(1.0, float((residuals**2).sum()) / len(values) ** 2 * count / (count - 1) / variance)


def mcnemar(first: Array, second: Array, units: Array | None = None) -> float:
    """Returns the two-sided p-value that two classifiers are equally often right.

    `first` and `second` (N) say for the same samples whether each classifier is right. It is the exact McNemar test. Of
    images that depend on each other, those of the same of `units` (N), only which classifier is right more often
    counts, so that a unit is one observation (a sign test).
    """
    # Imported here because it takes half a second, which predicting need not wait for.
    from scipy.stats import binomtest  # type: ignore[import-untyped]

    differences = first.astype(int) - second.astype(int)
    if units is not None:
        differences = np.sign(np.bincount(np.unique(units, return_inverse=True)[1], weights=differences))
    discordant = int((differences != 0).sum())
    return float(binomtest(int((differences > 0).sum()), discordant).pvalue) if discordant else 1.0


def holm(p_values: Sequence[float]) -> list[float]:
    """Returns p-values corrected for being several (Holm 1979): with them, any of all is wrong as rarely as one was."""
    adjusted, highest = [1.0] * len(p_values), 0.0
    for place, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = adjusted[index] = max(highest, min(1.0, (len(p_values) - place) * p_values[index]))
    return adjusted


@dataclass(frozen=True)
class Predictions:
    """Predictions of a whole split, from which every metric and figure of it is computed.

    Of N samples, in the order of the split: `paths` relative to the data's root, `labels` (N), `log_probs`
    (N, classes) as the head gives them, and the `temperature` at which they are calibrated. `familiarity` (N) is the
    score of headstart.model.image_classifier, `threshold` that below which an image is unusual; -inf: it is not known.
    `units` (N) are equal for images that depend on each other; None: all are independent. `uncorrected` (N) are the
    labels before corrections; None: they are the same.
    """

    paths: tuple[str, ...]
    labels: Tensor
    log_probs: Tensor
    temperature: float = 1.0
    familiarity: Tensor | None = None
    threshold: float = -math.inf
    units: Array | None = None
    uncorrected: Tensor | None = None

    @property
    def correct(self) -> Array:
        """Whether (N) each prediction is right."""
        return (self.log_probs.argmax(1) == self.labels).numpy()

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % confidence interval of the accuracy."""
        return wilson_interval(self.correct, self.units)

    @property
    def calibrated(self) -> Tensor:
        """Log-probabilities (N, classes) at the temperature, which predict.py gives, too."""
        return scale(self.log_probs, self.temperature)

    def metrics(self, split: str) -> dict[str, float]:
        """Returns every metric by its full name, such as "test/acc"."""
        before = self.uncorrected_accuracy
        others = {} if before is None else {f"{split}/acc_uncorrected": before}
        return compute_metrics(self.log_probs, self.labels, split) | others

    @property
    def uncorrected_accuracy(self) -> float | None:
        """The accuracy with the labels before corrections, of the same images; None: no label was corrected."""
        if self.uncorrected is None:
            return None
        return float((self.log_probs.argmax(1) == self.uncorrected).double().mean())

    def summary(self, split: str) -> str:
        """Returns "test: accuracy 0.976 (95 % interval 0.944 to 0.990), loss 0.0802, 205 images"."""
        correct, count, (low, high) = int(self.correct.sum()), len(self.labels), self.interval
        loss, before = self.metrics(split)[f"{split}/loss"], self.uncorrected_accuracy
        uncorrected = "" if before is None else f"; {before:.3f} with the labels before corrections"
        return (
            f"{split}: accuracy {correct / count:.3f} (95 % interval {low:.3f} to {high:.3f}), loss {loss:.4f}, "
            f"{counted(count, 'image')}{uncorrected}"
        )

    def true_ranks(self) -> Tensor:
        """Returns the rank (N) of the true class by probability; 1 is the prediction."""
        # Stable, so that of two equal classes the first is the prediction, as argmax has it.
        by_rank = self.log_probs.argsort(dim=1, descending=True, stable=True)
        return (by_rank == self.labels[:, None]).int().argmax(1) + 1

    def write(self, path: Path, classes: tuple[str, ...]) -> None:
        """Writes a CSV with one row per sample: path, label, prediction, its probability, and the true class's rank.

        Where samples depend on each other, the column "unit" has the same number for these.
        """
        predicted, confidence = self.log_probs.argmax(1), self.calibrated.amax(1).exp()
        columns = (self.labels.tolist(), predicted.tolist(), confidence.tolist(), self.true_ranks().tolist())
        rows = (
            (name, classes[label], classes[prediction], f"{probability:.6g}", rank)
            for name, label, prediction, probability, rank in zip(self.paths, *columns, strict=True)
        )
        header = "path", "label", "prediction", "probability", "rank of true class"
        if self.units is None or len(np.unique(self.units)) == len(self.units):
            write_csv(path, header, rows)
        else:
            write_csv(path, (*header, "unit"), ((*row, unit) for row, unit in zip(rows, self.units, strict=True)))


def mean_of(predictions: Sequence[Predictions]) -> Predictions:
    """Returns the mean of the calibrated probabilities of the same samples, with the familiarity of the first."""
    log_probs = torch.stack([of.calibrated for of in predictions]).logsumexp(0) - math.log(len(predictions))
    # The logarithm of the mean of seven times 1 is rounded to more than 0.
    return replace(predictions[0], log_probs=log_probs.clamp(max=0), temperature=1.0)


@torch.no_grad()
def predict_split(classifier: ImageClassifier, loader: DataLoader[Any]) -> Predictions:
    """Predicts each sample of a split once, in order: `loader` has those of this process, its dataset the `split`."""
    classifier.eval()
    log_probs, scores = [], []
    for batch, _ in loader:
        features = classifier.embed(batch.to(classifier.encoder.device))
        log_probs.append(classifier(features).cpu())
        scores.append(classifier.familiarity(features).cpu())
    split: Split = loader.dataset.split  # type: ignore[attr-defined]
    temperature, threshold = float(classifier.temperature), float(classifier.familiarity.threshold)
    of_all, familiarity = (interleaved(torch.cat(parts))[: len(split)] for parts in (log_probs, scores))
    labels, before = torch.tensor(split.labels), torch.tensor(split.uncorrected)
    uncorrected = None if torch.equal(labels, before) else before
    return Predictions(split.paths, labels, of_all, temperature, familiarity, threshold, uncorrected=uncorrected)


def predict_splits(classifier: ImageClassifier, source: FeatureSource, splits: Sequence[str]) -> dict[str, Predictions]:
    """Returns the predictions of those of `splits` that `source` has."""
    present = [split for split in splits if split in source.manifest.splits]
    units = source.manifest.units
    return {of: replace(predict_split(classifier, source.eval_loader(of)), units=units[of]) for of in present}


def write_predictions(predictions: dict[str, Predictions], classes: tuple[str, ...], run: RunFolder) -> None:
    """Writes the predictions of each split into the run's folder."""
    if is_first_process():
        for split, path in (("valid", run.valid_predictions), ("test", run.test_predictions)):
            if split in predictions:
                predictions[split].write(path, classes)


# Averaging over views of each image.


@dataclass(frozen=True)
class Averaging:
    """How the mean over `views` views of each valid image compares with one view, both of calibrated probabilities."""

    views: int
    one_view: dict[str, float]
    mean: dict[str, float]

    @property
    def helps(self) -> bool:
        """Whether the mean has the lower loss."""
        return self.mean["valid/loss"] < self.one_view["valid/loss"]

    @property
    def used(self) -> int:
        """The number of views that is best."""
        return self.views if self.helps else 1

    def metrics(self) -> dict[str, float]:
        """Returns what metrics.json says about it."""
        compared = (("one_view", self.one_view), ("mean_of_views", self.mean))
        values = {f"{kind}/{name}": of[name] for kind, of in compared for name in COMPARED}
        return {"views": self.views, "views_used": self.used} | values

    def describe(self) -> str:
        """Returns one sentence."""
        loss, accuracy = (f"{self.one_view[name]:.4f} to {self.mean[name]:.4f}" for name in COMPARED)
        change = "lowers" if self.helps else "does not lower"
        return (
            f"The mean over {self.views} views of each image {change} the loss on the valid split ({loss}; accuracy "
            f"{accuracy}), so it is {'used' if self.helps else 'not used'}."
        )


def predict_views(
    classifier: ImageClassifier, source: FeatureSource, splits: Sequence[str], views: int
) -> tuple[dict[str, Predictions], Averaging | None]:
    """Predicts those of `splits` that `source` has: the mean over `views` views of each image, if that helps.

    Whether it does is decided on the valid split, which is one of `splits`; with one view there is nothing to decide.
    """
    plain = predict_splits(classifier, source, splits)
    if views == 1:
        return plain, None

    def mean(split: str) -> Predictions:
        others = (predict_split(classifier, source.eval_loader(split, view)) for view in range(1, views))
        return mean_of([plain[split], *others])

    valid = mean("valid")
    one_view, of_mean = (compute_metrics(of.calibrated, of.labels, "valid") for of in (plain["valid"], valid))
    averaging = Averaging(views, one_view, of_mean)
    log.info("%s", averaging.describe())
    if not averaging.helps:
        return plain, averaging
    return {split: valid if split == "valid" else mean(split) for split in plain}, averaging


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
