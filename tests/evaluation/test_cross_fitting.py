"""Scores by the fit to the other folds, against fitting them."""

from pathlib import Path

import numpy as np
import pytest
from clusters import clusters

from headstart.data.splits import FOLDS, stratified_folds
from headstart.evaluation import answers
from headstart.evaluation.answers import scores_by_other_folds
from headstart.evaluation.probes import Array, Labelled, ridge


def all_scores(data: list[Labelled], folds: Array, penalty: float) -> Array:
    scores = np.full((len(folds), data[0].classes), np.nan)
    for rows, found in scores_by_other_folds(data, folds, penalty):
        assert np.isnan(scores[rows]).all()
        scores[rows] = found
    return scores


# Fewer images than features; more, but not in four folds; many.
@pytest.mark.parametrize(("count", "width"), [(60, 80), (60, 55), (300, 12)])
@pytest.mark.parametrize("penalty", [1e-3, 1.0])
def test_scores__are_those_of_fits_to_the_others(
    count: int, width: int, penalty: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(answers, "ROWS", 17)
    data = clusters(count, width, spread=2.0)
    # As after a ReLU: far from 0, compared with what differs.
    data = Labelled(data.features + 100, data.labels, data.classes)
    folds = stratified_folds(data.labels, 0)
    expected = np.zeros((count, data.classes))
    for fold in range(FOLDS):
        others = data[np.flatnonzero(folds != fold)]
        expected[folds == fold] = ridge(others, penalty)(data.features[folds == fold])
    parts = [data[:10], data[10:25], data[25:]]
    np.testing.assert_allclose(all_scores(parts, folds, penalty), expected, atol=1e-8)


def test_scores__of_stored_features(tmp_path: Path) -> None:
    data = clusters(90, 12)
    np.save(tmp_path / "view.npy", data.features.astype(np.float16))
    stored = np.load(tmp_path / "view.npy", mmap_mode="r")
    folds = stratified_folds(data.labels, 0)
    expected = all_scores([Labelled(stored.astype(np.float32), data.labels, data.classes)], folds, 0.1)
    found = all_scores([Labelled(stored, data.labels, data.classes)], folds, 0.1)
    np.testing.assert_allclose(found, expected, atol=1e-12)


def test_scores__where_a_class_is_in_one_fold_alone() -> None:
    data = clusters(60, 6)
    labels = data.labels.copy()
    labels[:2] = 3
    labels[2:][labels[2:] == 3] = 0
    folds = np.arange(60) % FOLDS
    folds[:2] = 4
    assert np.isfinite(all_scores([Labelled(data.features, labels, 4)], folds, 0.1)).all()
