import shutil
from pathlib import Path

import pytest
from conftest import draw, draw_classes, manifest_of

from headstart.data.manifest import Manifest
from headstart.errors import HeadstartError
from headstart.settings import SplitSettings

RULE = SplitSettings(train=6, valid=3)


def read(root: Path, rule: SplitSettings = RULE) -> Manifest:
    return manifest_of(root, rule)


def test_split_folders(split_folders: Path) -> None:
    manifest = read(split_folders)
    assert manifest.classes == ("blue", "green", "red")
    assert manifest.counts() == {"train": 24, "valid": 12, "test": 12}
    assert manifest.splits["valid"].paths[0] == "val/blue/0.jpg"
    assert manifest.splits["train"].labels == (0,) * 8 + (1,) * 8 + (2,) * 8


@pytest.mark.parametrize("name", ["valid", "validation"])
def test_split_folders__other_names_of_valid_and_no_test(split_folders: Path, name: str) -> None:
    (split_folders / "val").rename(split_folders / name)
    shutil.rmtree(split_folders / "test")
    assert read(split_folders).counts() == {"train": 24, "valid": 12}


def test_flat__by_counts(flat: Path) -> None:
    manifest = read(flat)
    assert manifest.counts() == {"train": 18, "valid": 9, "test": 9}
    # By name: "10.jpg" and "11.jpg" come before "2.jpg".
    assert manifest.splits["train"].paths[:4] == ("blue/0.jpg", "blue/1.jpg", "blue/10.jpg", "blue/11.jpg")


def test_flat__by_fractions(flat: Path) -> None:
    manifest = read(flat, SplitSettings(train=0.5, valid=0.25))
    assert manifest.counts() == {"train": 18, "valid": 9, "test": 9}
    everything = sorted(path for split in manifest.splits.values() for path in split.paths)
    assert everything == sorted(p.relative_to(flat).as_posix() for p in flat.rglob("*.jpg"))


def test_flat__nothing_left_for_test(flat: Path) -> None:
    assert read(flat, SplitSettings(train=8, valid=4)).counts() == {"train": 24, "valid": 12}


def test_flat__a_class_may_be_called_train(flat: Path) -> None:
    draw_classes(flat / "tmp", 12)
    (flat / "tmp" / "red").rename(flat / "train")
    shutil.rmtree(flat / "tmp")
    assert read(flat).classes == ("blue", "green", "red", "train")


def test_scan__hidden_and_other_files_are_left_out_and_told(flat: Path) -> None:
    (flat / "red" / "notes.txt").write_text("x")
    (flat / "red" / "._0.jpg").write_bytes(b"x")
    draw(flat / ".thumbnails" / "0.jpg", (1, 2, 3), seed=0)
    draw(flat / "red" / ".cache" / "0.jpg", (1, 2, 3), seed=0)
    manifest = read(flat)
    assert manifest.classes == ("blue", "green", "red")
    assert manifest.counts() == {"train": 18, "valid": 9, "test": 9}
    assert set(manifest.left_out) == {"red/notes.txt", "red/._0.jpg", ".thumbnails", "red/.cache"}
    assert "4 other files left out" in manifest.describe()


def test_scan__pictures_in_subfolders_belong_to_the_class(flat: Path) -> None:
    draw(flat / "red" / "more" / "0.jpg", (200, 0, 0), seed=5)
    assert "red/more/0.jpg" in read(flat).splits["test"].paths


def test_fingerprint__follows_the_contents_not_the_place(flat: Path, tmp_path: Path) -> None:
    before = read(flat).fingerprint
    copy = tmp_path / "copy"
    shutil.copytree(flat, copy)
    assert read(copy).fingerprint == before
    picture = copy / "red" / "0.jpg"
    content = bytearray(picture.read_bytes())
    content[-10] ^= 1
    picture.write_bytes(bytes(content))
    assert read(copy).fingerprint != before


def test_scan__changes_no_file(flat: Path) -> None:
    before = {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in flat.rglob("*")}
    read(flat)
    assert {p: (p.stat().st_mtime_ns, p.stat().st_size) for p in flat.rglob("*")} == before


def refused(root: Path, rule: SplitSettings = RULE) -> str:
    with pytest.raises(HeadstartError) as caught:
        read(root, rule)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_refused__root(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere").startswith(f"data.root={tmp_path / 'nowhere'} does not exist")
    (tmp_path / "file").write_text("")
    assert "is a file" in refused(tmp_path / "file")
    (tmp_path / "empty").mkdir()
    assert "has no class folders" in refused(tmp_path / "empty")


def test_refused__one_class(flat: Path) -> None:
    shutil.rmtree(flat / "red")
    shutil.rmtree(flat / "blue")
    assert "has one class only (green)" in refused(flat)


def test_refused__a_class_folder_without_pictures(flat: Path) -> None:
    (flat / "yellow").mkdir()
    assert f"the class folder {flat / 'yellow'} holds no pictures that can be used" in refused(flat)


def test_refused__no_valid_split_possible(flat: Path) -> None:
    assert "leave none of the 12 pictures of class 'blue' for the valid split" in refused(flat, SplitSettings(12, 3))


def test_refused__one_class_without_test(flat: Path) -> None:
    draw(flat / "red" / "12.jpg", (200, 0, 0), seed=99)
    message = refused(flat, SplitSettings(9, 3))
    assert "leave none of the 12 pictures of class 'blue' for the test split" in message


def test_refused__folders_that_look_like_splits(split_folders: Path) -> None:
    for name in ("train", "val", "test"):
        (split_folders / name).rename(split_folders / name.capitalize())
    assert "has the folders Test, Train, Val, which look like splits and not like classes" in refused(split_folders)


def test_refused__train_without_valid(split_folders: Path) -> None:
    shutil.rmtree(split_folders / "val")
    assert "has train/ but no valid/" in refused(split_folders)


def test_refused__two_valid_folders(split_folders: Path) -> None:
    shutil.copytree(split_folders / "val", split_folders / "valid")
    assert "are both there" in refused(split_folders)


def test_refused__classes_differ_between_splits(split_folders: Path) -> None:
    shutil.rmtree(split_folders / "val" / "green")
    assert refused(split_folders) == (
        f"{split_folders / 'val'} lacks the class folders green, which {split_folders / 'train'} has"
    )
    (split_folders / "val" / "green").mkdir()
    draw(split_folders / "val" / "green" / "a.jpg", (0, 99, 0), seed=1)
    draw(split_folders / "test" / "grey" / "a.jpg", (99, 99, 99), seed=1)
    assert "has the class folders grey" in refused(split_folders)
