from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from headstart.data.manifest import Split
from headstart.features.store import FeatureStore, Key, features_by_content, stored_features

Array = np.ndarray[Any, np.dtype[Any]]
TRANSFORM = {"name": "eval"}
SPLITS = {
    name: Split(Path("root"), (f"{name}/0.jpg", f"{name}/1.jpg"), (0, 1), (f"{name}0", f"{name}1"))
    for name in ("train", "valid")
}


def matrix(seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=(2, 4)).astype(np.float16)


def store_view(
    store: FeatureStore, split: str, arch: str, seed: int, *, transform: str = "eval", has_photo_features: bool = True
) -> None:
    backbone = {"arch": arch, "has_photo_features": has_photo_features}
    values = {"data": SPLITS[split].fingerprint, "transform": {"name": transform}, "backbone": backbone}
    store.get_or_compute(Key("net-x", values), 0, shape=(2, 4), dtype="float16", rows=lambda: [matrix(seed)])


def test_stored_features__nothing_stored(tmp_path: Path) -> None:
    assert stored_features(FeatureStore(tmp_path), SPLITS, TRANSFORM) is None


def test_stored_features__all_splits_with_one_backbone(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    store_view(store, "train", "b", 0, transform="train")
    store_view(store, "train", "a", 1)
    store_view(store, "valid", "b", 2)
    assert stored_features(store, SPLITS, TRANSFORM) is None
    store_view(store, "train", "b", 3)
    found = stored_features(store, SPLITS, TRANSFORM)
    assert found is not None
    assert np.array_equal(found["train"], matrix(3))
    assert np.array_equal(found["valid"], matrix(2))


def test_stored_features__not_of_a_backbone_without_photo_features(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    for name in SPLITS:
        store_view(store, name, "random", 4, has_photo_features=False)
    assert stored_features(store, SPLITS, TRANSFORM) is None


def test_stored_features__not_of_images_that_are_read_differently_today(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    for name in SPLITS:
        store_view(store, name, "a", 5)
    splits = SPLITS | {"train": replace(SPLITS["train"], readings=("white is 0",))}
    assert stored_features(store, splits, TRANSFORM) is None
    assert list(features_by_content(store, splits, TRANSFORM, {"arch": "a", "has_photo_features": True})) == [
        "valid0",
        "valid1",
    ]
    values = {"data": SPLITS["train"].fingerprint, "transform": TRANSFORM, "readings": ["white is 0"]}
    values["backbone"] = {"arch": "a", "has_photo_features": True}
    store.get_or_compute(Key("net-x", values), 0, shape=(2, 4), dtype="float16", rows=lambda: [matrix(6)])
    found = stored_features(store, splits, TRANSFORM)
    assert found is not None
    assert np.array_equal(found["train"], matrix(6))
