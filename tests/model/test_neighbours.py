"""Nearest neighbours as a head, against the report's, and its leave-one-out votes against really leaving images out."""

import numpy as np
import pytest
import torch
from clusters import clusters

from headstart.data.preprocessing import Array
from headstart.evaluation.probes import Labelled
from headstart.model import closed_form
from headstart.model.closed_form import NEIGHBOURS, NearestNeighbours, left_out


def votes_by(train: Labelled, features: Array, count: int) -> Array:
    """The votes of the nearest of `train`, by sorting all of them."""
    mean = train.features.mean(0)
    one, other = (of / np.linalg.norm(of, axis=1, keepdims=True) for of in (features - mean, train.features - mean))
    similarities = one @ other.T
    nearest = np.argsort(-similarities, kind="stable")[:, :count]
    weights = np.take_along_axis(similarities, nearest, 1) + 1
    return np.stack([np.bincount(train.labels[own], of, 4) for own, of in zip(nearest, weights, strict=True)])


def fitted(count: int = 60) -> NearestNeighbours:
    train, head = clusters(count, 8, spread=2.0), NearestNeighbours(8, 4)
    head.fit(torch.from_numpy(train.features), torch.from_numpy(train.labels))
    return head


def test_neighbours__are_the_reports() -> None:
    head, train, other = fitted(), clusters(60, 8, spread=2.0), clusters(40, 8, seed=1)
    expected = votes_by(train, other.features, int(head.count))
    scores = head(torch.from_numpy(other.features)) / head.scale
    np.testing.assert_allclose(scores.numpy(), expected, rtol=1e-4)
    assert int(head.count) in NEIGHBOURS
    assert head.setting == f"k={int(head.count)}"


@pytest.mark.parametrize("rows", [7, 256])
@pytest.mark.parametrize("count", [12, 50])
def test_left_out__is_the_vote_of_the_others(count: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(closed_form, "QUERIES", rows)
    train = clusters(count, 8, spread=2.0)
    features, labels = torch.from_numpy(train.features), torch.from_numpy(train.labels)
    for k, votes in left_out(features, labels, counts=NEIGHBOURS, classes=4).items():
        for i in range(count):
            others = train[np.delete(np.arange(count), i)]
            expected = votes_by(others, train.features[i : i + 1], int(k))[0]
            np.testing.assert_allclose(votes[i].numpy(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("count", [1, 2, 6])
def test_fit__to_equal_features_or_a_single_image(count: int) -> None:
    head, labels = NearestNeighbours(3, 2), torch.arange(count) % 2
    assert head.fit(torch.ones(count, 3), labels).isfinite().all()
    assert head(torch.ones(2, 3)).isfinite().all()


def test_unfitted__says_nothing() -> None:
    assert not NearestNeighbours(8, 4)(torch.randn(3, 8)).any()


def test_load__however_many_images_either_knows() -> None:
    head, features = fitted(), torch.from_numpy(clusters(10, 8, seed=1).features)
    for other in (NearestNeighbours(8, 4), fitted(20)):
        other.load_state_dict(head.state_dict())
        assert torch.equal(other(features), head(features))


def test_fit__a_copy_has_no_say() -> None:
    train = clusters(40, 8, spread=4.0)
    units = np.arange(40).repeat(3)
    inputs = torch.from_numpy(train.features[units]), torch.from_numpy(train.labels[units])
    by_copies = (NearestNeighbours(8, 4).fit(*inputs).argmax(1) == inputs[1]).double().mean()
    by_others = (NearestNeighbours(8, 4).fit(*inputs, torch.from_numpy(units)).argmax(1) == inputs[1]).double().mean()
    assert by_copies == 1
    assert by_others < 0.8
