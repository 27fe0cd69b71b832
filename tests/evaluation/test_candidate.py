"""Backbones ranked by the accuracy of simple classifiers on their features."""

import numpy as np
import pytest

from headstart.evaluation.compare import Candidate, describe, equals_of_first, ranked


def candidate(arch: str, ridge: int, knn: int, images: int = 200) -> Candidate:
    """With this many images classified correctly, the first ones."""
    order = np.arange(images)
    return Candidate(arch, "default", {"ridge": order < ridge, "knn": order < knn}, 12.3, 4.5, 6)


FAILED = Candidate("gone", "default", reason="it could not be downloaded")


def test_ranked__by_the_better_classifier_and_failures_last() -> None:
    found = ranked([FAILED, candidate("low", 120, 110), candidate("high", 100, 190), candidate("middle", 185, 0)])
    assert [c.arch for c in found] == ["high", "middle", "low", "gone"]
    assert (found[0].head, found[0].accuracy) == ("knn", 0.95)
    # Five images that only the first classifies correctly: 2 / 2⁵.
    assert found[1].p_value == pytest.approx(0.0625)
    assert [c.arch for c in equals_of_first(found)] == ["middle"]


def test_describe__names_those_that_cannot_be_told_apart_and_the_failures() -> None:
    text = describe(ranked([candidate("high", 190, 0), candidate("middle", 185, 0), candidate("low", 120, 0), FAILED]))
    assert "cannot be told apart from the first (exact McNemar test): middle (default)" in text
    assert "gone (default) could not be compared: it could not be downloaded" in text
    assert "5-fold cross-validation on the 200 images of train and valid" in text
    assert text.splitlines()[-1] == "to train with the first: model.arch=high"
    clear = describe(ranked([candidate("high", 190, 0), candidate("low", 120, 0)]))
    assert "the first is better than the others by more than chance" in clear
    assert "McNemar" not in describe(ranked([candidate("alone", 190, 0)]))
    assert describe([FAILED]) == "gone (default) could not be compared: it could not be downloaded"
