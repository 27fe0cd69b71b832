"""Which folders are splits and which are classes: recognized, or an error that says how to choose."""

import re
from pathlib import Path

import pytest
from conftest import draw

from headstart.data.folders import Folder, open_folder
from headstart.data.layout import Layout, find_layout, split_names
from headstart.errors import HeadstartError

CLASSES = ("ant", "bee")


def images(folder: Path, count: int = 2) -> None:
    """`count` images in a folder; in no folder that exists is one replaced."""
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        draw(folder / f"{number}.png", (number, 90, 90), seed=number, size=(4, 4))


def make(root: Path, *folders: str, count: int = 2) -> Path:
    """Images in each of `folders`; "train/*" stands for the folders of two classes in it."""
    for folder in folders:
        if folder.endswith("*"):
            for name in CLASSES:
                images(root / folder[:-1] / name, count)
        else:
            images(root / folder, count)
    return root


def layout(root: Path, choice: str = "auto") -> dict[str, str]:
    """The folders of the splits, relative to the root; "-" before those without class folders."""
    found: Layout = find_layout(open_folder(root), choice)
    assert found.top.path == root
    marked = {split: f"-{folder.path.relative_to(root)}" for split, folder in found.unlabelled.items()}
    return {split: str(folder.path.relative_to(root)) for split, folder in found.splits.items()} | marked


def error_of(root: Path, choice: str = "auto") -> str:
    with pytest.raises(HeadstartError) as caught:
        find_layout(open_folder(root), choice)
    assert "\n" not in str(caught.value)
    return str(caught.value).replace(str(root), "ROOT")


@pytest.mark.parametrize(
    ("train", "valid", "test"),
    [
        ("train", "valid", "test"),
        ("train", "val", "test"),
        ("Train", "Validation", "Test"),
        ("TRAINING", "VALIDATION", "TESTING"),
        ("training", "dev", "testing"),
        ("train set", "dev set", "test set"),
        ("train_images", "val_images", "test_images"),
        ("TrainImages", "ValidImages", "TestImages"),
        ("trainset", "valset", "testset"),
        ("Training Data", "Validation Data", "Test Data"),
        ("images-train", "images-val", "images-test"),
        ("train2017", "val2017", "test2017"),
        ("01_train", "02_valid", "03_test"),
        ("ants_bees_train", "ants_bees_valid", "ants_bees_test"),
        ("train", "validation", "holdout"),
        ("train", "valid", "Hold-Out"),
        ("train", "eval", "test"),
        ("train", "holdout", "test"),
        ("Final_Training", "Final_Validation", "Final_Test"),
        ("trn", "val", "tst"),
    ],
)
def test_spellings__of_three_splits(tmp_path: Path, train: str, valid: str, test: str) -> None:
    make(tmp_path, f"{train}/*", f"{valid}/*", f"{test}/*")
    assert layout(tmp_path) == {"train": train, "valid": valid, "test": test}


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("Training", "Testing"),
        ("train", "test"),
        ("TRAIN", "TEST"),
        ("train", "holdout"),
        ("train", "held_out"),
        ("train", "evaluation"),
        ("trainval", "test"),
        ("train_val", "test"),
        ("training_set", "test_set"),
        ("x_train", "x_test"),
        ("seg_train", "seg_test"),
    ],
)
def test_spellings__of_train_and_test(tmp_path: Path, train: str, test: str) -> None:
    make(tmp_path, f"{train}/*", f"{test}/*")
    assert layout(tmp_path) == {"train": train, "test": test}


def test_train_alone(tmp_path: Path) -> None:
    assert layout(make(tmp_path, "train/*")) == {"train": "train"}


@pytest.mark.parametrize("above", ["data", "hymenoptera_data", "a/b", "images"])
def test_splits__some_folders_deeper(tmp_path: Path, above: str) -> None:
    make(tmp_path, f"{above}/Training/*", f"{above}/Testing/*")
    (tmp_path / "docs").mkdir()
    (tmp_path / "labels.csv").write_text("x")
    assert layout(tmp_path) == {"train": f"{above}/Training", "test": f"{above}/Testing"}


