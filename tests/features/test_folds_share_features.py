"""All folds share the stored features of their images."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from conftest import ARCH, SMALL, settings_of
from PIL import Image, ImageFile

from headstart.backbones.backbone import load_backbone
from headstart.config.train import TrainSettings
from headstart.data.dataset import EvalTransform, ImageDataset, TrainTransform
from headstart.data.prepare import prepare_data
from headstart.data.preprocessing import Array
from headstart.features.encoder import Encoder
from headstart.features.source import SplitFeatures
from headstart.features.store import FeatureStore, features_by_content, stored_features


def settings(root: Path, fold: int, *overrides: str) -> TrainSettings:
    rule = ("data.split.train=0.85", "data.split.valid=0.15")
    return settings_of(*SMALL, f"data.root={root}", *rule, "data.folds=3", f"data.fold={fold}", *overrides)


class Folds:
    """Encodes splits of folds into one store."""

    def __init__(self, root: Path, folder: Path) -> None:
        self.root, self.store = root, FeatureStore(folder)
        found = settings(root, 0)
        self.backbone = load_backbone(found.model, found.data, seed=0)
        self.encoder = Encoder(self.backbone, precision="32", compile=False)

    def features(self, fold: int, split: str, *, augmented: bool) -> SplitFeatures:
        splits = prepare_data(settings(self.root, fold).data, seed=0).manifest.splits
        preprocessing = self.backbone.preprocessing
        transform = TrainTransform(preprocessing, 0) if augmented else EvalTransform(preprocessing)
        return SplitFeatures(
            ImageDataset(splits[split], transform),
            split,
            encoder=self.encoder,
            store=self.store,
            num_workers=0,
        )

    @property
    def stored(self) -> set[str]:
        """The files in the store."""
        folder = self.store._folder
        return {str(path.relative_to(folder)) for path in folder.glob("*/*.npy")}


@pytest.fixture
def folds(flat: Path, tmp_path: Path) -> Folds:
    return Folds(flat, tmp_path / "store")


@pytest.mark.slow
def test_another_fold__encodes_nothing(folds: Folds, monkeypatch: pytest.MonkeyPatch) -> None:
    first: Array = folds.features(0, "train", augmented=True).encode_view(1)
    folds.features(0, "valid", augmented=False).encode_view(0)
    assert len(folds.stored) == 2
    assert all(name.startswith(f"{ARCH}-folds-") for name in folds.stored)
    monkeypatch.setattr(folds.encoder, "encode_chunk", None)
    second = folds.features(1, "train", augmented=True).encode_view(1)
    assert first.shape == second.shape == (24, 1024)
    assert folds.features(2, "valid", augmented=False).encode_view(0).shape == (12, 1024)
    # Also the unaugmented features of train, by which near duplicates are found.
    assert folds.features(0, "train", augmented=False).encode_view(0).shape == (24, 1024)
    assert len(folds.stored) == 2


@pytest.mark.slow
def test_features__are_those_of_the_images_without_a_store(folds: Folds) -> None:
    for fold, split, augmented in ((1, "train", True), (2, "valid", False)):
        features = folds.features(fold, split, augmented=augmented)
        dataset = ImageDataset(
            prepare_data(settings(folds.root, fold).data, seed=0).manifest.splits[split],
            features.pools[0]._dataset.transform,
        )
        images = torch.stack([image for image, _ in dataset.__getitems__([(3, i) for i in range(len(dataset))])])
        expected = folds.encoder(images)
        torch.testing.assert_close(torch.from_numpy(features.encode_view(3)), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_stored_features__of_the_splits_of_a_fold(folds: Folds) -> None:
    splits = prepare_data(settings(folds.root, 0).data, seed=0).manifest.splits
    expected = folds.features(0, "valid", augmented=False)
    matrix = expected.encode_view(0)
    spec = EvalTransform(folds.backbone.preprocessing).spec
    by_content = features_by_content(folds.store, splits, spec, folds.backbone.source.identity())
    assert set(by_content) == {content for split in splits.values() for content in split.contents}
    for content, row in zip(splits["valid"].contents, matrix, strict=True):
        assert (by_content[content] == row).all()
    # Random weights have no features for photographs.
    assert stored_features(folds.store, splits, spec) is None


def test_key__names_the_unusual_ways_in_which_images_are_read(folds: Folds) -> None:
    before = folds.features(0, "train", augmented=True).pools[0].key(0)
    assert "readings" not in before.values
    image = Image.fromarray(np.random.default_rng(0).random((40, 40)).astype(np.float32))
    image.save(next((folds.root / "red").iterdir()), "TIFF")
    after = folds.features(0, "train", augmented=True).pools[0].key(0)
    assert after.values["readings"] == ["floating-point samples, of which 1 is white"]
    assert after.folder != before.folder


@pytest.mark.parametrize("setting", [(ImageFile, "LOAD_TRUNCATED_IMAGES", True), (Image, "MAX_IMAGE_PIXELS", 1000)])
def test_key__has_the_settings_of_pillow(folds: Folds, monkeypatch: pytest.MonkeyPatch, setting: Any) -> None:
    features = folds.features(0, "train", augmented=False)
    before = features.pools[0].key(0)
    monkeypatch.setattr(*setting)
    assert features.pools[0].key(0).folder != before.folder
