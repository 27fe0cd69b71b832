from pathlib import Path
from typing import Any

import numpy as np

from headstart.audit.near_duplicates import near_duplicates
from headstart.data.manifest import Split

Array = np.ndarray[Any, np.dtype[Any]]


def split(name: str, count: int, contents: tuple[str, ...] | None = None) -> Split:
    paths = tuple(f"{name}/{index}.jpg" for index in range(count))
    return Split(Path("root"), paths, (0,) * count, contents or tuple(f"{name}{index}" for index in range(count)))


def features(count: int, seed: int) -> Array:
    return np.random.default_rng(seed).normal(size=(count, 64)).astype(np.float16)


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
