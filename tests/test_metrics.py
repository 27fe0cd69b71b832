import math
import subprocess
import sys

import pytest
import torch
from reference_metrics import expected_metrics
from torchmetrics.classification import MulticlassF1Score

from headstart.metrics import METRICS, compute_metrics, full_names, is_better, metric_of, worst_value


@pytest.mark.parametrize("classes", [2, 3, 10])
@pytest.mark.parametrize("count", [1, 7, 200])
def test_compute_metrics__equals_the_definitions(classes: int, count: int) -> None:
    log_probs, labels = torch.randn(count, classes).log_softmax(1), torch.randint(classes, (count,))
    assert compute_metrics(log_probs, labels, "valid") == pytest.approx(
        expected_metrics(log_probs, labels, "valid"), rel=1e-5
    )


def test_compute_metrics__by_hand() -> None:
    # Predictions 0, 1, 1, 2 of the labels 0, 1, 0, 1, among five classes.
    probabilities = torch.tensor(
        [[0.6, 0.1, 0.1, 0.1, 0.1], [0.1, 0.6, 0.1, 0.1, 0.1], [0.2, 0.5, 0.1, 0.1, 0.1], [0.1, 0.2, 0.5, 0.1, 0.1]]
    )
    found = compute_metrics(probabilities.log(), torch.tensor([0, 1, 0, 1]), "test")
    assert found == pytest.approx(
        {
            "test/loss": -(2 * math.log(0.6) + 2 * math.log(0.2)) / 4,
            "test/acc": 0.5,
            # Class 0: one of two, none too many. Class 1: one of two, one too many. Class 2: one too many.
            "test/f1": (2 / 3 + 2 / 4 + 0) / 3,
        }
    )


def test_macro_f1__leaves_out_classes_that_neither_occur_nor_are_predicted() -> None:
    log_probs, labels = torch.eye(3)[[0, 1, 1]].log_softmax(1), torch.tensor([0, 1, 0])
    found = compute_metrics(log_probs, labels, "valid")["valid/f1"]
    assert found == pytest.approx(2 / 3)
    assert found == pytest.approx(float(MulticlassF1Score(3, average="macro")(log_probs, labels)))


@pytest.mark.slow
def test_compute_metrics__of_perfect_predictions_of_many_classes() -> None:
    labels = torch.arange(257).repeat(3)
    found = compute_metrics(torch.eye(257)[labels].mul(100).log_softmax(1), labels, "valid")
    assert found["valid/acc"] == found["valid/f1"] == 1
    assert found["valid/loss"] == pytest.approx(0, abs=1e-6)


def test_directions() -> None:
    assert {name: metric.direction for name, metric in METRICS.items()} == {"loss": "min", "acc": "max", "f1": "max"}


def test_full_names__split_by_split() -> None:
    assert full_names("train", "valid") == (
        *("train/loss", "train/acc", "train/f1"),
        *("valid/loss", "valid/acc", "valid/f1"),
    )
    for name in full_names("train", "valid", "test"):
        assert metric_of(name) is METRICS[name.split("/")[1]]


def test_is_better__by_the_metrics_direction() -> None:
    assert is_better("valid/loss", 0.1, 0.2)
    assert not is_better("valid/loss", 0.2, 0.1)
    for name in ("valid/acc", "train/f1"):
        assert is_better(name, 0.2, 0.1)
        assert not is_better(name, 0.1, 0.2)


@pytest.mark.parametrize("name", full_names("valid"))
def test_is_better__neither_an_equal_value_nor_nan(name: str) -> None:
    assert not is_better(name, 0.5, 0.5)
    for other in (0.5, math.inf, -math.inf, worst_value(name)):
        assert not is_better(name, math.nan, other)


@pytest.mark.parametrize("name", full_names("valid"))
def test_worst_value__any_number_is_better(name: str) -> None:
    for value in (-1e30, 0.0, 1e30):
        assert is_better(name, value, worst_value(name))
        assert not is_better(name, worst_value(name), value)


def test_import__does_not_import_torch() -> None:
    program = "import sys, headstart.metrics; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
