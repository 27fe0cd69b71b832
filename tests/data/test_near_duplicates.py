from pathlib import Path

import numpy as np

from headstart.data.manifest import Split
from headstart.data.near_duplicates import near_duplicates, stored_features
from headstart.features.store import FeatureStore, Key


def split(name: str, count: int, contents: tuple[str, ...] | None = None) -> Split:
    paths = tuple(f"{name}/{index}.jpg" for index in range(count))
    return Split(Path("root"), paths, (0,) * count, contents or tuple(f"{name}{index}" for index in range(count)))


def features(count: int, seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, 64)).astype(np.float16)


def test_alike__is_listed_with_its_similarity_the_most_similar_first() -> None:
    train, valid, test = features(30, 0), features(10, 1), features(10, 2)
    valid[3] = train[7] * 2 + 0.001
    test[4] = train[8] + 0.3 * features(1, 9)[0]
    test[5] = valid[6]
    splits = {"train": split("train", 30), "valid": split("valid", 10), "test": split("test", 10)}
    found = near_duplicates(splits, {"train": train, "valid": valid, "test": test})
    assert [f.paths for f in found][2] == ("train/8.jpg", "test/4.jpg")
    assert {f.paths for f in found} == {
        ("train/7.jpg", "valid/3.jpg"),
        ("valid/6.jpg", "test/5.jpg"),
        ("train/8.jpg", "test/4.jpg"),
    }
    assert [f.says for f in found] == sorted((f.says for f in found), reverse=True)
    assert found[0].says.startswith("similarity 1.0")


def test_exact_copies__are_not_listed_again() -> None:
    train, valid = features(30, 0), features(10, 1)
    valid[3] = train[7]
    contents = tuple("train7" if index == 3 else f"valid{index}" for index in range(10))
    splits = {"train": split("train", 30), "valid": split("valid", 10, contents)}
    assert near_duplicates(splits, {"train": train, "valid": valid}) == []


def test_a_large_common_part__does_not_make_everything_alike() -> None:
    train, valid = features(30, 0) + 100, features(10, 1) + 100
    splits = {"train": split("train", 30), "valid": split("valid", 10)}
    assert near_duplicates(splits, {"train": train, "valid": valid}) == []


def keep(store: FeatureStore, data: str, transform: str, arch: str, seed: int, *, knows: bool = True) -> None:
    backbone = {"arch": arch, "knows_photographs": knows}
    key = Key("net-x", {"data": data, "transform": {"name": transform}, "backbone": backbone})
    store.matrix(key, 0, shape=(5, 4), dtype="float16", rows=lambda: [features(5, seed)[:, :4]])


def test_stored_features__those_of_one_backbone_for_all_splits(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    splits = {"train": split("train", 5), "valid": split("valid", 5)}
    transform = {"name": "eval"}
    prints = {name: s.fingerprint for name, s in splits.items()}
    assert stored_features(store, splits, transform) is None
    keep(store, prints["train"], "train", "a", 0)
    keep(store, prints["train"], "eval", "a", 1)
    keep(store, prints["valid"], "eval", "b", 2)
    for name in ("train", "valid"):
        keep(store, prints[name], "eval", "random", 4, knows=False)
    assert stored_features(store, splits, transform) is None
    keep(store, prints["train"], "eval", "b", 3)
    found = stored_features(store, splits, transform)
    assert found is not None
    assert np.array_equal(found["train"], features(5, 3)[:, :4])
    assert np.array_equal(found["valid"], features(5, 2)[:, :4])
