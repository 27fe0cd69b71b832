"""What stored features say beside the trained head: baselines, label issues, and whether more images help."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import NamedTuple

import numpy as np

from headstart.config.model import CLOSED_FORM
from headstart.data.manifest import Manifest
from headstart.data.splits import stratified_folds
from headstart.data.workers import thread_map
from headstart.evaluation.predictions import Predictions, mcnemar, wilson_interval
from headstart.evaluation.probes import (
    HEADS,
    RIDGE,
    Array,
    Baseline,
    Labelled,
    Probe,
    fit_baselines,
    nearest_images,
    predicted,
    project,
    ridge,
    ridges,
)
from headstart.evaluation.result import Result
from headstart.model.closed_form import ROWS, strength_of
from headstart.model.image_classifier import ImageClassifier, setting_of

# Labels that a cross-validated classifier disagrees with.


# Sums over images from which a ridge regression follows.


class Moments:
    """Of images: their number, the sums of their features (d) and one-hot labels (classes), and those of products.

    Of two sets of images they add up, so that a fit to all but some need not read all the others again.
    """

    def __init__(self, width: int, classes: int) -> None:
        self.count = 0
        self.features, self.labels = np.zeros(width), np.zeros(classes)
        self.products, self.by_class = np.zeros((width, width)), np.zeros((classes, width))

    def observe(self, features: Array, labels: Array) -> None:
        """Adds images: features (N, d), labels (N)."""
        self.count += len(features)
        self.features += features.sum(0)
        self.labels += np.bincount(labels, minlength=len(self.labels))
        self.products += features.T @ features
        for label in np.unique(labels):
            self.by_class[label] += features[labels == label].sum(0)

    def add(self, other: "Moments", sign: int) -> None:
        """Adds the images of `other`, or removes them (-1)."""
        self.count += sign * other.count
        for name in ("features", "labels", "products", "by_class"):
            found = getattr(self, name)
            found += sign * getattr(other, name)

    def ridge(self, penalty: float) -> Probe:
        """That of headstart.evaluation.probes, fitted to the images."""
        mean, prior = self.features / self.count, self.labels / self.count
        gram = self.products - np.outer(self.features, mean)
        strength = strength_of(penalty, gram.trace(), min(self.count, len(gram)))
        gram[np.diag_indices_from(gram)] += strength
        weights = np.linalg.solve(gram, self.by_class.T - np.outer(self.features, prior))
        return lambda features: (features - mean) @ weights + prior


# Ridge regression's scores of each image by the fit to the images of all other folds.


class _Block(NamedTuple):
    """Images: their indices (M), features (M, d) and labels (M)."""

    rows: Array
    features: Array
    labels: Array


def scores_by_other_folds(data: Sequence[Labelled], folds: Array, penalty: float) -> Iterator[tuple[Array, Array]]:
    """Indices (M) of images and their scores (M, classes), until all have had their turn.

    `folds` (N) are those of the images of `data` in turn. Together, these may not fit into memory: they are read in
    parts.
    """
    if len(folds) < data[0].features.shape[1]:
        return _few(data, folds, penalty)
    return _many(data, folds, penalty)


def _few(data: Sequence[Labelled], folds: Array, penalty: float) -> Iterator[tuple[Array, Array]]:
    features = np.concatenate([part.features for part in data], dtype=np.float32)
    everything = Labelled(features, np.concatenate([part.labels for part in data]), data[0].classes)
    for fold in np.unique(folds):
        held_out = np.flatnonzero(folds == fold)
        yield held_out, ridge(everything[np.flatnonzero(folds != fold)], penalty)(features[held_out])


def _many(data: Sequence[Labelled], folds: Array, penalty: float) -> Iterator[tuple[Array, Array]]:
    width, classes, count = data[0].features.shape[1], data[0].classes, folds.max() + 1
    moments = [Moments(width, classes) for _ in range(count)]
    # About a point among the features: far from it, the differences below would lose digits.
    origin = data[0].features[:ROWS].mean(0, dtype=np.float64)
    for block in _blocks(data):
        observe = partial(_observe, moments, block, folds[block.rows], origin)
        thread_map(observe, np.unique(folds[block.rows]))
    everything = Moments(width, classes)
    for of_fold in moments:
        everything.add(of_fold, 1)
    probes = []
    for of_fold in moments:
        # In place, because the products of wide features take much memory.
        everything.add(of_fold, -1)
        probes.append(everything.ridge(penalty))
        everything.add(of_fold, 1)
    for block in _blocks(data):
        own = folds[block.rows]
        for fold in np.unique(own):
            yield block.rows[own == fold], probes[fold](block.features[own == fold] - origin)


def _observe(moments: list[Moments], block: _Block, folds: Array, origin: Array, fold: int) -> None:
    own = folds == fold
    moments[fold].observe(block.features[own] - origin, block.labels[own])


def _blocks(data: Sequence[Labelled]) -> Iterator[_Block]:
    """At most ROWS images at a time, and their indices."""
    start = 0
    for part in data:
        for first in range(0, len(part), ROWS):
            found = part[first : first + ROWS]
            yield _Block(start + np.arange(len(found)), found.features, found.labels)
            start += len(found)


# Images whose label is least believed by classifiers trained on the other images.


@dataclass(frozen=True)
class LabelIssues:
    """Of N images: `belief` (N) in the label, its score less the highest other one; `suggested` (N) classes.

    Below a belief of 0, another class is more probable than the label. `order` (N) has the least believed first.
    """

    belief: Array
    suggested: Array

    @property
    def order(self) -> Array:
        ranked: Array = np.argsort(self.belief, kind="stable")
        return ranked

    @property
    def count(self) -> int:
        """How many labels another class is more probable than."""
        return int((self.belief < 0).sum())


def find_label_issues(data: Sequence[Labelled], penalty: float, seed: int) -> LabelIssues:
    """Scores each image of `data`, in turn, by ridge regression on the folds that it is not in; they are stratified."""
    labels = np.concatenate([part.labels for part in data])
    belief, suggested = np.zeros(len(labels)), np.zeros(len(labels), int)
    for rows, scores in scores_by_other_folds(data, stratified_folds(labels, seed), penalty):
        places = np.arange(len(rows))
        own = scores[places, labels[rows]].copy()
        scores[places, labels[rows]] = -np.inf
        suggested[rows] = scores.argmax(1)
        belief[rows] = own - scores.max(1)
    return LabelIssues(belief, suggested)


# What stored features say beside the trained head: baselines, label issues, and whether more images would help.


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
