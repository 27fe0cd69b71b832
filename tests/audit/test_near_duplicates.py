from pathlib import Path
from typing import Any

import numpy as np

from headstart.audit.findings import Finding
from headstart.audit.from_features import find_from_features
from headstart.data.manifest import Split

Array = np.ndarray[Any, np.dtype[Any]]


def split(name: str, count: int, contents: tuple[str, ...] | None = None, labels: tuple[int, ...] = ()) -> Split:
    paths = tuple(f"{name}/{index}.jpg" for index in range(count))
    return Split(
        Path("root"), paths, labels or (0,) * count, contents or tuple(f"{name}{index}" for index in range(count))
    )


def features(count: int, seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=(count, 64)).astype(np.float16)


def near_duplicates(splits: dict[str, Split], features: dict[str, Array]) -> list[Finding]:
    return [finding for finding in find_from_features(splits, features) if finding.kind != "outlier"]


def test_similar_pairs__are_listed_most_similar_first() -> None:
    train, valid, test = features(30, 0), features(10, 1), features(10, 2)
    valid[3] = train[7] * 2 + 0.001
    test[4] = train[8] + 0.3 * features(1, 9)[0]
    test[5] = valid[6]
    splits = {"train": split("train", 30), "valid": split("valid", 10), "test": split("test", 10)}
    found = near_duplicates(splits, {"train": train, "valid": valid, "test": test})
    assert found[2].paths == ("train/8.jpg", "test/4.jpg")
    assert {f.paths for f in found} == {
        ("train/7.jpg", "valid/3.jpg"),
        ("valid/6.jpg", "test/5.jpg"),
        ("train/8.jpg", "test/4.jpg"),
    }
    assert [f.says for f in found] == sorted((f.says for f in found), reverse=True)
    assert found[0].says.startswith("similarity 1.0")


def test_exact_duplicates__are_not_listed_again() -> None:
    train, valid = features(30, 0), features(10, 1)
    valid[3] = train[7]
    contents = tuple("train7" if index == 3 else f"valid{index}" for index in range(10))
    splits = {"train": split("train", 30), "valid": split("valid", 10, contents)}
    assert near_duplicates(splits, {"train": train, "valid": valid}) == []


def test_large_common_part__does_not_make_all_images_similar() -> None:
    train, valid = features(30, 0) + 100, features(10, 1) + 100
    splits = {"train": split("train", 30), "valid": split("valid", 10)}
    assert near_duplicates(splits, {"train": train, "valid": valid}) == []


def test_within_a_split__each_pair_once_and_conflicting_labels_apart() -> None:
    train = features(1100, 0)
    train[1050] = train[3] + 0.01
    train[9], train[8] = train[7] * 2, train[7] + 0.02
    labels = tuple(1 if index == 1050 else 0 for index in range(1100))
    found = near_duplicates({"train": split("train", 1100, None, labels)}, {"train": train})
    assert [(f.kind, f.paths) for f in found][:1] == [
        ("near duplicates with conflicting labels", ("train/3.jpg", "train/1050.jpg"))
    ]
    assert {f.paths for f in found[1:]} == {("train/7.jpg", "train/9.jpg"), ("train/8.jpg", "train/9.jpg")}
    assert {f.kind for f in found[1:]} == {"near duplicates within a split"}


def test_within_a_split__exact_duplicates_are_not_listed_again() -> None:
    train = features(30, 0)
    train[3] = train[7]
    contents = tuple("same" if index in (3, 7) else f"train{index}" for index in range(30))
    assert near_duplicates({"train": split("train", 30, contents)}, {"train": train}) == []


def test_outlier__what_is_far_from_all_others() -> None:
    # Ten groups of images that are alike, and one image that is like none.
    centers = np.random.default_rng(3).normal(size=(10, 64))
    train = (np.repeat(centers, 120, axis=0) + 0.7 * features(1200, 1)).astype(np.float16)
    train[1111] = 3 * features(1, 5)[0]
    found = find_from_features({"train": split("train", 1200)}, {"train": train})
    assert [(f.kind, f.paths) for f in found] == [("outlier", ("train/1111.jpg",))]
