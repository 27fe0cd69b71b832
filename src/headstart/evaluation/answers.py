"""What stored features say beside the trained head: baselines, label issues, and whether more images would help."""

from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from headstart.config.model import CLOSED_FORM
from headstart.data.manifest import Manifest
from headstart.data.workers import thread_map
from headstart.evaluation.label_issues import LabelIssues, find_label_issues
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.probes import (
    HEADS,
    RIDGE,
    Array,
    Baseline,
    Labelled,
    fit_baselines,
    nearest_images,
    predicted,
    project,
    ridges,
)
from headstart.evaluation.result import Result
from headstart.evaluation.statistics import mcnemar, wilson_interval
from headstart.model.image_classifier import ImageClassifier, setting_of

# Would more images help? Accuracy by the number of training images per class, and where the curve leads.


COUNTS = (2, 5, 10, 20, 35, 50, 75, 100, 150, 200, 300, 500)
REPEATS = 5
RESAMPLES = 200
# Errors fall as `floor + height × n ** -decay`.
DECAYS = np.linspace(0.1, 2.0, 39)
# The value at twice the largest count, and the ends of its interval.
Forecast = tuple[float, float, float]
SMALL = 3  # points from which a curve can be extrapolated


@dataclass(frozen=True)
class LearningCurve:
    """Accuracies of ridge regression trained on `counts` images per class, in several random draws.

    `accuracies` (counts, draws); `recalls` (counts, draws, classes), NaN for classes not scored. `forecast` is the
    accuracy with twice the images, with its 90 % interval; None: there are too few points.
    """

    counts: tuple[int, ...]
    accuracies: Array
    recalls: Array
    seed: int

    @cached_property
    def forecast(self) -> Forecast | None:
        return _forecast(np.array(self.counts), self.accuracies, self.seed)

    def forecast_of(self, label: int) -> Forecast | None:
        """The same of the recall of one class."""
        return _forecast(np.array(self.counts), self.recalls[:, :, label], self.seed)

    def recall(self, label: int) -> list[float]:
        """The mean recall of one class for each of `counts`."""
        return [float(value) for value in self.recalls[:, :, label].mean(1)]

    def worst_classes(self, count: int) -> list[int]:
        """The classes with the lowest recall, the lowest first."""
        last = self.recalls[-1].mean(0)
        return [int(i) for i in np.argsort(last, kind="stable")[:count] if not np.isnan(last[i])]


def learning_curve(train: Labelled, scored: Labelled, penalty: float, seed: int) -> LearningCurve | None:
    """Trains on growing random subsets of `train`, the same number of images of each class, and tests on `scored`.

    None: the smallest class has too few images for two points.
    """
    smallest = int(np.bincount(train.labels, minlength=train.classes).min())
    counts = tuple(sorted({count for count in COUNTS if count < smallest} | {smallest} - {0, 1}))
    if len(counts) < 2:
        return None
    generator = np.random.default_rng(seed)
    orders = [generator.permutation(len(train)) for _ in range(REPEATS)]
    right = np.stack(thread_map(partial(_draw, train, scored, counts, penalty), orders), axis=1)
    present = np.bincount(scored.labels, minlength=train.classes)
    totals = right @ scored.targets
    recalls = np.divide(totals, present, out=np.full(totals.shape, np.nan), where=present > 0)
    return LearningCurve(counts, right.mean(2), recalls, seed)


def _draw(train: Labelled, scored: Labelled, counts: tuple[int, ...], penalty: float, order: Array) -> Array:
    """Whether (counts, N) each scored image is classified correctly, by nested subsets in this `order`."""
    # The rank of each image within its class, in this order.
    ranks = np.empty(len(train), int)
    for label in range(train.classes):
        own = order[train.labels[order] == label]
        ranks[own] = np.arange(len(own))
    probes = (ridges(train[np.flatnonzero(ranks < count)], (penalty,)) for count in counts)
    return np.stack([predicted(of_count, scored.features)[penalty] == scored.labels for of_count in probes])


def _forecast(counts: Array, accuracies: Array, seed: int) -> Forecast | None:
    """The accuracy at twice the largest count, and its 90 % interval by resampling the draws."""
    if len(counts) < SMALL:
        return None
    generator, draws = np.random.default_rng(seed), accuracies.shape[1]
    resampled = np.stack([accuracies[:, generator.integers(0, draws, draws)].mean(1) for _ in range(RESAMPLES)])
    middle, *values = _extrapolate(counts, 1 - np.concatenate([accuracies.mean(1)[None], resampled]))
    low, high = np.quantile(values, (0.05, 0.95))
    return 1 - float(middle), 1 - float(max(high, middle)), 1 - float(min(low, middle))


def _extrapolate(counts: Array, errors: Array) -> Array:
    """The errors (R) at twice the largest count, by the power laws that fit R curves (R, counts) best.

    Never above a curve's last error. Points weigh as much as their counts, because the end of the curve says most
    about where it leads.
    """
    powers = counts ** -DECAYS[:, None]
    # Weighted least squares in closed form, for each curve (rows) and each decay (columns).
    total, weighted = counts.sum(), powers * counts
    first, second = weighted.sum(1), (weighted * powers).sum(1)
    error, product = (errors * counts).sum(1)[:, None], errors @ weighted.T
    height = (total * product - first * error) / (total * second - first**2)
    floor = (error - height * first) / total
    height = np.where(floor < 0, product / second, height)
    floor = np.maximum(floor, 0)
    residuals = floor[..., None] + height[..., None] * powers - errors[:, None]
    best = (counts * residuals**2).sum(2).argmin(1)
    rows = np.arange(len(errors))
    found = floor[rows, best] + height[rows, best] * (2.0 * counts[-1]) ** -DECAYS[best]
    ends: Array = np.clip(found, 0, errors[:, -1])
    return ends


