"""The sentences that compare a classifier with simple ones."""

import itertools
from typing import Any

import numpy as np
import pytest
import torch

from headstart.evaluation.answers import Comparison, FeatureAnalysis, Head
from headstart.evaluation.predictions import Predictions, Result
from headstart.report.page import advice, against_baselines

NOTHING: Any = None


def analysis_of(kind: str, *baselines: Comparison) -> FeatureAnalysis:
    return FeatureAnalysis(Head(kind, "", 0.9), baselines, None, NOTHING, {}, NOTHING, NOTHING)


def baseline(kind: str | None, valid: float, valid_p: float, accuracy: float, p: float) -> Comparison:
    return Comparison(f"{kind} baseline", kind, "", valid, valid_p, accuracy, (0.0, 1.0), p)


def result_of(split: str, accuracy: float) -> Result:
    labels = torch.zeros(100, dtype=torch.long)
    log_probs = torch.tensor([[0.9, 0.1]]).log().repeat(100, 1)
    log_probs[round(100 * accuracy) :] = log_probs[round(100 * accuracy) :].flip(1)
    return Result(split, ("a", "b"), Predictions(tuple(map(str, range(100))), labels, log_probs))


def test_advice__only_of_a_head_that_is_better_by_more_than_chance() -> None:
    result = result_of("test", 0.9)
    better = analysis_of("mlp", baseline("ridge", 0.97, 0.01, 0.96, 0.02), baseline("knn", 0.98, 0.2, 0.9, 1.0))
    assert advice(result, better) == (
        "On the valid split, ridge baseline is better by more than chance (0.970; this classifier 0.900): "
        "model.head=ridge trains it and reaches 0.960 on test."
    )
    chance = analysis_of("mlp", baseline("knn", 0.98, 0.2, 0.9, 1.0), baseline(None, 0.99, 0.001, 0.9, 1.0))
    assert advice(result, chance) == (
        "No other head is better on the valid split by more than chance; model.head=auto chooses one by "
        "cross-validation."
    )


@pytest.mark.parametrize(
    ("accuracy", "p", "verdict"), [(0.8, 0.01, "better than"), (0.97, 0.01, "worse than"), (0.8, 0.3, "as good as")]
)
def test_against_baselines__is_of_the_best_on_valid(accuracy: float, p: float, verdict: str) -> None:
    analysis = analysis_of("mlp", baseline("ridge", 0.9, 1.0, accuracy, p), baseline("knn", 0.8, 1.0, 0.99, 0.001))
    sentence = against_baselines(result_of("test", 0.9), analysis)
    assert f"is {verdict} the best simple classifier on the valid split, ridge baseline ({accuracy:.3f}" in sentence
    assert ("more than chance" in sentence) == (p < 0.05)


def test_sentences__never_contradict_each_other() -> None:
    levels = (0.7, 0.9, 0.97)
    for valid, valid_p, accuracy, p in itertools.product(levels, (0.01, 0.5), levels, (0.01, 0.5)):
        analysis, result = analysis_of("mlp", baseline("ridge", valid, valid_p, accuracy, p)), result_of("test", 0.9)
        sentences = against_baselines(result, analysis), advice(result, analysis)
        if "model.head=ridge" in sentences[1]:
            assert valid > 0.9
            assert valid_p < 0.05
        else:
            assert "No other head is better" in sentences[1]
        assert np.sum([word in sentences[0] for word in ("better than", "worse than", "as good as")]) == 1
