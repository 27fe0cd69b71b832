"""Wrong data, weights and checkpoints: one sentence, status 1, nothing left behind."""

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from conftest import SMALL, Result, Script, draw

RULE = ("data.split.train=6", "data.split.valid=3")


def assert_refused(result: Result, *sentences: str) -> None:
    assert result.status == 1
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1, result.err
    for sentence in sentences:
        assert sentence in result.err
    assert not list(Path.cwd().iterdir()), "nothing may be left behind"


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


def class_without_pictures(root: Path) -> None:
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
    (root / "red" / "3.jpg").write_text("I am no picture")


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (no_folder, "flat does not exist"),
        (a_file, "flat is a file"),
        (empty, "has no class folders"),
        (one_class, "has one class only (green)"),
        (class_without_pictures, "yellow holds no pictures"),
        (too_few, "leave none of the 5 pictures of class 'red' for the valid split"),
        (empty_file, "3.jpg cannot be read as a picture: the file is empty"),
        (truncated, "3.jpg cannot be read as a picture: "),
        (text, "3.jpg cannot be read as a picture: its content is no picture format"),
    ],
)
def test_data(script: Script, flat: Path, harm: Callable[[Path], None], sentence: str) -> None:
    harm(flat)
    assert_refused(script("train.py", f"data.root={flat}", *RULE, *SMALL), sentence)


@pytest.mark.parametrize("folder", ["file", "file/below"])
def test_features__folder_that_cannot_be_written(script: Script, flat: Path, tmp_path: Path, folder: str) -> None:
    (tmp_path / "file").write_text("")
    result = script("train.py", f"data.root={flat}", *RULE, *SMALL, f"features.dir={tmp_path / folder}")
    assert_refused(result, f"features.dir={tmp_path / folder} cannot be written")


def test_data__neither_the_recipes_data_nor_a_network(script: Script) -> None:
    result = script("train.py", "data.url=http://127.0.0.1:1/archive.tar")
    assert_refused(result, "get 256_ObjectCategories.tar (1.2 GB) from https://data.caltech.edu/", "data.archive=FILE")


def test_data__of_ones_own_without_data_folder(script: Script, flat: Path) -> None:
    assert_refused(script("train.py", f"data.root={flat}"), f"say data=folder data.root={flat}")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["data=folder"], "data.root is missing: give it with data.root=VALUE"),
        (["data=folder", "data.root=x", "data.archive=y"], "the key 'data.archive' means nothing with this choice"),
        (["data.archve=y"], "unknown key 'data.archve': did you mean 'data.archive'?"),
        (["data.on_leak=stop"], "data.on_leak=stop cannot work: it must be one of warn, error, drop"),
        (["data.balance=oversample"], "it must be one of none, loss, sampler"),
        (["data.maker=imagenet"], "data.maker=imagenet cannot work: "),
        (["data.categories=bear"], "data.categories"),
    ],
)
def test_data__settings(script: Script, arguments: list[str], sentence: str) -> None:
    assert_refused(script("train.py", *arguments), sentence)


def test_data__valid_lacks_a_class(script: Script, split_folders: Path) -> None:
    shutil.rmtree(split_folders / "val" / "red")
    assert_refused(script("train.py", f"data.root={split_folders}", *SMALL), "lacks the class folders red")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["model.arch=resnet51"], "model.arch=resnet51 is no classification model"),
        (["model.weights=V3"], "model.weights=V3 is neither a file nor bundled nor torchvision weights"),
        (["model.weights=none.pth"], "the weights file none.pth does not exist"),
        (["model.arch=vit_b_32"], "data.image_size=32 does not suit"),
    ],
)
def test_model(script: Script, flat: Path, overrides: list[str], sentence: str) -> None:
    assert_refused(script("train.py", f"data.root={flat}", *RULE, *SMALL, *overrides), sentence)


class Bomb:
    def __reduce__(self):
        return os.system, ("touch exploded",)


def test_weights__with_code_in_them_are_not_run(script: Script, flat: Path, tmp_path: Path) -> None:
    weights = tmp_path / "bomb.pth"
    weights.write_bytes(pickle.dumps({"conv1.weight": Bomb()}))
    result = script("train.py", f"data.root={flat}", *RULE, *SMALL, f"model.weights={weights}")
    assert_refused(result, "could run code")


@pytest.mark.parametrize("name", ["train.py", "predict.py"])
def test_checkpoints(script: Script, flat: Path, trained: Path, tmp_path: Path, name: str) -> None:
    arguments = [f"data.root={flat}", *RULE, *SMALL] if name == "train.py" else [f"source={flat}"]
    foreign, truncated_file, bomb = tmp_path / "foreign.ckpt", tmp_path / "half.ckpt", tmp_path / "bomb.ckpt"
    torch.save({"state_dict": {}}, foreign)
    truncated_file.write_bytes((trained / "checkpoints" / "best.ckpt").read_bytes()[:5000])
    torch.save({"state_dict": Bomb()}, bomb)
    for path, sentence in (
        (tmp_path / "none.ckpt", "none.ckpt does not exist"),
        (foreign, "is not a checkpoint of this project's train.py"),
        (truncated_file, "is damaged"),
        (bomb, "could run code"),
    ):
        assert_refused(script(name, f"ckpt_path={path}", *arguments), sentence)


def test_predict__sources(script: Script, trained: Path, tmp_path: Path) -> None:
    best = f"ckpt_path={trained / 'checkpoints' / 'best.ckpt'}"
    (tmp_path / "none").mkdir()
    assert_refused(script("predict.py", best, "source=nowhere"), "source=nowhere is no file, no folder")
    assert_refused(script("predict.py", best, f"source={tmp_path / 'none'}"), "holds no pictures")
    assert_refused(script("predict.py", best, "source=*.jpg"), "no file matches")
