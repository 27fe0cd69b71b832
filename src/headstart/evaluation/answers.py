"""What stored features say beside the trained head: baselines, label issues, and whether more images would help."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

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

# Training images that baselines and the learning curve use; more would take minutes, and much memory.
MOST_TRAINED = 20_000
# Mistakes whose most similar training images are looked up, and how many of these.
MOST_MISTAKES, NEIGHBOURS = 100, 3


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
class FeatureAnalysis:
    """What features say. `baselines` are without the one that `head` is itself; `issues` are of all images in turn.

    `neighbours` are the paths of the training images most similar to the most confident mistakes, by the index of the
    mistake. `features` (N, d) are of the scored split, and `places` (N, 2) is where its images are on a map.
    """

    head: Head
    baselines: tuple[Comparison, ...]
    curve: "LearningCurve | None"
    issues: "LabelIssues"
    neighbours: Mapping[int, tuple[str, ...]]
    features: Array
    places: Array

    def best_baseline(self) -> Comparison:
        """Returns the baseline with the highest accuracy on the valid split."""
        return max(self.baselines, key=lambda baseline: baseline.valid_accuracy)

    def better_baseline(self) -> Comparison | None:
        """Returns the best baseline, if it is better on the valid split than the head."""
        best = self.best_baseline()
        return best if best.valid_accuracy > self.head.valid_accuracy else None


def analyze_features(
    classifier: ImageClassifier, manifest: Manifest, features: dict[str, Array], result: Result, valid: Predictions
) -> FeatureAnalysis:
    """Computes every answer from `features` (N, d) of each split, unaugmented and in the order of its samples.

    `result` and `valid` are what `classifier` reaches on the scored and on the valid split.
    """
    seed, correct = classifier.recipe.seed, valid.log_probs.argmax(1) == valid.labels
    head = Head(classifier.recipe.head, setting_of(classifier.head), float(correct.double().mean()))
    stored = {
        name: Labelled(features[name], np.asarray(split.labels), len(manifest.classes))
        for name, split in manifest.splits.items()
    }
    train, scored = _at_most(stored["train"], MOST_TRAINED, seed), stored[result.split]
    baselines = fit_baselines(train, stored["valid"], scored.features)
    (penalty,) = (baseline.value for baseline in baselines if baseline.name == RIDGE)
    # A closed-form head is its baseline but for the choice of a setting; a linear one is trained in its own way.
    others = [b for b in baselines if head.kind not in CLOSED_FORM or HEADS.get(b.name) != head.kind]
    return FeatureAnalysis(
        head,
        tuple(_compare(baseline, result, scored.labels) for baseline in others),
        learning_curve(train, scored, penalty, seed),
        find_label_issues(list(stored.values()), penalty, seed),
        _neighbours(manifest.splits["train"].paths, stored["train"], scored, list(result.mistakes[:MOST_MISTAKES])),
        scored.features,
        project(scored.features, train.features),
    )


def _at_most(data: Labelled, count: int, seed: int) -> Labelled:
    """Returns `data`, or a random part of it, in memory."""
    if len(data) > count:
        data = data[np.sort(np.random.default_rng(seed).permutation(len(data))[:count])]
    return Labelled(np.asarray(data.features, np.float32), data.labels, data.classes)


def _compare(baseline: Baseline, result: Result, labels: Array) -> Comparison:
    correct: Array = baseline.predicted == labels
    interval = wilson_interval(int(correct.sum()), len(correct))
    p_value = mcnemar(result.correct.numpy(), correct)
    valid_accuracy, own = baseline.valid_accuracy, float(correct.mean())
    return Comparison(baseline.name, baseline.setting, valid_accuracy, own, interval, p_value)


def _neighbours(
    paths: Sequence[str], train: Labelled, scored: Labelled, mistakes: list[int]
) -> dict[int, tuple[str, ...]]:
    nearest = nearest_images(train, scored.features[mistakes], NEIGHBOURS).tolist() if mistakes else []
    return {index: tuple(paths[i] for i in row) for index, row in zip(mistakes, nearest, strict=True)}


# Label issues: images whose label is least believed by classifiers trained on the other images.


@dataclass(frozen=True)
class LabelIssues:
    """Beliefs in the labels of N images: `belief` (N) is the label's score less the highest other one.

    Below 0, another class is more probable than the label. `suggested` (N) are the classes with the highest other
    score; `order` (N) has the least believed label first.
    """

    belief: Array
    suggested: Array

    @property
    def order(self) -> Array:
        ranked: Array = np.argsort(self.belief, kind="stable")
        return ranked

    @property
    def count(self) -> int:
        """The number of labels that another class is more probable than."""
        return int((self.belief < 0).sum())


def find_label_issues(data: Sequence[Labelled], penalty: float, seed: int) -> LabelIssues:
    """Scores each image of `data`, in turn, by ridge regression on the stratified folds that it is not in."""
    labels = np.concatenate([part.labels for part in data])
    belief, suggested = np.zeros(len(labels)), np.zeros(len(labels), int)
    for rows, scores in scores_by_other_folds(data, stratified_folds(labels, seed), penalty):
        places = np.arange(len(rows))
        own = scores[places, labels[rows]].copy()
        scores[places, labels[rows]] = -np.inf
        suggested[rows] = scores.argmax(1)
        belief[rows] = own - scores.max(1)
    return LabelIssues(belief, suggested)


def suspicious(manifest: Manifest, issues: LabelIssues) -> Iterator[tuple[str, str, str, str, float]]:
    """Yields path, split, label, suggested class and belief of each image, the least believed label first."""
    samples = [
        (path, name, manifest.classes[label])
        for name, split in manifest.splits.items()
        for path, label in zip(split.paths, split.labels, strict=True)
    ]
    for index in issues.order.tolist():
        yield *samples[index], manifest.classes[issues.suggested[index]], float(issues.belief[index])


def scores_by_other_folds(data: Sequence[Labelled], folds: Array, penalty: float) -> Iterator[tuple[Array, Array]]:
    """Yields indices (M) of images and their scores (M, classes) by ridge regression on all folds but their own.

    `folds` (N) are those of the images of `data` in turn. Together, these may not fit into memory: with fewer images
    than features they are read at once, otherwise in parts, twice.
    """
    if len(folds) < data[0].features.shape[1]:
        return _from_images(data, folds, penalty)
    return _from_statistics(data, folds, penalty)


def _from_images(data: Sequence[Labelled], folds: Array, penalty: float) -> Iterator[tuple[Array, Array]]:
    features = np.concatenate([part.features for part in data], dtype=np.float32)
    images = Labelled(features, np.concatenate([part.labels for part in data]), data[0].classes)
    for fold in np.unique(folds):
        own = np.flatnonzero(folds == fold)
        yield own, ridge(images[np.flatnonzero(folds != fold)], penalty)(features[own])


class SufficientStatistics:
    """The sums over images from which ridge regression follows. Those of two sets of images add up.

    So a fit to all but some images need not read all the others again. `products` (d + 1, d + 1) are the sums of
    products of features and of a constant 1, `by_class` (classes, d + 1) the sums of features and 1 in each class.
    """

    def __init__(self, width: int, classes: int) -> None:
        self.products, self.by_class = np.zeros((width + 1, width + 1)), np.zeros((classes, width + 1))

    def observe(self, images: Labelled) -> None:
        """Adds images."""
        extended = np.pad(images.features, ((0, 0), (0, 1)), constant_values=1)
        self.products += extended.T @ extended
        for label in np.unique(images.labels):
            self.by_class[label] += extended[images.labels == label].sum(0)

    def add(self, other: "SufficientStatistics", sign: int) -> None:
        """Adds the images of `other`, or removes them (-1)."""
        self.products += sign * other.products
        self.by_class += sign * other.by_class

    def ridge(self, penalty: float) -> Probe:
        """Trains headstart.evaluation.probes.ridge on the images."""
        sums, count = self.products[-1, :-1], self.products[-1, -1]
        mean, prior = sums / count, self.by_class[:, -1] / count
        gram = self.products[:-1, :-1] - np.outer(sums, mean)
        strength = strength_of(penalty, gram.trace(), min(int(count), len(gram)))
        gram[np.diag_indices_from(gram)] += strength
        weights = np.linalg.solve(gram, self.by_class[:, :-1].T - np.outer(sums, prior))
        return lambda features: (features - mean) @ weights + prior


def _from_statistics(data: Sequence[Labelled], folds: Array, penalty: float) -> Iterator[tuple[Array, Array]]:
    width, classes = data[0].features.shape[1], data[0].classes
    of_folds = [SufficientStatistics(width, classes) for _ in range(folds.max() + 1)]
    # About a point among the features: far from it, the differences below would lose digits.
    origin = data[0].features[:ROWS].mean(0, dtype=np.float64)
    for rows, images in _blocks(data, origin):
        # Each fold in a thread of its own.
        thread_map(partial(_observe, of_folds, folds[rows], images), np.unique(folds[rows]))
    total = SufficientStatistics(width, classes)
    for of_fold in of_folds:
        total.add(of_fold, 1)
    probes = []
    for of_fold in of_folds:
        # In place, because the products of wide features take much memory.
        total.add(of_fold, -1)
        probes.append(total.ridge(penalty))
        total.add(of_fold, 1)
    for rows, images in _blocks(data, origin):
        for fold in np.unique(folds[rows]):
            own = folds[rows] == fold
            yield rows[own], probes[fold](images.features[own])


def _observe(of_folds: list[SufficientStatistics], folds: Array, images: Labelled, fold: int) -> None:
    of_folds[fold].observe(images[folds == fold])


def _blocks(data: Sequence[Labelled], origin: Array) -> Iterator[tuple[Array, Labelled]]:
    """Yields the indices (M) of at most ROWS images at a time, and the images, their features less `origin` (d)."""
    start = 0
    for part in data:
        for first in range(0, len(part), ROWS):
            block = part[first : first + ROWS]
            yield start + np.arange(len(block)), Labelled(block.features - origin, block.labels, block.classes)
            start += len(block)


# Would more images help? Accuracy by the number of training images per class, and where the curve leads.

COUNTS = (2, 5, 10, 20, 35, 50, 75, 100, 150, 200, 300, 500)
REPEATS = 5
RESAMPLES = 200
# Errors fall as `floor + height × n ** -decay`.
DECAYS = np.linspace(0.1, 2.0, 39)
SMALL = 3  # points from which a curve can be extrapolated
# The value at twice the largest count, and the ends of its interval.
Forecast = tuple[float, float, float]


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
        """Returns the forecast of the recall of one class."""
        return _forecast(np.array(self.counts), self.recalls[:, :, label], self.seed)

    def recall(self, label: int) -> list[float]:
        """Returns the mean recall of one class for each of `counts`."""
        return [float(value) for value in self.recalls[:, :, label].mean(1)]

    def worst_classes(self, count: int) -> list[int]:
        """Returns the classes with the lowest recall, the lowest first."""
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
    """Says whether (counts, N) each scored image is classified correctly, by nested subsets in this `order`."""
    # The rank of each image within its class, in this order.
    ranks = np.empty(len(train), int)
    for label in range(train.classes):
        own = order[train.labels[order] == label]
        ranks[own] = np.arange(len(own))
    probes = (ridges(train[np.flatnonzero(ranks < count)], (penalty,)) for count in counts)
    return np.stack([predicted(of_count, scored.features)[penalty] == scored.labels for of_count in probes])


def _forecast(counts: Array, accuracies: Array, seed: int) -> Forecast | None:
    """Returns the accuracy at twice the largest count, and its 90 % interval by resampling the draws."""
    if len(counts) < SMALL:
        return None
    generator, draws = np.random.default_rng(seed), accuracies.shape[1]
    resampled = np.stack([accuracies[:, generator.integers(0, draws, draws)].mean(1) for _ in range(RESAMPLES)])
    middle, *values = _extrapolate(counts, 1 - np.concatenate([accuracies.mean(1)[None], resampled]))
    low, high = np.quantile(values, (0.05, 0.95))
    return 1 - float(middle), 1 - float(max(high, middle)), 1 - float(min(low, middle))


def _extrapolate(counts: Array, errors: Array) -> Array:
    """Returns the errors (R) at twice the largest count, by the power laws that fit R curves (R, counts) best.

    Never above a curve's last error. Points weigh as much as their counts, because the end of the curve says most
    about where it leads. It is weighted least squares in closed form, for each curve (rows) and each decay (columns).
    """
    powers = counts ** -DECAYS[:, None]
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
    doubled = floor[rows, best] + height[rows, best] * (2.0 * counts[-1]) ** -DECAYS[best]
    ends: Array = np.clip(doubled, 0, errors[:, -1])
    return ends
