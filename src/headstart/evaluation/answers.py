"""What stored features say beside the trained head: baselines, label issues, and whether more images would help."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from headstart.config.model import CLOSED_FORM
from headstart.data.manifest import Manifest
from headstart.evaluation.label_issues import LabelIssues, find_label_issues
from headstart.evaluation.learning_curve import LearningCurve, learning_curve
from headstart.evaluation.predictions import Predictions, holm, mcnemar, wilson_interval
from headstart.evaluation.probes import Array, Baseline, Labelled, fit_baselines, nearest_images, project, sample
from headstart.evaluation.result import Result
from headstart.metrics import SIGNIFICANT
from headstart.model.closed_form import Ridge
from headstart.model.image_classifier import ImageClassifier, setting_of

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
