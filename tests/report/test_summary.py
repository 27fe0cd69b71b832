"""The sentence that names the best classifier on the valid split."""

from typing import Any

import pytest

from headstart.evaluation.answers import Comparison, FeatureAnalysis, Head
from headstart.report.page import best_on_valid


def analysis_of(kind: str, valid_accuracy: float, **baselines: float) -> FeatureAnalysis:
    """What is compared with a head: the accuracies on the valid split of `baselines`, by their names with _."""
    compared = tuple(
        Comparison(name.replace("_", " "), "", value, 0.9, (0.8, 1.0), 0.5) for name, value in baselines.items()
    )
    nothing: Any = None
    head = Head(kind, "", valid_accuracy)
    return FeatureAnalysis(head, compared, None, nothing, {}, nothing, nothing)


@pytest.mark.parametrize(
    ("kind", "baselines", "sentence"),
    [
        (
            "mlp",
            {"ridge_regression": 0.981, "nearest_neighbours": 0.97},
            "Best on the valid split: ridge regression (0.981; this classifier 0.962); model.head=ridge trains it.",
        ),
        (
            "ridge",
            {"majority_class": 0.1, "nearest_neighbours": 0.97},
            "Best on the valid split: nearest neighbours (0.970; this classifier 0.962); model.head=knn trains it.",
        ),
        (
            "mlp",
            {"logistic_regression": 0.97},
            "Best on the valid split: logistic regression (0.970; this classifier 0.962); model.head=linear trains one "
            "step by step.",
        ),
        (
            "linear",
            {"logistic_regression": 0.97},
            "Best on the valid split: logistic regression (0.970; this classifier 0.962).",
        ),
        (
            "mlp",
            {"nearest_class_mean": 0.97},
            "Best on the valid split: nearest class mean (0.970; this classifier 0.962).",
        ),
        (
            "knn",
            {"majority_class": 0.1, "ridge_regression": 0.962},
            "Best on the valid split: this classifier (0.962; next, ridge regression, 0.962).",
        ),
    ],
)
def test_best_on_valid(kind: str, baselines: dict[str, float], sentence: str) -> None:
    assert best_on_valid(analysis_of(kind, 0.962, **baselines)) == sentence
