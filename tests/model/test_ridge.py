"""Ridge regression as a head, against scikit-learn's, also where each image is left out."""

import numpy as np
import pytest
import torch
from clusters import clusters
from sklearn.linear_model import Ridge as SklearnRidge  # type: ignore[import-untyped]

from headstart.evaluation import probes
from headstart.model import closed_form
from headstart.model.closed_form import PENALTIES, LeastSquares, Ridge

# More images than features, fewer, and as many.
SHAPES = [(60, 8), (12, 40), (20, 20)]


def fitted(count: int, width: int) -> tuple[Ridge, probes.Labelled, torch.Tensor]:
    """A head, what it was fitted to, and the scores that this returned."""
    train, head = clusters(count, width, spread=2.0), Ridge(width, 4)
    return head, train, head.fit(torch.from_numpy(train.features), torch.from_numpy(train.labels))


@pytest.mark.parametrize(("count", "width"), SHAPES)
def test_ridge__is_scikit_learns_and_the_reports(count: int, width: int) -> None:
    head, train, _ = fitted(count, width)
    other = clusters(30, width, seed=1)
    scores = head(torch.from_numpy(other.features)).numpy() / float(head.scale)
    penalty = float(head.penalty)
    centred = train.features - train.features.mean(0)
    strength = penalty * np.square(centred, dtype=np.float64).sum() / min(count, width)
    model = SklearnRidge(alpha=strength).fit(train.features.astype(float), train.targets)
    np.testing.assert_allclose(scores, model.predict(other.features), atol=1e-4)
    np.testing.assert_allclose(scores, probes.ridge(train, penalty)(other.features), atol=1e-4)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(("count", "width"), SHAPES)
def test_left_out__is_scikit_learns_without_the_image(count: int, width: int, penalty: float) -> None:
    train = clusters(count, width, spread=2.0)
    x, targets = train.features.astype(float), train.targets
    strength = penalty * np.square(x - x.mean(0)).sum() / min(count, width)
    expected = []
    for i in range(count):
        others = np.delete(np.arange(count), i)
        expected.append(SklearnRidge(alpha=strength).fit(x[others], targets[others]).predict(x[i : i + 1])[0])
    np.testing.assert_allclose(LeastSquares(train.features, targets).left_out(penalty), expected, atol=1e-5)


@pytest.mark.parametrize("penalty", PENALTIES)
@pytest.mark.parametrize(("count", "width"), SHAPES)
def test_left_out__of_a_group_is_scikit_learns_without_it(count: int, width: int, penalty: float) -> None:
    train, units = clusters(count, width, spread=2.0), np.random.default_rng(0).integers(0, count // 3, count)
    x, targets = train.features.astype(float), train.targets
    strength = penalty * np.square(x - x.mean(0)).sum() / min(count, width)
    expected = np.empty_like(targets)
    for unit in np.unique(units):
        own = units == unit
        expected[own] = SklearnRidge(alpha=strength).fit(x[~own], targets[~own]).predict(x[own])
    np.testing.assert_allclose(LeastSquares(train.features, targets).left_out(penalty, units), expected, atol=1e-5)


@pytest.mark.parametrize(("count", "width"), SHAPES)
def test_least_squares__are_the_same_in_parts(count: int, width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    train = clusters(count, width)
    whole = LeastSquares(train.features, train.targets)
    monkeypatch.setattr(closed_form, "ROWS", 7)
    parts = LeastSquares(train.features, train.targets)
    np.testing.assert_allclose(parts.weights(0.1), whole.weights(0.1), rtol=1e-8)
    np.testing.assert_allclose(parts.left_out(0.1), whole.left_out(0.1), rtol=1e-8)


def test_fit__returns_the_scores_of_left_out_images() -> None:
    head, train, scores = fitted(60, 8)
    left_out = LeastSquares(train.features, train.targets).left_out(float(head.penalty))
    np.testing.assert_allclose(scores.numpy(), left_out * float(head.scale), rtol=1e-4, atol=1e-4)
    accuracies = [
        (LeastSquares(train.features, train.targets).left_out(p).argmax(1) == train.labels).mean() for p in PENALTIES
    ]
    assert (left_out.argmax(1) == train.labels).mean() == max(accuracies)
    assert head.setting == f"penalty {float(head.penalty):g}"


@pytest.mark.parametrize("count", [1, 2, 6])
def test_fit__to_equal_features_or_a_single_image(count: int) -> None:
    head, labels = Ridge(3, 2), torch.arange(count) % 2
    assert head.fit(torch.ones(count, 3), labels).isfinite().all()
    assert head(torch.ones(2, 3)).isfinite().all()
