"""Logistic regression as a head, against scikit-learn's."""

import numpy as np
import pytest
import torch
from clusters import clusters
from sklearn.linear_model import LogisticRegression  # type: ignore[import-untyped]

from headstart.data.preprocessing import Array
from headstart.data.splits import unit_folds
from headstart.model import closed_form
from headstart.model.closed_form import STRENGTHS, Logistic, LogisticFits


def scikit_learns(features: Array, labels: Array, penalty: float) -> LogisticRegression:
    # scikit-learn sums over samples where headstart averages.
    return LogisticRegression(C=1 / (penalty * len(features)), tol=1e-8, max_iter=2000).fit(features, labels)


# More images than features, and fewer.
SHAPES = pytest.mark.parametrize(("count", "width"), [(200, 6), (40, 90)])


@SHAPES
def test_fit__is_scikit_learns(count: int, width: int) -> None:
    train, other, head = clusters(count, width, spread=2.0), clusters(50, width, seed=1, spread=2.0), Logistic(width, 4)
    head.fit(torch.from_numpy(train.features), torch.from_numpy(train.labels))
    mean, scale = train.features.mean(0), train.features.std(0)
    model = scikit_learns((train.features - mean) / scale, train.labels, float(head.penalty))
    probs = head(torch.from_numpy(other.features)).softmax(1).numpy()
    np.testing.assert_allclose(probs, model.predict_proba((other.features - mean) / scale), atol=0.02)
    assert head.setting == f"penalty {float(head.penalty):g}"


@pytest.mark.slow
@SHAPES
def test_fit__returns_the_scores_by_other_folds_with_the_lowest_log_loss(count: int, width: int) -> None:
    train, head = clusters(count, width, spread=2.0), Logistic(width, 4)
    scores = head.fit(torch.from_numpy(train.features), torch.from_numpy(train.labels)).softmax(1).numpy()
    standardized = (train.features - train.features.mean(0)) / train.features.std(0)
    folds, losses = unit_folds(train.labels, None, 0), {}
    for penalty in STRENGTHS:
        probs = np.empty((count, 4))
        for fold in range(5):
            model = scikit_learns(standardized[folds != fold], train.labels[folds != fold], penalty)
            probs[folds == fold] = model.predict_proba(standardized[folds == fold])
        losses[penalty] = -np.log(probs[np.arange(count), train.labels]).mean()
        if penalty == pytest.approx(float(head.penalty)):
            np.testing.assert_allclose(scores, probs, atol=0.05)
    assert losses[min(losses, key=lambda p: abs(p - float(head.penalty)))] <= min(losses.values()) + 1e-3


@pytest.mark.slow
def test_fit__a_copy_has_no_say() -> None:
    generator = np.random.default_rng(0)
    features, labels = generator.normal(size=(60, 100)).astype(np.float32), generator.integers(0, 3, 60)
    units = np.arange(60).repeat(2)
    inputs = torch.from_numpy(features[units]), torch.from_numpy(labels[units])
    assert (Logistic(100, 3).fit(*inputs).argmax(1) == inputs[1]).double().mean() > 0.6
    assert (Logistic(100, 3).fit(*inputs, torch.from_numpy(units)).argmax(1) == inputs[1]).double().mean() < 0.5


def test_fit__of_many_images_uses_some(monkeypatch: pytest.MonkeyPatch) -> None:
    train = clusters(400, 10, spread=0.5)
    monkeypatch.setattr(closed_form, "MOST_PRODUCTS", 100 * 10 * 4)
    (_, scores), *_ = LogisticFits(train.features, train.labels, 4).by_folds(unit_folds(train.labels, None, 0))
    assert (scores.argmax(1) == train.labels).mean() > 0.9


@pytest.mark.parametrize("count", [1, 2, 6])
def test_fit__to_equal_features_or_a_single_image(count: int) -> None:
    head, labels = Logistic(3, 2), torch.arange(count) % 2
    assert head.fit(torch.ones(count, 3), labels).isfinite().all()
    assert head(torch.ones(2, 3)).isfinite().all()


def test_unfitted__says_nothing() -> None:
    assert not Logistic(8, 4)(torch.randn(3, 8)).any()
