"""Intervals and paired tests."""

import numpy as np
import pytest

from headstart.evaluation.predictions import holm, mcnemar, wilson_interval


@pytest.mark.parametrize(
    ("correct", "count", "expected"),
    [
        # Newcombe 1998, table I.
        (81, 263, (0.2553, 0.3662)),
        (15, 148, (0.0624, 0.1605)),
        (0, 20, (0.0, 0.1611)),
        (29, 29, (0.8830, 1.0)),
        (0, 0, (0.0, 1.0)),
    ],
)
def test_wilson_interval(correct: int, count: int, expected: tuple[float, float]) -> None:
    assert wilson_interval(np.arange(count) < correct) == pytest.approx(expected, abs=5e-5)


def test_wilson_interval__contains_the_accuracy_and_ends_exactly_at_0_and_1() -> None:
    # The formula in floating-point numbers gives 0.9999999999999999 for 10 of 10.
    for count in range(1, 60):
        assert wilson_interval(np.zeros(count, bool))[0] == 0.0
        assert wilson_interval(np.ones(count, bool))[1] == 1.0
        for correct in {0, 1, count // 2, count - 1, count}:
            low, high = wilson_interval(np.arange(count) < correct)
            assert 0.0 <= low <= correct / count <= high <= 1.0


def right(*outcomes: int) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    return np.array(outcomes, bool)


def test_mcnemar__by_hand() -> None:
    # Of five samples on which they differ, the first is right on all: 2 × 0.5 ** 5.
    assert mcnemar(right(1, 1, 1, 1, 1, 1), right(0, 0, 0, 0, 0, 1)) == pytest.approx(2 / 32)
    assert mcnemar(right(1, 1, 1, 0), right(0, 0, 0, 1)) == pytest.approx(2 * (1 + 4) / 16)


def test_mcnemar__without_a_difference_is_1() -> None:
    assert mcnemar(right(1, 0, 1), right(1, 0, 1)) == 1
    assert mcnemar(right(1, 0), right(0, 1)) == 1


def test_mcnemar__of_many_samples_does_not_overflow() -> None:
    first, second = np.arange(6000) % 2 == 0, np.arange(6000) % 2 == 1
    assert mcnemar(first, second) == 1
    assert mcnemar(np.ones(6000, bool), np.zeros(6000, bool)) == 0


def test_wilson_interval__of_copies_is_that_of_one_each() -> None:
    correct = np.arange(60) < 45
    low, high = wilson_interval(correct)
    of_copies = wilson_interval(correct.repeat(4), np.arange(60).repeat(4))
    assert of_copies == pytest.approx((low, high), abs=2e-3)
    assert wilson_interval(correct.repeat(4))[0] > low + 0.03


def test_wilson_interval__of_groups_covers_the_truth() -> None:
    # Groups of ten images, all right or all wrong but for one in five images.
    generator, inside = np.random.default_rng(0), 0
    units = np.arange(40).repeat(10)
    for _ in range(300):
        correct = (generator.random(40) < 0.8).repeat(10) ^ (generator.random(400) < 0.2)
        low, high = wilson_interval(correct, units)
        inside += low <= 0.68 <= high
    assert 0.92 <= inside / 300 <= 0.98


def test_mcnemar__of_copies_is_that_of_one_each() -> None:
    first, second = right(1, 1, 1, 1, 1, 1, 0), right(0, 0, 0, 0, 0, 1, 1)
    units = np.arange(7).repeat(3)
    assert mcnemar(first.repeat(3), second.repeat(3), units) == mcnemar(first, second)
    assert mcnemar(first.repeat(3), second.repeat(3)) < 0.01


def test_mcnemar__of_groups_rejects_equal_classifiers_rarely() -> None:
    generator, rejected = np.random.default_rng(0), 0
    units = np.arange(40).repeat(10)
    for _ in range(300):
        first, second = (generator.random(40) < 0.8).repeat(10), (generator.random(40) < 0.8).repeat(10)
        rejected += mcnemar(first, second, units) < 0.05
    assert rejected / 300 <= 0.07


def test_holm__by_hand() -> None:
    assert holm([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0]
    assert holm([]) == []
