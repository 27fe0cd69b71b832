from pathlib import Path
from typing import Any

import numpy as np
import pytest

from headstart.auditing.findings import Finding
from headstart.auditing.report import find_from_features
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
    assert {path for f in found[1:] for path in f.paths} == {"train/7.jpg", "train/8.jpg", "train/9.jpg"}
    assert len({f.paths for f in found}) == len(found) <= 4
    assert {f.kind for f in found[1:]} == {"near duplicates within a split"}


def test_within_a_split__exact_duplicates_are_not_listed_again() -> None:
    train = features(30, 0)
    train[3] = train[7]
    contents = tuple("same" if index in (3, 7) else f"train{index}" for index in range(30))
    assert near_duplicates({"train": split("train", 30, contents)}, {"train": train}) == []


def test_mutual_pair__that_is_far_from_all_others_is_listed_below_the_threshold() -> None:
    train = features(60, 0).astype(np.float32)
    train[5] = train[4] + 0.65 * features(1, 7)[0]  # similarity about 0.84
    train[7] = train[6] + 0.65 * features(1, 8)[0]
    train[8] = train[6] + 0.65 * features(1, 9)[0]  # a third one, as similar: no pair
    found = near_duplicates({"train": split("train", 60)}, {"train": train})
    assert [f.paths for f in found] == [("train/4.jpg", "train/5.jpg")]


def test_pairs__are_the_same_however_many_images_are_compared_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    train, valid = features(50, 0), features(30, 1)
    train[40], train[48] = train[3] + 0.01, train[47]
    valid[29], valid[4], valid[6] = train[49] * 2, valid[17], train[12]
    contents = tuple("same" if index in (47, 48) else f"train{index}" for index in range(50))
    splits = {"train": split("train", 50, contents), "valid": split("valid", 30)}
    at_once = near_duplicates(splits, {"train": train, "valid": valid})
    monkeypatch.setattr("headstart.auditing.report.ROWS", 7)
    monkeypatch.setattr("headstart.auditing.report.COLUMNS", 9)
    assert near_duplicates(splits, {"train": train, "valid": valid}) == at_once
    assert {finding.paths for finding in at_once} == {
        ("train/3.jpg", "train/40.jpg"),
        ("train/49.jpg", "valid/29.jpg"),
        ("valid/4.jpg", "valid/17.jpg"),
        ("train/12.jpg", "valid/6.jpg"),
    }


def test_outlier__what_is_unlike_the_rest_of_its_class() -> None:
    centers = np.random.default_rng(3).normal(size=(3, 64))
    labels = tuple(index % 3 for index in range(300))
    train = (centers[list(labels)] + 0.5 * features(300, 1)).astype(np.float16)
    train[30] = 3 * features(1, 5)[0]  # like none
    train[61] = centers[0] + 0.5 * features(1, 6)[0]  # like another class
    found = find_from_features({"train": split("train", 300, None, labels)}, {"train": train})
    assert [(f.kind, f.paths) for f in found] == [("outlier", ("train/30.jpg",)), ("outlier", ("train/61.jpg",))]
