"""What a report tells about a trained classifier and its data, computed from predictions and stored features."""

from dataclasses import dataclass

import numpy as np

from headstart.config.model import CLOSED_FORM
from headstart.data.manifest import Manifest
from headstart.evaluation.baselines import HEADS, RIDGE, Baseline, fit_baselines, nearest_images
from headstart.evaluation.label_issues import LabelIssues, find_label_issues
from headstart.evaluation.learning_curve import LearningCurve, learning_curve
from headstart.evaluation.predictions import Predictions
from headstart.evaluation.probes import Array, Labelled
from headstart.evaluation.projection import project
from headstart.evaluation.result import Result
from headstart.evaluation.statistics import mcnemar, wilson_interval
from headstart.model.head import setting_of
from headstart.model.image_classifier import ImageClassifier

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
