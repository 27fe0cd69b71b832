"""Answers from stored features, beside the trained head: baselines, label issues, and whether more images would help.

Labels that are probably wrong are found by confident learning on probabilities by cross-validation (Northcutt, Jiang
and Chuang 2021, "Confident Learning: Estimating Uncertainty in Dataset Labels"). cleanlab is its authors'
implementation, which a test and benchmarks/truth.py compare this one with. Its imports, pandas and scikit-learn among
them, would take longer than the answer.

The learning curve forecasts what a user would see: the accuracy on the same scored images, of ridge regression trained
with twice the images from the same source.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from statistics import NormalDist

import numpy as np

from headstart.config.model import CLOSED_FORM
from headstart.data.manifest import Manifest
from headstart.data.preprocessing import Array
from headstart.data.splits import derive_seed, unit_folds
from headstart.evaluation.predictions import Predictions, Result, holm, mcnemar, wilson_interval
from headstart.evaluation.probes import (
    Baseline,
    Labelled,
    fit_baselines,
    fit_head,
    in_parts,
    nearest_images,
    predicted,
    project,
    ridge,
    sample,
    scores_of,
)
from headstart.metrics import SIGNIFICANT
from headstart.model.closed_form import Ridge
from headstart.model.image_classifier import ImageClassifier, setting_of
from headstart.processes import thread_map

RESAMPLES = 200
# Mistakes whose most similar training images are looked up, and how many of these.
MOST_MISTAKES, NEIGHBOURS = 100, 3


@dataclass(frozen=True)
class LabelIssues:
    """Beliefs in the labels of N images: `belief` (N) is the label's probability less the highest other one.

    Below 0, another class is more probable than the label; `suggested` (N) are the classes with the highest other
    probability. `estimate` is how many labels are probably wrong, `low` and `high` are the ends of its 95 % interval.
    `listed` (N) says which: as many, the least believed, but none that is the most probable class.
    """

    belief: Array
    suggested: Array
    listed: Array
    estimate: float
    low: float
    high: float

    @property
    def order(self) -> Array:
        """The indices (N) of the images: those listed first, and of these the least believed label."""
        ranked: Array = np.lexsort((self.belief, ~self.listed))
        return ranked

    @property
    def count(self) -> int:
        """The number of labels listed."""
        return int(self.listed.sum())


def find_label_issues(data: Sequence[Labelled], units: Array, seed: int) -> LabelIssues:
    """Judges the label of each image of `data`, in turn, by logistic regression on images of other `units` (N)."""
    labels = np.concatenate([part.labels for part in data])
    probs = _probabilities(data, labels, units, seed)
    confident = confident_classes(labels, probs)
    places = np.arange(len(labels))
    others = probs.copy()
    others[places, labels] = -1
    joint = confident_joint(labels, confident, probs.shape[1])
    belief, estimate = probs[places, labels] - others.max(1), float(joint.sum() - joint.trace())
    ranks = np.argsort(np.argsort(belief, kind="stable"), kind="stable")
    listed = (ranks < round(estimate)) & (belief < 0)
    low, high = _interval(labels, confident, units, seed)
    return LabelIssues(belief, others.argmax(1), listed, estimate, low, high)


def _probabilities(data: Sequence[Labelled], labels: Array, units: Array, seed: int) -> Array:
    """Returns the probabilities (N, classes) of each image by a fit without its unit.

    Of many images, a sample is fitted to, and its images get theirs by cross-validation.
    """
    # With the other images of the units in the sample.
    is_known = np.isin(units, units[sample(len(labels), seed)])
    ends = np.cumsum([len(part) for part in data])[:-1]
    rows = [np.flatnonzero(own) for own in np.split(is_known, ends)]
    features = np.concatenate([part.read(own).features for part, own in zip(data, rows, strict=True)])
    head, scores = fit_head("logistic", Labelled(features, labels[is_known], data[0].classes), units[is_known])
    of_all = np.empty((len(labels), data[0].classes), np.float32)
    of_all[is_known] = scores
    if not is_known.all():
        probe = scores_of(head)
        of_others = [probe(features) for part in data for features in in_parts(part.features)]
        of_all[~is_known] = np.concatenate(of_others)[~is_known]
    exponentials = np.exp(of_all - of_all.max(1, keepdims=True))
    probs: Array = exponentials / exponentials.sum(1, keepdims=True)
    return probs


def confident_classes(labels: Array, probs: Array) -> Array:
    """Returns the class (N) that each image is confidently counted among, or -1.

    It is the most probable of the classes whose probability is at least its mean over the images with that label.
    """
    counts = np.bincount(labels, minlength=probs.shape[1])
    sums = np.bincount(labels, weights=probs[np.arange(len(labels)), labels], minlength=probs.shape[1])
    thresholds = np.where(counts > 0, sums / np.maximum(counts, 1), np.inf)
    # As cleanlab has it: rounding must not keep an image from its class.
    certain = np.where(probs >= thresholds - 1e-6, probs, -1)
    classes: Array = np.where(certain.max(1) >= 0, certain.argmax(1), -1)
    return classes


def confident_joint(labels: Array, confident: Array, classes: int) -> Array:
    """Returns how many images (classes, classes) of each label, in rows, are of each class in truth, by estimate."""
    known = confident >= 0
    joint = np.bincount(labels[known] * classes + confident[known], minlength=classes**2).reshape(classes, classes)
    joint[np.diag_indices(classes)] = np.maximum(joint.diagonal(), 1)
    sizes = np.bincount(labels, minlength=classes)
    scaled: Array = joint * (sizes / joint.sum(1))[:, None]
    return scaled


def _interval(labels: Array, confident: Array, units: Array, seed: int) -> tuple[float, float]:
    """Returns the 95 % interval of the estimate, by drawing units with their images again (cluster bootstrap)."""
    generator = np.random.default_rng(seed)
    _, which = np.unique(units, return_inverse=True)
    count, classes = which.max() + 1, labels.max() + 1
    estimates = []
    for _ in range(RESAMPLES):
        weights = np.bincount(generator.integers(0, count, count), minlength=count)[which]
        sizes = np.bincount(labels, weights, classes)
        known = np.bincount(labels, weights * (confident >= 0), classes)
        other = np.bincount(labels, weights * ((confident >= 0) & (confident != labels)), classes)
        estimates.append((sizes * other / np.maximum(known, 1)).sum())
    low, high = np.quantile(estimates, (0.025, 0.975))
    return float(low), float(high)


def suspicious(manifest: Manifest, issues: LabelIssues) -> Iterator[tuple[str, str, str, str, float]]:
    """Yields path, split, label, suggested class and belief of each image, in the order of `issues`."""
    samples = [
        (path, name, manifest.classes[label])
        for name, split in manifest.splits.items()
        for path, label in zip(split.paths, split.labels, strict=True)
    ]
    for index in issues.order.tolist():
        yield *samples[index], manifest.classes[issues.suggested[index]], float(issues.belief[index])


# The train split is cut into so many parts, in so many ways; the curve has points for 1, 2, 4, … of them.
PARTS, FEWEST_PARTS, CUTS = 8, 4, 4
# Errors fall as `floor + height × n ** -decay`.
DECAYS = np.linspace(0.1, 2.0, 39)
# The interval holds the accuracy with the probability LEVEL. Its variance is FACTOR times that between draws of half
# the images; beyond its end, the curve is uncertain by a SHARE of the gain that it forecasts.
LEVEL, FACTOR, SHARE = 0.9, 0.75, 0.5
# The value at twice the largest count, and the ends of its interval.
Forecast = tuple[float, float, float]


@dataclass(frozen=True)
class LearningCurve:
    """Which of N scored images ridge regression classifies correctly, by the number of its training images.

    `counts` are the training images per class, on average, ascending; the last is all of them. `right` has for each an
    array (draws, N); draws 2k and 2k + 1 have no image in common. `labels` (N) are those of the scored images.
    """

    counts: tuple[float, ...]
    right: tuple[Array, ...]
    labels: Array

    @cached_property
    def accuracies(self) -> list[float]:
        """The mean accuracy for each count."""
        return [float(draws.mean()) for draws in self.right]

    @cached_property
    def spreads(self) -> list[float]:
        """The standard deviation of the accuracy between draws, for each count; 0 for the last."""
        return [float(draws.mean(1).std()) for draws in self.right]

    @cached_property
    def forecast(self) -> Forecast:
        """The accuracy with twice the images, with its 90 % interval."""
        return _forecast(self.right)

    def forecast_of(self, label: int) -> Forecast:
        """Returns the forecast of the recall of a class."""
        return _forecast([draws[:, self.labels == label] for draws in self.right])

    def recall(self, label: int) -> list[float]:
        """Returns the mean recall of a class for each count."""
        return [float(draws[:, self.labels == label].mean()) for draws in self.right]

    def worst_classes(self, count: int) -> list[int]:
        """Returns the classes with the lowest recall, the lowest first."""
        present = np.unique(self.labels)
        return [int(i) for i in sorted(present, key=lambda label: self.recall(label)[-1])[:count]]


def learning_curve(train: Labelled, scored: Labelled, penalty: float, units: Array, seed: int) -> LearningCurve | None:
    """Trains on growing random parts of `train` and tests on `scored`; images of one of `units` (N) stay together.

    None: there are too few images, or units, for three points.
    """
    per_class = len(train) / train.classes
    parts = PARTS if min(per_class, len(np.unique(units)) / train.classes) >= PARTS else FEWEST_PARTS
    if len(np.unique(units)) < parts or per_class < parts:
        return None
    cuts = [unit_folds(train.labels, units, derive_seed("curve", seed, cut), parts) for cut in range(CUTS)]
    sizes = [2**power for power in range(parts.bit_length())]
    subsets = {size: [rows for cut in cuts for rows in _subsets(cut, size)] for size in sizes}
    # All of the images are the same in every cut.
    subsets[parts] = subsets[parts][:1]

    def right(rows: Array) -> Array:
        return predicted(ridge(train[rows], penalty), scored.features) == scored.labels

    return LearningCurve(
        tuple(per_class * size / parts for size in sizes),
        tuple(np.stack(thread_map(right, subsets[size])) for size in sizes),
        scored.labels,
    )


def _subsets(cut: Array, size: int) -> Iterator[Array]:
    """Yields the indices of the images in each run of `size` parts."""
    for first in range(0, cut.max() + 1, size):
        yield np.flatnonzero((cut >= first) & (cut < first + size))


def _forecast(right: "tuple[Array, ...] | list[Array]") -> Forecast:
    """Returns the forecast from which scored images are classified correctly (draws, N), by doubling counts.

    With A(n) the accuracy of n training images and V(n) its variance between draws, which falls as 1/n, the error of
    forecasting A(2n) from the curve of the n images has the variance V(n) / 2 = V(n/2) / 4 where accuracies add up, and
    more where they do not: FACTOR V(n/2) held on all sets of benchmarks/truth.py. V(n/2) is measured between halves
    that share no image, and is at least that of N scored images which flip one by one. To it come the extrapolation's
    own uncertainty, and half an image.
    """
    halves, now = right[-2], float(right[-1].mean())
    value = 1 - _extrapolate(np.array([1 - draws.mean() for draws in right]))
    pairs = halves[0::2], halves[1::2]
    between = float(((pairs[0].mean(1) - pairs[1].mean(1)) ** 2).mean()) / 2
    flips = float((pairs[0] != pairs[1]).mean()) / 2 / halves.shape[1]
    deviation = np.sqrt(FACTOR * max(between, flips) + (SHARE * (value - now)) ** 2)
    half = NormalDist().inv_cdf((1 + LEVEL) / 2) * deviation + 0.5 / halves.shape[1]
    return value, max(0.0, value - half), min(1.0, value + half)


def _extrapolate(errors: Array) -> float:
    """Returns the error with twice the images, by the power law that fits errors for 1, 2, 4, … of parts best.

    Never above the last error. Points weigh as much as their counts, because the end of the curve says most about where
    it leads. It is weighted least squares in closed form, for each decay.
    """
    counts = 2.0 ** np.arange(len(errors))
    powers = counts ** -DECAYS[:, None]
    total, weighted = counts.sum(), powers * counts
    first, second = weighted.sum(1), (weighted * powers).sum(1)
    error, product = (errors * counts).sum(), weighted @ errors
    height = (total * product - first * error) / (total * second - first**2)
    floor = (error - height * first) / total
    height = np.where(floor < 0, product / second, height)
    floor = np.maximum(floor, 0)
    residuals = floor[:, None] + height[:, None] * powers - errors
    best = (counts * residuals**2).sum(1).argmin()
    return float(np.clip(floor[best] + height[best] * (2 * counts[-1]) ** -DECAYS[best], 0, errors[-1]))


@dataclass(frozen=True)
class Head:
    """The head in question: the value of `model.head`, what it chose, if anything, in words, and how good it is."""

    kind: str
    setting: str
    valid_accuracy: float


@dataclass(frozen=True)
class Comparison:
    """A baseline beside the head in question; `kind` is the value of `model.head` that trains it, if there is one.

    The p-values are that both are equally often right, on the valid split and on the scored one, corrected for the
    number of baselines.
    """

    name: str
    kind: str | None
    setting: str
    valid_accuracy: float
    valid_p_value: float
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
    curve: LearningCurve | None
    issues: LabelIssues
    neighbours: Mapping[int, tuple[str, ...]]
    features: Array
    places: Array

    def best_baseline(self) -> Comparison:
        """Returns the baseline with the highest accuracy on the valid split."""
        return max(self.baselines, key=lambda baseline: baseline.valid_accuracy)

    def better_head(self) -> Comparison | None:
        """Returns the baseline that `model.head` should train instead: better on the valid split by more than chance.

        What it promises is kept, because that head is fitted to the same features in the same way.
        """
        better = [
            b
            for b in self.baselines
            if b.kind and b.valid_accuracy > self.head.valid_accuracy and b.valid_p_value < SIGNIFICANT
        ]
        # Of equally good ones the last, which is the usual one.
        return max(reversed(better), key=lambda baseline: baseline.valid_accuracy, default=None)


def analyze_features(
    classifier: ImageClassifier,
    manifest: Manifest,
    features: dict[str, Array],
    result: Result,
    valid: Predictions,
    units: Mapping[str, Array],
) -> FeatureAnalysis:
    """Computes every answer from `features` (N, d) of each split, unaugmented and in the order of its samples.

    `result` and `valid` are what `classifier` reaches on the scored and on the valid split. Images of the same of
    `units` (N), by split, depend on each other.
    """
    seed, kind = classifier.recipe.seed, classifier.recipe.head
    head = Head(kind, setting_of(classifier.head), float(valid.correct.mean()))
    stored = {
        name: Labelled(features[name], np.asarray(split.labels), len(manifest.classes))
        for name, split in manifest.splits.items()
    }
    chosen, scored = sample(len(stored["train"]), seed), stored[result.split]
    train, own_units = stored["train"].read(chosen), units["train"][chosen]
    baselines = fit_baselines(train, stored["valid"].features, scored.features, own_units)
    (penalty,) = (float(b.head.penalty) for b in baselines if isinstance(b.head, Ridge))
    # A closed-form head is its baseline.
    others = [b for b in baselines if kind not in CLOSED_FORM or b.kind != kind]
    every = np.concatenate([units[name] for name in stored])
    return FeatureAnalysis(
        head,
        _compared(others, result.predictions, valid, units[result.split], units["valid"]),
        learning_curve(train, scored, penalty, own_units, seed),
        find_label_issues(list(stored.values()), every, seed),
        _neighbours(manifest.splits["train"].paths, stored["train"], scored, list(result.mistakes[:MOST_MISTAKES])),
        scored.features,
        project(scored.features, train.features),
    )


def _compared(
    baselines: Sequence[Baseline], scored: Predictions, valid: Predictions, units: Array, valid_units: Array
) -> tuple[Comparison, ...]:
    right = [(b.valid == valid.labels.numpy(), b.predicted == scored.labels.numpy()) for b in baselines]
    on_valid = holm([mcnemar(valid.correct, correct, valid_units) for correct, _ in right])
    on_scored = holm([mcnemar(scored.correct, correct, units) for _, correct in right])
    return tuple(
        Comparison(
            b.name,
            b.kind,
            "" if b.head is None else b.head.setting,
            float(of_valid.mean()),
            valid_p,
            float(of_scored.mean()),
            wilson_interval(of_scored, units),
            p_value,
        )
        for b, (of_valid, of_scored), valid_p, p_value in zip(baselines, right, on_valid, on_scored, strict=True)
    )


def _neighbours(
    paths: Sequence[str], train: Labelled, scored: Labelled, mistakes: list[int]
) -> dict[int, tuple[str, ...]]:
    nearest = nearest_images(train, scored.features[mistakes], NEIGHBOURS).tolist() if mistakes else []
    return {index: tuple(paths[i] for i in row) for index, row in zip(mistakes, nearest, strict=True)}
