"""Invalid data, weights and checkpoints: one sentence, status 1, no files."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import SMALL, Result, Script, draw

RULE = ("data.split.train=6", "data.split.valid=3")


def assert_rejected(result: Result, *sentences: str) -> None:
    assert result.status == 1
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1, result.err
    for sentence in sentences:
        assert sentence in result.err
    assert not list(Path.cwd().iterdir()), "no files may be left"


def no_folder(root: Path) -> None:
    shutil.rmtree(root)


def a_file(root: Path) -> None:
    shutil.rmtree(root)
    root.write_text("")


def empty(root: Path) -> None:
    shutil.rmtree(root)
    root.mkdir()


def one_class(root: Path) -> None:
    for name in ("red", "blue"):
        shutil.rmtree(root / name)


def class_without_images(root: Path) -> None:
    (root / "yellow").mkdir()
    (root / "yellow" / "notes.txt").write_text("later")


def too_few(root: Path) -> None:
    for number in range(5, 12):
        (root / "red" / f"{number}.jpg").unlink()


def empty_file(root: Path) -> None:
    (root / "red" / "3.jpg").write_bytes(b"")


def truncated(root: Path) -> None:
    draw(root / "red" / "3.jpg", (9, 9, 9), seed=0, size=(200, 200))
    content = (root / "red" / "3.jpg").read_bytes()
    (root / "red" / "3.jpg").write_bytes(content[: len(content) // 2])


def text(root: Path) -> None:
    (root / "red" / "3.jpg").write_text("not an image")


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (no_folder, "flat does not exist"),
        (a_file, "flat is a file"),
        (empty, "has no class folders"),
        (one_class, "has only one class (green)"),
        (class_without_images, "yellow holds no usable images"),
        (too_few, "leave none of the 5 images of class 'red' for the valid split"),
        (empty_file, "3.jpg cannot be read as an image: the file is empty"),
        (truncated, "3.jpg cannot be read as an image: "),
        (text, "3.jpg cannot be read as an image: its content is not a known image format"),
    ],
)
def test_data__folder(script: Script, flat: Path, harm: Callable[[Path], None], sentence: str) -> None:
    harm(flat)
    assert_rejected(script("train.py", f"data.root={flat}", *RULE, *SMALL), sentence)


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_features__folder_that_cannot_be_written(script: Script, flat: Path, tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("")
    result = script("train.py", f"data.root={flat}", *RULE, *SMALL, f"features.dir={tmp_path / folder}")
    assert_rejected(result, f"features.dir={tmp_path / folder} cannot be written")


def test_data__no_archive_and_no_network(script: Script) -> None:
    result = script("train.py", "data.url=http://127.0.0.1:1/archive.tar")
    assert_rejected(result, "get 256_ObjectCategories.tar (1.2 GB) from https://data.caltech.edu/", "data.archive=FILE")


def test_data__own_images_without_data_folder(script: Script, flat: Path) -> None:
    assert_rejected(script("train.py", f"data.root={flat}"), f"use data=folder data.root={flat} for your own images")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["data=folder"], "data.root is missing: set it with data.root=VALUE"),
        (
            ["data=folder", "data.root=x", "data.archive=y"],
            "the key 'data.archive' has no meaning with this choice of data=",
        ),
        (["data.archve=y"], "unknown key 'data.archve': did you mean 'data.archive'?"),
        (["data.layout=flat"], "data.layout=flat is invalid: it must be one of auto, splits, classes"),
        (["data.on_leak=stop"], "data.on_leak=stop is invalid: it must be one of warn, error, drop"),
        (["data.balance=oversample"], "it must be one of none, loss, sampler"),
        (["data.maker=imagenet"], "data.maker=imagenet is invalid: "),
        (["data.categories=bear"], "data.categories"),
    ],
)
def test_data__settings(script: Script, arguments: list[str], sentence: str) -> None:
    assert_rejected(script("train.py", *arguments), sentence)


def splits_called_a_and_b(root: Path) -> None:
    for name in ("red", "green"):
        (root / name).rename(root / "blue" / name)
    shutil.copytree(root / "blue" / "red", root / "B" / "red")
    shutil.copytree(root / "blue" / "green", root / "B" / "green")
    for path in (root / "blue").glob("*.jpg"):
        path.unlink()


def splits_without_class_folders(root: Path) -> None:
    shutil.rmtree(root / "blue")
    (root / "red").rename(root / "Training")
    (root / "green").rename(root / "Testing")


def unlabelled_images_among_classes(root: Path) -> None:
    (root / "red").rename(root / "test")


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (splits_called_a_and_b, "B and blue are classes, or splits with the same class folders (green and red): set"),
        (splits_without_class_folders, "has the folders Testing and Training, which look like splits: a split dataset"),
        (unlabelled_images_among_classes, "test is a class like blue and green, or the test split: set data.layout"),
    ],
)
@pytest.mark.parametrize("task", ["train", "audit"])
def test_data__layout_read_in_two_ways(
    script: Script, flat: Path, harm: Callable[[Path], None], sentence: str, task: str
) -> None:
    harm(flat)
    assert_rejected(script("train.py", f"task={task}", f"data.root={flat}", *SMALL), sentence)
    chosen = script("train.py", "task=audit", f"data.root={flat}", *SMALL, "data.layout=classes")
    assert chosen.err == ""
    assert chosen.out.startswith(f"{flat}: ")


def test_data__class_too_small_for_the_default_split(script: Script, flat: Path) -> None:
    for number in range(2, 12):
        (flat / "red" / f"{number}.jpg").unlink()
    result = script("train.py", f"data.root={flat}", *SMALL)
    assert_rejected(result, "too few images for each of train, valid and test to get one, in class 'red' (2): add")
    audited = script("train.py", "task=audit", f"data.root={flat}", *SMALL)
    assert audited.status == 1
    assert "'red' has no images in test" in audited.out


def test_data__valid_lacks_a_class(script: Script, split_folders: Path) -> None:
    shutil.rmtree(split_folders / "val" / "red")
    assert_rejected(script("train.py", f"data.root={split_folders}", *SMALL), "lacks the class folders red")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (
            ["model.arch=resnet51"],
            "model.arch=resnet51 is not a torchvision classification model: did you mean resnet50",
        ),
        (["model.weights=V3"], "model.weights=V3 is neither a file nor bundled nor the name of torchvision weights"),
        (["model.weights=none.pth"], "the weights file none.pth does not exist"),
        (["model.arch=vit_b_32"], "data.image_size=32 does not suit"),
    ],
)
def test_model__arch_and_weights(script: Script, flat: Path, overrides: list[str], sentence: str) -> None:
    assert_rejected(script("train.py", f"data.root={flat}", *RULE, *SMALL, *overrides), sentence)


class Bomb:
    def __reduce__(self) -> Any:
        return os.system, ("touch exploded",)


def test_weights__their_code_is_never_run(script: Script, flat: Path, tmp_path: Path) -> None:
    weights = tmp_path / "bomb.pth"
    weights.write_bytes(pickle.dumps({"conv1.weight": Bomb()}, protocol=2))
    result = script("train.py", f"data.root={flat}", *RULE, *SMALL, f"model.weights={weights}")
    assert_rejected(result, "could run code")


@pytest.mark.parametrize("name", ["train.py", "predict.py"])
def test_checkpoints__missing_foreign_damaged_or_with_code(
    script: Script, flat: Path, trained: Path, tmp_path: Path, name: str
) -> None:
    arguments = [f"data.root={flat}", *RULE, *SMALL] if name == "train.py" else [f"source={flat}"]
    foreign, truncated_file, bomb = tmp_path / "foreign.ckpt", tmp_path / "half.ckpt", tmp_path / "bomb.ckpt"
    torch.save({"state_dict": {}}, foreign)
    truncated_file.write_bytes((trained / "checkpoints" / "best.ckpt").read_bytes()[:5000])
    torch.save({"state_dict": Bomb()}, bomb)
    for path, sentence in (
        (tmp_path / "none.ckpt", "none.ckpt does not exist"),
        (foreign, "is not a checkpoint written by headstart's train.py"),
        (truncated_file, "is damaged"),
        (bomb, "could run code"),
    ):
        assert_rejected(script(name, f"ckpt_path={path}", *arguments), sentence)


def test_predict__sources(script: Script, trained: Path, tmp_path: Path) -> None:
    best = f"ckpt_path={trained / 'checkpoints' / 'best.ckpt'}"
    (tmp_path / "none").mkdir()
    assert_rejected(
        script("predict.py", best, "source=nowhere"), "source=nowhere is not a file or folder, and no file matches it"
    )
    assert_rejected(script("predict.py", best, f"source={tmp_path / 'none'}"), "holds no images")
    assert_rejected(script("predict.py", best, "source=*.jpg"), "no file matches")