def test_splits__unpacked_into_folders_of_the_same_name(tmp_path: Path) -> None:
    make(tmp_path, "seg_train/seg_train/*", "seg_test/seg_test/*", "seg_pred/seg_pred")
    assert layout(tmp_path) == {"train": "seg_train/seg_train", "test": "seg_test/seg_test"}


def test_splits__class_folders_below_a_folder_of_images(tmp_path: Path) -> None:
    make(tmp_path, "train/images/*", "test/images/*")
    assert layout(tmp_path) == {"train": "train/images", "test": "test/images"}


def test_splits__stray_images_and_other_folders_beside_them(tmp_path: Path) -> None:
    make(tmp_path, "Training/*", "Testing/*", "extra/*", "figures", count=9)
    images(tmp_path / "Training", 1)
    assert layout(tmp_path) == {"train": "Training", "test": "Testing"}


def test_splits__with_different_classes(tmp_path: Path) -> None:
    # What is wrong with them is for others to say.
    make(tmp_path, "Train/ant", "Train/bee", "Train/cat", "Test/ant", "Test/dog")
    assert layout(tmp_path) == {"train": "Train", "test": "Test"}


@pytest.mark.parametrize("folder", ["test", "test/images", "test/unknown", "test/test", "Testing", "test_images"])
def test_unlabelled__test_images(tmp_path: Path, folder: str) -> None:
    make(tmp_path, "train/*", "valid/*", folder)
    assert layout(tmp_path) == {"train": "train", "valid": "valid", "test": f"-{folder.split('/')[0]}"}


def test_empty_split_folders__are_none(tmp_path: Path) -> None:
    make(tmp_path, "train/*", "val/*")
    (tmp_path / "valid").mkdir()
    (tmp_path / "test").mkdir()
    assert layout(tmp_path) == {"train": "train", "valid": "val"}


@pytest.mark.parametrize(
    "folders",
    [
        ["ant", "bee"],
        ["ant/2020", "bee/2020"],
        ["ant/2020", "ant/2021", "bee/2020", "bee/2021"],
        ["ant/2020-05-01", "ant/2021.06", "bee/2020-05-01", "bee/2021.06"],
        ["ant/batch1", "ant/batch 2", "bee/batch1", "bee/batch 2"],
        ["ant/100CANON", "ant/101CANON", "bee/100CANON", "bee/101CANON"],
        ["ant/images", "bee/images"],
        ["ant/raw", "ant/edited", "bee/raw", "bee/edited"],
        ["ant/red", "ant/black", "bee/honey", "bee/wild"],
        ["ant", "bee/honey", "bee/wild"],
        ["ant", "ant/honey", "ant/wild", "bee", "bee/honey", "bee/wild"],
        [f"{name}/{side}" for name in ("ant", "bee", "cat", "dog") for side in ("left", "right")],
        ["train", "plane", "car"],
        ["train", "train/old", "train/new", "plane", "car"],
        ["test tube", "beaker"],
        ["contest", "latest"],
        ["red_train", "blue_train"],
        ["toy_train", "toy_car"],
    ],
)
def test_classes__plain_folders(tmp_path: Path, folders: list[str]) -> None:
    assert layout(make(tmp_path, *folders)) == {}


@pytest.mark.parametrize(
    "folders",
    [
        ["Lernen/*", "Prüfen/*"],
        ["训练集/*", "测试集/*"],
        ["A/*", "B/*"],
        ["A/ant", "A/bee", "A/cat", "B/ant", "B/bee"],
        ["A/ant", "A/bee", "B/ant"],
        ["seen/*", "unseen/*"],
        ["2020/*", "2021/*"],
        ["trian/*", "tets/*"],
        ["fold1/*", "fold2/*", "fold3/*", "fold4/*", "fold5/*"],
        [f"{style}/{name}" for style in ("art", "cartoon", "photo", "sketch") for name in "abcdefg"],
        ["A/0", "A/1", "B/0", "B/1"],
    ],
)
def test_uncertain__folders_with_the_same_class_folders(tmp_path: Path, folders: list[str]) -> None:
    message = error_of(make(tmp_path, *folders))
    assert re.match(r"ROOT can be read in two ways: .* are classes, or splits with the same class folders", message)
    assert message.endswith(": set data.layout=classes, or rename the folders of the splits to train, valid and test")
    assert layout(tmp_path, "classes") == {}


