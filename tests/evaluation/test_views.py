"""Predictions averaged over views of each image: what they are, when they are used, and that they are encoded once."""

from pathlib import Path

import pytest
import torch
from test_predictions import classifier_and_data, settings_for
from torch import Tensor

from headstart.data.dataset import EvalViewsTransform
from headstart.data.images import read_rgb
from headstart.evaluation.predictions import Averaging, Predictions, predict_split, predict_splits, predict_views
from headstart.features.encoder import Encoder
from headstart.features.source import FeatureSource
from headstart.model.classifier import Classifier

pytestmark = pytest.mark.slow

SPLITS = ("valid", "test")


@pytest.fixture(autouse=True)
def calibrated(monkeypatch: pytest.MonkeyPatch) -> None:
    """The mean always helps; whether it does is a test of its own."""
    monkeypatch.setattr(Averaging, "helps", True)


def setting_up(root: Path, folder: Path, *overrides: str) -> tuple[Classifier, FeatureSource]:
    """As after a training: a temperature other than 1."""
    classifier, source = classifier_and_data(settings_for(root, folder, *overrides))
    classifier.temperature.fill_(0.3)
    return classifier, source


@torch.no_grad()
def mean_by_hand(classifier: Classifier, source: FeatureSource, split: str, views: int) -> Tensor:
    """The mean of the calibrated probabilities, image by image and view by view."""
    classifier.eval()
    transform, of = EvalViewsTransform(classifier.recipe.preprocessing), source.manifest.splits[split]
    rows = []
    for path in of.paths:
        image = read_rgb(of.root / path)
        seen = torch.stack([transform(image, view, 7) for view in range(views)])
        rows.append((classifier.head(classifier.backbone(seen)) / classifier.temperature).softmax(1).mean(0))
    return torch.stack(rows)


@pytest.mark.parametrize("choice", ["features.cache=true", "features.cache=false", "finetune=gradual", "finetune=full"])
def test_mean__is_that_of_the_views_of_each_image(flat: Path, tmp_path: Path, choice: str) -> None:
    views = 3
    classifier, source = setting_up(flat, tmp_path, choice)
    if choice.startswith("finetune"):
        with torch.no_grad():
            next(classifier.backbone.parameters()).mul_(1.2)
    found, averaging = predict_views(classifier, source, SPLITS, views)
    plain = predict_splits(classifier, source, SPLITS)
    assert averaging is not None
    for split in SPLITS:
        expected = mean_by_hand(classifier, source, split, views)
        torch.testing.assert_close(found[split].calibrated.exp(), expected, atol=1e-5, rtol=0)
        assert not torch.allclose(expected, plain[split].calibrated.exp(), atol=1e-4)
        assert torch.equal(found[split].labels, plain[split].labels)
    assert averaging.mean["valid/loss"] == pytest.approx(found["valid"].metrics("valid")["valid/loss"])


def test_features__of_each_view_are_encoded_once(flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    classifier, source = setting_up(flat, tmp_path)
    predict_splits(classifier, source, SPLITS)
    counts: list[int] = []
    encode = Encoder.encode_chunk

    def counted(encoder: Encoder, images: Tensor) -> Tensor:
        counts.append(len(images))
        return encode(encoder, images)

    monkeypatch.setattr(Encoder, "encode_chunk", counted)
    first, _ = predict_views(classifier, source, SPLITS, 3)
    images = source.manifest.counts["valid"] + source.manifest.counts["test"]
    # Of the first view, the features that were there are used.
    assert sum(counts) == 2 * images
    predict_views(classifier, source, SPLITS, 4)
    assert sum(counts) == 3 * images
    classifier, source = setting_up(flat, tmp_path, "data.batch_size=5", "seed=0")
    again, _ = predict_views(classifier, source, SPLITS, 3)
    assert sum(counts) == 3 * images
    torch.testing.assert_close(again["test"].log_probs, first["test"].log_probs)


def test_one_view__is_the_plain_prediction(flat: Path, tmp_path: Path) -> None:
    classifier, source = setting_up(flat, tmp_path)
    found, averaging = predict_views(classifier, source, SPLITS, 1)
    assert averaging is None
    assert found["test"].temperature == pytest.approx(0.3)


@pytest.mark.parametrize("helps", [True, False])
def test_test_split__is_averaged_only_if_that_helped_on_valid(
    flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, helps: bool
) -> None:
    monkeypatch.setattr(Averaging, "helps", helps)
    classifier, source = setting_up(flat, tmp_path)
    seen: list[str] = []

    def remembered(classifier: Classifier, loader: torch.utils.data.DataLoader[object]) -> Predictions:
        found = predict_split(classifier, loader)
        seen.append(next(name for name, split in source.manifest.splits.items() if split.paths == found.paths))
        return found

    monkeypatch.setattr("headstart.evaluation.predictions.predict_split", remembered)
    found, averaging = predict_views(classifier, source, SPLITS, 2)
    assert averaging is not None
    assert averaging.used == (2 if helps else 1)
    # One view of each split, and then the other view.
    assert seen == ["valid", "test", *(["valid", "test"] if helps else ["valid"])]
    assert found["test"].temperature == pytest.approx(1 if helps else 0.3)


@pytest.mark.parametrize(("loss", "says"), [(0.2, "lowers"), (0.3, "does not lower"), (0.4, "does not lower")])
def test_averaging__is_judged_by_the_loss(monkeypatch: pytest.MonkeyPatch, loss: float, says: str) -> None:
    monkeypatch.undo()
    found = Averaging(4, {"valid/loss": 0.3, "valid/acc": 0.9}, {"valid/loss": loss, "valid/acc": 0.8})
    assert found.helps == (loss < 0.3)
    assert f"{says} the loss on the valid split (0.3000 to {loss:.4f}; accuracy 0.9000 to 0.8000)" in found.describe()
    assert found.metrics() == {
        "views": 4, "views_used": 4 if found.helps else 1, "one_view/valid/loss": 0.3, "one_view/valid/acc": 0.9,
        "mean_of_views/valid/loss": loss, "mean_of_views/valid/acc": 0.8,
    }  # fmt: skip
