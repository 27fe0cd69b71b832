"""The sentences of a report contradict nothing, whatever the data are like."""

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_classifier import tiny_backbone, tiny_classifier

from headstart.config.model import EncoderSettings
from headstart.data.manifest import Manifest, Split
from headstart.data.preprocessing import Array
from headstart.evaluation.answers import FeatureAnalysis, analyze_features
from headstart.evaluation.predictions import Predictions, Result
from headstart.model.image_classifier import ImageClassifier
from headstart.report.page import familiarity, probabilities, summarize

WIDTH = 6
SIZES = {"train": 16, "valid": 6, "test": 6}  # images per class


def situation(classes: int, *, has_test: bool, useful: float) -> tuple[Manifest, dict[str, Array]]:
    """Features that tell the classes apart by as much as `useful`, and the manifest of their splits."""
    generator = np.random.default_rng(classes)
    centres = generator.normal(size=(classes, WIDTH))
    splits, features = {}, {}
    for name, count in SIZES.items() if has_test else list(SIZES.items())[:2]:
        labels = np.arange(classes).repeat(count)
        paths = tuple(f"{name}/{label}/{i}.jpg" for i, label in enumerate(labels))
        splits[name] = Split(Path("photos"), paths, tuple(labels.tolist()), paths)
        noise = generator.normal(size=(len(labels), WIDTH))
        features[name] = (useful * centres[labels] + noise).astype(np.float32)
    names = tuple(f"class {label:03}" for label in range(classes))
    return Manifest(Path("photos"), names, splits, {}, (), (), {}, ()), features


def analyzed(classes: int, *, has_test: bool, useful: float, head: str) -> tuple[Result, FeatureAnalysis]:
    manifest, features = situation(classes, has_test=has_test, useful=useful)
    recipe = replace(tiny_classifier().recipe, classes=manifest.classes, head=head)
    classifier = ImageClassifier(tiny_backbone(), recipe, EncoderSettings(precision="32", compile=False)).eval()
    train = torch.from_numpy(features["train"]), torch.tensor(manifest.splits["train"].labels)
    if head != "mlp":
        classifier.head[0].fit(*train)  # type: ignore[operator]
    classifier.familiarity.observe(*train)
    classifier.familiarity.fit_means(*classifier.familiarity.observed)
    scored = {}
    for name, split in manifest.splits.items():
        inputs = torch.from_numpy(features[name])
        with torch.no_grad():
            if name == "valid":
                classifier.familiarity.fit_threshold(classifier.familiarity(inputs))
            scores = classifier.familiarity(inputs)
            log_probs = classifier.head(inputs)
        threshold = float(classifier.familiarity.threshold)
        scored[name] = Predictions(split.paths, torch.tensor(split.labels), log_probs, 0.9, scores, threshold)
    result = Result("test" if has_test else "valid", manifest.classes, scored["test" if has_test else "valid"])
    return result, analyze_features(classifier, manifest, features, result, scored["valid"], manifest.units)


# Many classes take seconds: those of them in which sentences are said that few classes do not lead to.
SITUATIONS = (
    *product([2, 10], [True, False], [0.0, 1.0, 30.0], ["mlp", "ridge"]),
    *((40, True, 1.0, "ridge"), (40, True, 30.0, "mlp"), (40, False, 30.0, "ridge")),
)


@pytest.mark.slow
@pytest.mark.parametrize(("classes", "has_test", "useful", "head"), SITUATIONS)
def test_sentences__contradict_nothing(classes: int, has_test: bool, useful: float, head: str) -> None:
    result, analysis = analyzed(classes, has_test=has_test, useful=useful, head=head)
    accuracy, compared, advice, mistakes, images, labels = summarize(result, analysis)
    best = analysis.best_baseline()

    # Compared with the baseline that is best on valid, by the test that the table shows.
    assert best.name in compared
    assert ("within chance" in compared) == (best.p_value >= 0.05)
    assert ("is better than" in compared) == (best.p_value < 0.05 and result.accuracy > best.accuracy)
    # What is advised is better on valid by more than chance, and is not the head itself.
    if advised := re.search(r"model.head=(\w+) trains it", advice):
        baseline = next(b for b in analysis.baselines if b.kind == advised.group(1))
        assert baseline.valid_accuracy > analysis.head.valid_accuracy
        assert baseline.valid_p_value < 0.05
        assert advised.group(1) != head
        assert ("on test" in advice) == has_test
    else:
        assert all(
            b.valid_p_value >= 0.05 or b.valid_accuracy <= analysis.head.valid_accuracy or not b.kind
            for b in analysis.baselines
        )
    assert ("no mistake" in mistakes) == (result.accuracy == 1)
    # Useless features help nobody, and perfect ones need no more images and have no wrong labels.
    agreeing = (analysis.issues.belief >= 0).mean()
    assert ("cannot be told" in labels) == (agreeing < 0.7)
    if useful == 30:
        assert labels.startswith("No label is probably wrong")
    # Forty classes take more than six dimensions for ridge regression to tell them apart.
    if useful == 30 and classes <= 10:
        assert "would hardly help" in images
    if useful == 0:
        assert "cannot be told" in labels
        assert "would help" not in images
    # On valid, what was fitted to it is not praised.
    words = probabilities(result)
    assert ("fitted to" in words) == (not has_test)
    assert ("lower the log-loss" in words or "lowered the log-loss" in words) == has_test
    if result.predictions.threshold > -np.inf:
        assert ("more than expected" in familiarity(result)) <= has_test
    assert accuracy.startswith("The classifier is right about ")
