"""Every number about a split, against scikit-learn's."""

import math

import pytest
import torch
from sklearn.metrics import (  # type: ignore[import-untyped]
    balanced_accuracy_score,
    confusion_matrix,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)
from torch.nn.functional import log_softmax

from headstart.evaluation.predictions import Predictions, Result, calibration

CLASSES = ("ant", "bee", "cat", "dog", "eel", "fox")


def result_of(count: int = 200, temperature: float = 1.0, seed: int = 0) -> Result:
    generator = torch.Generator().manual_seed(seed)
    labels = torch.randint(0, len(CLASSES), (count,), generator=generator)
    logits = torch.randn(count, len(CLASSES), generator=generator) + 2 * torch.eye(len(CLASSES))[labels]
    paths = tuple(f"{i}.jpg" for i in range(count))
    return Result("test", CLASSES, Predictions(paths, labels, log_softmax(logits, 1), temperature))


def test_result__is_scikit_learns() -> None:
    result = result_of()
    labels, predicted = result.predictions.labels.numpy(), result.predicted.numpy()
    probabilities = result.predictions.log_probs.exp().numpy()
    assert result.confusion.tolist() == confusion_matrix(labels, predicted).tolist()
    assert result.balanced_accuracy == pytest.approx(balanced_accuracy_score(labels, predicted))
    precision, recall, f1, support = precision_recall_fscore_support(labels, predicted)
    for score, expected in zip(result.per_class, zip(precision, recall, f1, support, strict=True), strict=True):
        assert (score.precision, score.recall, score.f1, score.support) == pytest.approx(expected)
    assert result.macro_f1 == pytest.approx(f1.mean())
    for k in (3, 5):
        assert result.top_k[k] == pytest.approx(top_k_accuracy_score(labels, probabilities, k=k))
    assert result.uncalibrated.log_loss == pytest.approx(log_loss(labels, probabilities), rel=1e-5)


def test_result__of_a_class_that_is_never_predicted_nor_present() -> None:
    labels = torch.tensor([0, 0, 1])
    log_probs = log_softmax(5 * torch.eye(6)[labels], 1)
    result = Result("test", CLASSES, Predictions(("a", "b", "c"), labels, log_probs))
    assert math.isnan(result.per_class[3].precision)
    assert math.isnan(result.per_class[3].recall)
    assert result.per_class[3].support == 0
    assert result.balanced_accuracy == 1
    assert result.confusions == ()


def test_mistakes__the_most_confident_first_and_pairs_by_count() -> None:
    result = result_of()
    confidences = [float(result.confidence[i]) for i in result.mistakes]
    assert confidences == sorted(confidences, reverse=True)
    assert len(result.mistakes) == int((~result.correct).sum())
    counts = [pair.count for pair in result.confusions]
    assert counts == sorted(counts, reverse=True)
    assert sum(counts) == len(result.mistakes)
    first = result.confusions[0]
    assert CLASSES[int(result.predictions.labels[first.example])] == first.true
    assert CLASSES[int(result.predicted[first.example])] == first.predicted


def test_confidence__is_calibrated() -> None:
    plain, scaled = result_of(), result_of(temperature=2.0)
    assert torch.equal(plain.predicted, scaled.predicted)
    assert (scaled.confidence < plain.confidence).all()
    assert scaled.calibrated.log_loss != scaled.uncalibrated.log_loss


def test_calibration__by_hand() -> None:
    # Two images at 0.9, of which one is right, and two at 0.6, both right.
    probabilities = torch.tensor([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.6, 0.4]])
    found = calibration(probabilities.log(), torch.tensor([0, 1, 1, 0]))
    assert found.ece == pytest.approx(0.5 * 0.4 + 0.5 * 0.4)
    assert [count for *_, count in found.bins] == [2, 2]
    expected = -(math.log(0.9) + math.log(0.1) + 2 * math.log(0.6)) / 4
    assert found.log_loss == pytest.approx(expected, rel=1e-6)
