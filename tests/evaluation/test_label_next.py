"""Which images to label next: uncertain ones that differ from each other and from what has labels."""

import numpy as np
import pytest

from headstart.data.preprocessing import Array
from headstart.reviewing.labelling import CANDIDATES, SIMILAR, choose_next, margins_of

CLASSES, DIM = 4, 32


def drawn(count: int, seed: int = 0) -> tuple[Array, Array]:
    """Features (count, DIM), and probabilities (count, CLASSES) for them."""
    generator = np.random.default_rng(seed)
    probabilities = generator.dirichlet(np.ones(CLASSES), count)
    return generator.normal(size=(count, DIM)).astype(np.float32), probabilities


def directions_of(features: Array, others: Array) -> tuple[Array, Array]:
    mean = np.concatenate([features, others]).mean(0)
    centred = [of - mean for of in (features, others)]
    first, second = (of / np.linalg.norm(of, axis=1, keepdims=True) for of in centred)
    return first, second


def test_margins__are_those_of_the_two_most_probable_classes() -> None:
    _, probabilities = drawn(50)
    expected = [sorted(row)[-1] - sorted(row)[-2] for row in probabilities.tolist()]
    np.testing.assert_allclose(margins_of(probabilities), expected)
    assert margins_of(np.ones((2, 1))).tolist() == [1, 1]


def test_choices__are_of_the_most_uncertain_images_and_in_their_order() -> None:
    features, probabilities = drawn(300)
    choices = choose_next(features, probabilities, drawn(20, seed=1)[0], count=5, seed=0)
    margins = margins_of(probabilities)
    most_uncertain = set(np.argsort(margins, kind="stable")[: CANDIDATES * 5].tolist())
    assert len({choice.index for choice in choices}) == 5
    assert {choice.index for choice in choices} <= most_uncertain
    assert [choice.margin for choice in choices] == sorted(margins[[choice.index for choice in choices]])
    assert sum(choice.stands_for for choice in choices) == CANDIDATES * 5


def test_choices__are_one_of_each_cluster() -> None:
    generator = np.random.default_rng(0)
    centres = 10 * np.eye(6, DIM)
    clusters = np.repeat(np.arange(6), CANDIDATES)
    features = (centres[clusters] + 0.1 * generator.normal(size=(60, DIM))).astype(np.float32)
    probabilities = np.tile([0.5, 0.5, 0, 0], (60, 1))
    choices = choose_next(features, probabilities, drawn(4)[0], count=6, seed=3, near=2.0)
    assert sorted(clusters[[choice.index for choice in choices]]) == list(range(6))
    assert [choice.stands_for for choice in choices] == [CANDIDATES] * 6


def test_near_duplicates__of_labelled_images_and_of_each_other_are_left_out() -> None:
    features, probabilities = drawn(60)
    noise = 0.05 * np.random.default_rng(5).normal(size=(20, DIM)).astype(np.float32)
    labelled = np.concatenate([features[:20] + noise, drawn(10, seed=7)[0]])
    features = np.concatenate([features, features[40:60] + noise])
    probabilities = np.concatenate([probabilities, probabilities[40:60]])
    choices = choose_next(features, probabilities, labelled, count=80, seed=0)
    found = [choice.index for choice in choices]
    own, others = directions_of(features, labelled)
    assert (own[found] @ others.T).max() < SIMILAR
    among = own[found] @ own[found].T - 2 * np.eye(len(found))
    assert among.max() < SIMILAR
    # All that are no near duplicates: of each pair, one.
    assert len(found) == 40


@pytest.mark.parametrize("count", [1, 7, 500])
def test_count__may_be_larger_than_what_is_left(count: int) -> None:
    features, probabilities = drawn(7)
    choices = choose_next(features, probabilities, drawn(3, seed=1)[0], count=count, seed=0)
    assert len(choices) == min(count, 7)


def test_same_images__are_offered_once_and_labelled_ones_never() -> None:
    features, unsure = np.ones((5, DIM), np.float32), np.full((5, 2), 0.5)
    assert [choice.index for choice in choose_next(features, unsure, -features, count=3, seed=0)] == [0]
    assert choose_next(features, unsure, np.concatenate([features, -features]), count=3, seed=0) == []


def test_one_class__and_equal_margins_give_the_same_result_again() -> None:
    features, labelled = drawn(40)[0], drawn(5, seed=1)[0]
    certain = np.tile([1.0, 0, 0], (40, 1))
    first, again = (choose_next(features, certain, labelled, count=6, seed=2) for _ in range(2))
    assert first == again
    assert len({choice.index for choice in first}) == 6


def test_large_pool__in_parts_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    features, probabilities = drawn(100)
    labelled = drawn(50, seed=2)[0]
    expected = choose_next(features, probabilities, labelled, count=4, seed=0)
    monkeypatch.setattr("headstart.evaluation.probes.PART", 7)
    assert choose_next(features, probabilities, labelled, count=4, seed=0) == expected