# What a report tells about a trained classifier and its data, computed from predictions and stored features.


NEIGHBOURS, MOST_MISTAKES = 3, 100
# Training images that baselines and the learning curve use; more would take minutes, and much memory.
MOST_TRAINED = 20_000


@dataclass(frozen=True)
class Head:
    """The head in question: the value of `model.head`, what it chose, if anything, in words, and how good it is."""

    kind: str
    setting: str
    valid_accuracy: float


@dataclass(frozen=True)
class Comparison:
    """A baseline on the images that the head was scored on; `p_value` is that both are equally often right."""

    name: str
    setting: str
    valid_accuracy: float
    accuracy: float
    interval: tuple[float, float]
    p_value: float


@dataclass(frozen=True)
class FromFeatures:
    """What takes features. `baselines` are without the one that `head` is itself.

    `issues` are of all images in turn: `paths` (N), `splits` (N), `labels` (N).
    `neighbours` are the paths of the training images most similar to the most confident mistakes. `features` (N, d)
    are of the scored split, and `places` (N, 2) is where its images are on a map.
    """

    head: Head
    baselines: tuple[Comparison, ...]
    curve: LearningCurve | None
    issues: LabelIssues
    paths: tuple[str, ...]
    splits: tuple[str, ...]
    labels: Array
    neighbours: dict[int, tuple[str, ...]]
    features: Array
    places: Array

    def best_baseline(self) -> Comparison:
        """The one with the highest accuracy on the valid split."""
        return max(self.baselines, key=lambda baseline: baseline.valid_accuracy)

    def better_baseline(self) -> Comparison | None:
        """That one, if it is better on the valid split than the head."""
        best = self.best_baseline()
        return best if best.valid_accuracy > self.head.valid_accuracy else None


def score(manifest: Manifest, predictions: dict[str, Predictions]) -> Result:
    """The result on the test split or, without one, on the valid split."""
    split = "test" if "test" in predictions else "valid"
    return Result(split, manifest.classes, predictions[split])


def describe_head(classifier: ImageClassifier, valid: Predictions) -> Head:
    """`valid` are the predictions of the valid split."""
    kind, correct = classifier.recipe.head, valid.log_probs.argmax(1) == valid.labels
    return Head(kind, setting_of(classifier.head), float(correct.double().mean()))


def ask_features(manifest: Manifest, features: dict[str, Array], result: Result, head: Head, seed: int) -> FromFeatures:
    """`features` (N, d) of each split are unaugmented, in the order of its samples."""
    stored = {
        name: Labelled(features[name], np.asarray(split.labels), len(manifest.classes))
        for name, split in manifest.splits.items()
    }
    train, scored = _at_most(stored["train"], MOST_TRAINED, seed), stored[result.split]
    baselines = fit_baselines(train, stored["valid"], scored.features)
    (penalty,) = (of.value for of in baselines if of.name == RIDGE)
    names = [(path, name) for name, split in manifest.splits.items() for path in split.paths]
    return FromFeatures(
        head,
        tuple(_compare(baseline, result, scored) for baseline in baselines if not _is_same(baseline, head)),
        learning_curve(train, scored, penalty, seed),
        find_label_issues(list(stored.values()), penalty, seed),
        tuple(path for path, _ in names),
        tuple(name for _, name in names),
        np.concatenate([of.labels for of in stored.values()]),
        _neighbours(manifest, stored["train"], scored, result),
        scored.features,
        project(scored.features, train.features),
    )


def _at_most(data: Labelled, count: int, seed: int) -> Labelled:
    """`data`, or a random part of it, in memory."""
    if len(data) > count:
        data = data[np.sort(np.random.default_rng(seed).permutation(len(data))[:count])]
    return Labelled(np.asarray(data.features, np.float32), data.labels, data.classes)


def _is_same(baseline: Baseline, head: Head) -> bool:
    """Whether they differ in nothing but the choice of their setting. A linear head is trained in its own way."""
    return head.kind in CLOSED_FORM and HEADS.get(baseline.name) == head.kind


def _compare(baseline: Baseline, result: Result, scored: Labelled) -> Comparison:
    correct = baseline.correct(scored.labels)
    interval = wilson_interval(int(correct.sum()), len(correct))
    p_value = mcnemar(result.correct.numpy(), correct)
    found = baseline.valid_accuracy, float(correct.mean())
    return Comparison(baseline.name, baseline.setting, *found, interval, p_value)


def _neighbours(manifest: Manifest, train: Labelled, scored: Labelled, result: Result) -> dict[int, tuple[str, ...]]:
    mistakes = list(result.mistakes[:MOST_MISTAKES])
    if not mistakes:
        return {}
    nearest = nearest_images(train, scored.features[mistakes], NEIGHBOURS)
    paths = manifest.splits["train"].paths
    return {index: tuple(paths[i] for i in row) for index, row in zip(mistakes, nearest.tolist(), strict=True)}
