import csv
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
from conftest import draw, manifest_of

from headstart.config.data import SplitSettings
from headstart.data.image_info import inspect_images
from headstart.data.manifest import Manifest, build_manifest, check_trainable
from headstart.data.scan import scan_folder
from headstart.errors import HeadstartError

RULE = SplitSettings(train=6, valid=3)


def read(root: Path, rule: SplitSettings = RULE) -> Manifest:
    return manifest_of(root, rule)


def error_of(root: Path, rule: SplitSettings = RULE) -> str:
    """Why the folder cannot be trained on."""
    scan = scan_folder(root, rule, seed=0)
    with pytest.raises(HeadstartError) as caught:
        check_trainable(read(root, rule), scan)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_splits__samples_in_the_order_of_their_labels(split_folders: Path) -> None:
    manifest = read(split_folders)
    assert manifest.classes == ("blue", "green", "red")
    assert manifest.counts == {"train": 24, "valid": 12, "test": 12}
    assert manifest.class_counts == (8, 8, 8)
    assert manifest.splits["valid"].paths[0] == "val/blue/0.jpg"
    assert manifest.splits["train"].labels == (0,) * 8 + (1,) * 8 + (2,) * 8


def test_classes__are_those_of_train_and_then_any_others(split_folders: Path) -> None:
    draw(split_folders / "val" / "amber" / "a.jpg", (200, 150, 0), seed=1)
    manifest = read(split_folders)
    assert manifest.classes == ("blue", "green", "red", "amber")
    assert manifest.class_counts == (8, 8, 8, 0)
    assert manifest.splits["valid"].paths[-1] == "val/amber/a.jpg"
    assert manifest.splits["valid"].labels[-1] == 3


def test_skipped_and_dropped__are_not_in_the_splits(flat: Path) -> None:
    scan = scan_folder(flat, RULE, seed=0)
    infos = inspect_images(flat, [sample.path for sample in scan.samples])
    manifest = build_manifest(scan, infos, skipped=("red/0.jpg",), dropped=("blue/1.jpg",))
    assert (manifest.skipped, manifest.dropped) == (("red/0.jpg",), ("blue/1.jpg",))
    assert manifest.class_counts == (5, 6, 5)
    assert not {"red/0.jpg", "blue/1.jpg"} & set(manifest.splits["train"].paths)
    assert manifest.describe().splitlines()[1:] == [
        "left out, unreadable: red/0.jpg",
        "left out, also in valid or test: blue/1.jpg",
    ]


def test_describe__other_files_by_kind(flat: Path) -> None:
    for name in ("a.txt", "b.txt", ".DS_Store"):
        (flat / "red" / name).write_text("x")
    assert read(flat).describe() == (
        f"{flat}: 3 classes, 18 train, 9 valid, 9 test images; 3 other files left out (.txt ×2, .DS_Store ×1)"
    )


def test_fingerprint__follows_the_contents_not_the_place(flat: Path, tmp_path: Path) -> None:
    before = read(flat).fingerprint
    copy = tmp_path / "copy"
    shutil.copytree(flat, copy)
    assert read(copy).fingerprint == before
    image = copy / "red" / "0.jpg"
    content = bytearray(image.read_bytes())
    content[-10] ^= 1
    image.write_bytes(bytes(content))
    assert read(copy).fingerprint != before


def test_trainable__flat_and_split_folders(flat: Path, split_folders: Path) -> None:
    for root in (flat, split_folders):
        check_trainable(read(root), scan_folder(root, RULE, seed=0))


def test_error__one_class(flat: Path) -> None:
    shutil.rmtree(flat / "red")
    shutil.rmtree(flat / "blue")
    assert error_of(flat) == (
        f"{flat} has only one class (green): a classifier needs at least two; if the classes are the folders in "
        f"{flat / 'green'}, they must be one level higher"
    )


def test_error__class_folder_without_images(flat: Path) -> None:
    (flat / "yellow").mkdir()
    assert error_of(flat) == f"the class folder {flat / 'yellow'} holds no usable images"


def test_error__no_valid_split_possible(flat: Path) -> None:
    message = error_of(flat, SplitSettings(12, 3))
    assert message.startswith("data.split.train=12 data.split.valid=3 leave none of the 12 images of class 'blue' for")
    assert "for the valid split: choose other counts, or fractions" in message


def test_error__one_class_without_test(flat: Path) -> None:
    draw(flat / "red" / "12.jpg", (200, 0, 0), seed=99)
    assert "leave none of the 12 images of class 'blue' for the test split" in error_of(flat, SplitSettings(9, 3))


def remove(root: Path, name: str, keep: int) -> None:
    """Leaves `keep` images in the class folder `name`."""
    for path in sorted((root / name).iterdir())[keep:]:
        path.unlink()


