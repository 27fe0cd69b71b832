"""Whether more images would help, on features whose truth is known."""

import numpy as np
import pytest
from clusters import clusters
from scipy.stats import binom  # type: ignore[import-untyped]

from headstart.evaluation.answers import LearningCurve, learning_curve
from headstart.evaluation.probes import Labelled, predicted, ridge


def curve_of(train: Labelled, scored: Labelled, seed: int = 0) -> LearningCurve:
    found = learning_curve(train, scored, 0.1, np.arange(len(train)), seed)
    assert found is not None
    return found


def test_curve__rises_to_all_images_and_forecasts_more() -> None:
    train, scored = clusters(800, 20, spread=2.0), clusters(400, 20, spread=2.0, seed=1)
    found = curve_of(train, scored)
    assert found.counts == (25, 50, 100, 200)
    assert [len(draws) for draws in found.right] == [32, 16, 8, 1]
    of_all = (predicted(ridge(train, 0.1), scored.features) == scored.labels).mean()
    assert found.accuracies[-1] == pytest.approx(of_all)
    assert found.accuracies[-1] > found.accuracies[0]
    value, low, high = found.forecast
    assert found.accuracies[-1] <= value <= 1
    assert low <= value <= high


@pytest.mark.slow
@pytest.mark.parametrize(("spread", "count", "scored"), [(2.0, 80, 200), (1.2, 160, 100), (3.0, 240, 150)])
def test_forecast__holds_what_twice_the_images_reach(spread: float, count: int, scored: int) -> None:
    situations, inside = 60, 0
    for seed in range(situations):
        data = clusters(2 * count + scored, 20, spread=spread, seed=seed)
        train, twice, rest = data[:count], data[: 2 * count], data[2 * count :]
        reached = (predicted(ridge(twice, 0.1), rest.features) == rest.labels).mean()
        _, low, high = curve_of(train, rest, seed).forecast
        inside += bool(low <= reached <= high)
    # As many as of a 90 % interval, within the binomial error of so few situations; and it is not too wide.
    assert inside >= binom.ppf(0.01, situations, 0.9)


def test_forecast__is_narrow_where_much_is_known() -> None:
    found = curve_of(clusters(4000, 20, spread=1.5), clusters(4000, 20, spread=1.5, seed=1))
    _, low, high = found.forecast
    assert high - low < 0.02


def test_curve__of_a_group_is_of_whole_groups() -> None:
    data = clusters(100, 10)
    groups = np.arange(100).repeat(4)
    found = learning_curve(data[groups], data, 0.1, groups, 0)
    assert found is not None
    assert found.counts[-1] == 100


@pytest.mark.parametrize("count", [4, 12])
def test_curve__of_too_few_images_is_none(count: int) -> None:
    train = clusters(count, 3)
    assert learning_curve(train, train, 0.1, np.arange(count), 0) is None
    many = np.zeros(400, int)
    assert learning_curve(clusters(400, 3), train, 0.1, many, 0) is None


def test_curve__of_classes_without_scored_images() -> None:
    train = clusters(80, 10)
    found = curve_of(train, train[np.flatnonzero(train.labels != 3)])
    assert 3 not in found.worst_classes(4)
    value, low, high = found.forecast_of(0)
    assert 0 <= low <= value <= high <= 1
