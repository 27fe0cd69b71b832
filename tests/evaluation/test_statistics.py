"""Intervals and paired tests."""

import numpy as np
import pytest

from headstart.evaluation.predictions import mcnemar, wilson_interval


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
    assert wilson_interval(correct, count) == pytest.approx(expected, abs=5e-5)


def test_wilson_interval__contains_the_accuracy_and_ends_exactly_at_0_and_1() -> None:
    # The formula in floating-point numbers gives 0.9999999999999999 for 10 of 10.
    for count in range(1, 60):
        assert wilson_interval(0, count)[0] == 0.0
        assert wilson_interval(count, count)[1] == 1.0
        for correct in {0, 1, count // 2, count - 1, count}:
            low, high = wilson_interval(correct, count)
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