def test_error__classes_too_small_for_fractions_are_named(flat: Path) -> None:
    rule = SplitSettings(0.7, 0.15)
    remove(flat, "red", 2)
    without_test = ", or do without test: data.split.train=0.85 data.split.valid=0.15"
    message = (
        "too few images for each of train, valid and test to get one, in class {}: add images, or remove the class"
    )
    message += " folder"
    assert error_of(flat, rule) == message.format("'red' (2)") + without_test
    remove(flat, "blue", 1)
    assert error_of(flat, rule) == message.format("'blue' (1) and 'red' (2)")
    for name in ("blue", "green", "red"):
        remove(flat, name, 2 if name == "green" else 1)
    assert "in class 'blue' (1), 'green' (2) and 'red' (1): " in error_of(flat, rule)


def test_trainable__classes_of_three(flat: Path) -> None:
    for name in ("blue", "green", "red"):
        remove(flat, name, 3)
    rule = SplitSettings(0.7, 0.15)
    manifest = read(flat, rule)
    check_trainable(manifest, scan_folder(flat, rule, seed=0))
    assert manifest.counts == {"train": 3, "valid": 3, "test": 3}


def test_error__train_too_small_to_validate_on_a_share(split_folders: Path) -> None:
    shutil.rmtree(split_folders / "val")
    remove(split_folders, "train/red", 1)
    assert error_of(split_folders, SplitSettings(0.7, 0.15)) == (
        "too few images for each of train and valid to get one, in class 'red' (1): add images, or remove the class "
        "folder"
    )
    assert error_of(split_folders, SplitSettings(60, 8)) == (
        "data.split.valid=8 leaves none of the 1 image of class 'red' for the train split: choose other counts, or "
        "fractions such as data.split.valid=0.15"
    )


def test_error__split_without_usable_images_of_a_class(flat: Path) -> None:
    rule = SplitSettings(0.7, 0.15)
    scan = scan_folder(flat, rule, seed=0)
    infos = inspect_images(flat, [sample.path for sample in scan.samples])
    skipped = tuple(path for split, name, path in scan.samples if (split, name) == ("valid", "red"))
    with pytest.raises(
        HeadstartError, match=r"^none of the 10 usable images of class 'red' is in the valid split: repair"
    ):
        check_trainable(build_manifest(scan, infos, skipped=skipped, dropped=()), scan)


def test_error__valid_without_class_folders(split_folders: Path) -> None:
    shutil.rmtree(split_folders / "val")
    draw(split_folders / "val" / "0.jpg", (9, 9, 9), seed=0)
    assert error_of(split_folders).startswith(f"{split_folders / 'val'} has no class folders: put the images of each")


def test_write__path_class_and_split(flat: Path, tmp_path: Path) -> None:
    odd = os.fsdecode(b'caf\xe9, "1".jpg')
    (flat / "red" / "0.jpg").rename(flat / "red" / odd)
    manifest = read(flat)
    manifest.write(tmp_path / "split.csv")
    content = (tmp_path / "split.csv").read_bytes()
    assert content.splitlines()[:2] == [b"path,class,split", b"blue/0.jpg,blue,train"]
    assert b'"red/caf\xe9, ""1"".jpg",red,' in content
    with (tmp_path / "split.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter(row["split"] for row in rows) == manifest.counts
    assert {row["path"] for row in rows} == {path for split in manifest.splits.values() for path in split.paths}
    assert all(row["path"].startswith(f"{row['class']}/") for row in rows)


def test_describe__notes_follow(split_folders: Path) -> None:
    shutil.rmtree(split_folders / "val")
    manifest = read(split_folders, SplitSettings(0.7, 0.15))
    first, note = manifest.describe().splitlines()
    assert first == f"{split_folders}: 3 classes, 21 train, 3 valid, 12 test images"
    assert note.startswith("no valid split: 3 images of train are used for it")
    assert manifest.origins["train"] == str(split_folders / "train")


def test_error__classes_differ_between_splits(split_folders: Path) -> None:
    shutil.rmtree(split_folders / "val" / "green")
    assert error_of(split_folders) == (
        f"{split_folders / 'val'} lacks the class folders green, which {split_folders / 'train'} has"
    )
    (split_folders / "val" / "green").mkdir()
    draw(split_folders / "val" / "green" / "a.jpg", (0, 99, 0), seed=1)
    draw(split_folders / "test" / "yellow" / "a.jpg", (200, 200, 0), seed=1)
    assert error_of(split_folders) == (
        f"{split_folders / 'test'} has the class folders yellow, which {split_folders / 'train'} lacks"
    )
