import csv
import shutil
from collections import Counter
from pathlib import Path

import pytest
from conftest import settings_of

from headstart.data.prepare import PreparedData, prepare_data
from headstart.errors import HeadstartError


def prepare(root: Path, fold: int, *overrides: str, folds: int = 4) -> PreparedData:
    given = ("data=folder", f"data.root={root}", f"data.folds={folds}", f"data.fold={fold}")
    return prepare_data(settings_of(*given, *overrides).data, seed=0)


def test_folds__each_image_of_train_and_valid_is_once_in_valid(flat: Path) -> None:
    found = [prepare(flat, fold).manifest for fold in range(4)]
    valid = Counter(path for manifest in found for path in manifest.splits["valid"].paths)
    assert set(valid.values()) == {1}
    test = found[0].splits["test"].paths
    assert all(manifest.splits["test"].paths == test for manifest in found)
    for manifest in found:
        train = set(manifest.splits["train"].paths)
        assert train | set(manifest.splits["valid"].paths) == set(valid)
        assert not train & {*test, *manifest.splits["valid"].paths}
        # 10 images of each class, in folds of 3, 3, 2 and 2.
        assert set(Counter(manifest.splits["valid"].labels).values()) <= {2, 3}


def test_folds__all_images_without_test(flat: Path) -> None:
    manifest = prepare(flat, 0, "data.split.train=0.85", "data.split.valid=0.15").manifest
    assert manifest.counts == {"train": 27, "valid": 9}


def test_folds__of_given_splits_leave_test_alone(split_folders: Path) -> None:
    data = prepare(split_folders, 1)
    assert data.manifest.counts == {"train": 27, "valid": 9, "test": 12}
    assert data.manifest.origins == {
        "train": "all but fold 1 of 4 of train and valid, drawn with seed 0",
        "valid": "fold 1 of 4 of train and valid, drawn with seed 0",
        "test": str(split_folders / "test"),
    }
    assert data.manifest.notes == ("valid split: fold 1 of 4 of train and valid, drawn with seed 0",)


@pytest.mark.slow
def test_folds__copies_are_in_one_fold(flat: Path) -> None:
    for number in range(3):
        shutil.copyfile(flat / "red" / "0.jpg", flat / "red" / f"copy{number}.jpg")
    for fold in range(4):
        splits = prepare(flat, fold, "data.split.train=0.85", "data.split.valid=0.15").manifest.splits
        assert not set(splits["train"].contents) & set(splits["valid"].contents)


@pytest.mark.slow
def test_folds__groups_are_in_one_fold(flat: Path) -> None:
    seen = set()
    for fold in range(4):
        # Files of any class whose names end in the same digit.
        data = prepare(flat, fold, r"data.group=(\d)\.", "data.split.train=0.85", "data.split.valid=0.15")
        in_valid, in_train = (
            {data.manifest.groups[path] for path in data.manifest.splits[split].paths} for split in ("valid", "train")
        )
        assert not in_valid & in_train
        seen |= in_valid
    assert len(seen) == 10


@pytest.mark.slow
def test_pool__is_the_same_for_all_folds(flat: Path) -> None:
    found = [prepare(flat, fold).manifest.splits for fold in range(4)]
    pools = [pool for splits in found for name in ("train", "valid") for pool in splits[name].stored]
    assert len({pool.fingerprint for pool in pools}) == 1
    for splits in found:
        for name in ("train", "valid"):
            split = splits[name]
            assert [split.stored[0].paths[split.place(index)] for index in range(len(split))] == [*split.paths]
        assert splits["test"].stored == (splits["test"],)


def test_pool__keeps_images_that_are_dropped(split_folders: Path) -> None:
    manifest = prepare(split_folders, 0).manifest
    copy, path = split_folders / manifest.splits["train"].paths[0], split_folders / manifest.splits["test"].paths[0]
    shutil.copyfile(path, copy)
    dropped = prepare(split_folders, 0, "data.on_leak=drop").manifest
    assert len(dropped.dropped) == 1
    assert len(dropped.splits["train"].stored[0]) == 36
    assert len(dropped.splits["train"]) + len(dropped.splits["valid"]) == 35


@pytest.mark.slow
def test_error__class_with_fewer_images_than_folds(flat: Path) -> None:
    for path in sorted((flat / "red").iterdir())[4:]:
        path.unlink()
    with pytest.raises(HeadstartError) as caught:
        _ = [prepare(flat, fold, "data.split.train=0.85", "data.split.valid=0.15", folds=6) for fold in range(6)]
    assert str(caught.value) == (
        "none of the 4 images of class 'red' is in the valid split, because each split needs one of its own: add images"
        ", or choose a smaller data.folds than 6"
    )


def test_error__more_folds_than_images_or_groups(flat: Path) -> None:
    with pytest.raises(HeadstartError, match=r"^data\.folds=50 needs as many different images: .* together have 30$"):
        prepare(flat, 0, folds=50)
    group = "data.group=blue|green|red"
    with pytest.raises(HeadstartError, match=r"^data\.folds=4 needs as many groups of images: .* together have 3$"):
        prepare(flat, 0, group, "data.split.train=0.85", "data.split.valid=0.15")


def test_split_csv__has_the_groups(flat: Path, tmp_path: Path) -> None:
    prepare(flat, 0, r"data.group=\d").manifest.write(tmp_path / "split.csv")
    with (tmp_path / "split.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["path", "class", "split", "group"]
    assert all(row["group"] in row["path"] for row in rows)