@pytest.mark.parametrize(
    ("folders", "words"),
    [
        (["train/*", "misc"], "train is the train split, and misc is something else, or all of them are classes: set"),
        (["train/*", "Trial/*"], "train is the train split, and Trial is something else, or all of them are classes"),
        (
            ["train/old", "train/new", "plane", "car"],
            "and car and plane are something else, or all of them are classes",
        ),
        (["Trainning/*", "Testing/*"], "or the test split: set data.layout=classes, or rename the folder of the train"),
        (
            ["ant", "bee", "test"],
            "test is a class like ant and bee, or the test split: set data.layout=classes, or move",
        ),
        (
            ["ant", "bee", "val"],
            "val is a class like ant and bee, or the valid split: set data.layout=classes, or move",
        ),
        (
            ["data/train/*", "data/test/*", "figures"],
            "data is a split dataset, or a class like figures: set data.root=",
        ),
    ],
)
def test_uncertain__two_readings(tmp_path: Path, folders: list[str], words: str) -> None:
    message = error_of(make(tmp_path, *folders))
    assert message.startswith("ROOT can be read in two ways: ")
    assert words in message
    assert layout(tmp_path, "classes") == {}


@pytest.mark.parametrize(
    "folders",
    [
        ["train", "test"],
        ["Training", "Testing"],
        ["train", "test", "ant", "bee"],
        ["train"],
        ["test/*"],
        ["val/*", "test/*"],
        ["images/train", "images/val"],
        ["ant_train", "ant_test", "bee_train", "bee_test"],
    ],
)
def test_error__splits_without_class_folders_or_without_train(tmp_path: Path, folders: list[str]) -> None:
    make(tmp_path, *folders)
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels" / "0.txt").write_text("0 0.5 0.5 1 1")
    message = error_of(tmp_path)
    assert re.search(r"which looks? like (a split|splits): a split dataset needs train/ with class folders", message)
    assert layout(tmp_path, "classes") == {}


def test_error__splits_inside_the_class_folders(tmp_path: Path) -> None:
    make(tmp_path, "ant/train", "ant/test", "bee/train", "bee/test")
    assert error_of(tmp_path) == (
        "ROOT has folders called like splits inside ant and bee: move the images to train/CLASS and test/CLASS, or set "
        "data.layout=classes to split all images of each class anew"
    )


def test_error__two_folders_for_one_split(tmp_path: Path) -> None:
    make(tmp_path, "train/*", "val/*", "valid/*")
    assert error_of(tmp_path) == "ROOT/valid and ROOT/val both exist: which one is the valid split? Rename the other"
    make(tmp_path, "Training/*")
    assert (
        error_of(tmp_path) == "ROOT/train and ROOT/Training both exist: which one is the train split? Rename the other"
    )


def test_choice__splits(tmp_path: Path) -> None:
    make(tmp_path / "a", "train/*", "misc")
    assert layout(tmp_path / "a", "splits") == {"train": "train"}
    make(tmp_path / "b", "ant", "bee")
    assert error_of(tmp_path / "b", "splits") == "data.layout=splits: ROOT has no folder train/ with class folders"


def test_error__a_split_folder_that_cannot_be_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make(tmp_path, "train/*", "test/*")
    monkeypatch.setattr(Folder, "error", property(lambda self: "No" if self.path.name == "test" else None))
    assert error_of(tmp_path) == "the folder ROOT/test cannot be read: No"


def test_split_names__of_siblings() -> None:
    assert split_names(["train", "val", "eval", "notes"]) == {"train": "train", "val": "valid", "eval": "test"}
    assert split_names(["train_logs", "test_tube", "train_test_split", "2020", ""]) == {}
