"""task=audit, and the audit at the start of every training."""

import csv
import json
import os
import re
import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torchvision
from conftest import SMALL, Script
from faulty import (
    FAULTS,
    class_imbalance,
    clean,
    duplicates_across,
    empty_file,
    near_duplicate,
    other_file,
    outlier,
    photo,
    wrong_extension,
)
from odd_files import FIELDS, exif, with_exif

pytestmark = [
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::PIL.Image.DecompressionBombWarning"),
    pytest.mark.slow,
]


def report(folder: Path) -> dict[str, Any]:
    (path,) = folder.rglob("audit.json")
    content: dict[str, Any] = json.loads(path.read_text())
    return content


@pytest.fixture
def weights(tmp_path: Path) -> tuple[str, ...]:
    """A backbone with a weights file: random ones, but not by model.weights=null, and good enough to compare images."""
    path = tmp_path / "weights.pth"
    torch.manual_seed(0)
    torch.save(torchvision.models.mobilenet_v3_small().state_dict(), path)
    # In bf16, all features of such weights are the same.
    return "model.arch=mobilenet_v3_small", f"model.weights={path}", "features.precision=32"


def test_task__clean_data_exit_with_status_0_and_stay_as_they_are(script: Script, tmp_path: Path) -> None:
    root = clean(tmp_path / "images")
    before = {path: path.stat().st_mtime_ns for path in root.rglob("*")}
    result = script("train.py", "task=audit", f"data.root={root}", *SMALL)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("*")} == before
    assert (result.status, result.err) == (0, "")
    assert "errors: 0, warnings: 0; details: " in result.out
    assert report(Path.cwd())["clean"] is True
    assert report(Path.cwd())["findings"] == []


def test_task__warnings_alone_exit_with_status_0(script: Script, tmp_path: Path) -> None:
    wrong_extension(clean(tmp_path / "images"))
    result = script("train.py", "task=audit", f"data.root={tmp_path / 'images'}", *SMALL)
    assert result.status == 0
    assert "errors: 0, warnings: 1; details: " in result.out
    assert "train/ant/really_png.jpg: it is PNG" in result.out


def test_task__every_fault_is_found_and_nothing_else(script: Script, tmp_path: Path, weights: tuple[str, ...]) -> None:
    root = clean(tmp_path / "images")
    # Classes of such different images have no outliers: see tests/audit/test_near_duplicates.py.
    expected = [fault(root) for fault in FAULTS if fault is not outlier]
    result = script("train.py", "task=audit", f"data.root={root}", *SMALL, *weights, "data.near_duplicates=true")
    assert result.status == 1
    assert result.err == ""
    found = report(Path.cwd())
    renamed = {path: path.replace("test/cat/", "test/Cat /") for _, paths in expected for path in paths}
    assert sorted((finding["kind"], finding["paths"]) for finding in found["findings"]) == sorted(
        (kind, [renamed[path] for path in paths]) for kind, paths in expected
    )
    assert found["clean"] is False
    assert found["images"]["train"]["ant"] > 12
    for kind, _ in expected:
        assert re.search(rf"^(error|warning) +\d+ +{kind}$", result.out, re.MULTILINE), kind


def train_and_test(root: Path) -> Path:
    """train/ and test/ with a duplicate across them, but no valid/."""
    duplicates_across(clean(root))
    shutil.rmtree(root / "valid")
    return root


def unlabelled_test(root: Path) -> Path:
    """train/, and images without labels in test/."""
    shutil.rmtree(clean(root) / "valid")
    shutil.rmtree(root / "test")
    photo(root / "test" / "0.jpg", seed=970)
    return root


def other_names(root: Path) -> Path:
    """data/Training/ and data/Testing/."""
    train_and_test(root / "data")
    (root / "data" / "train").rename(root / "data" / "Training")
    (root / "data" / "test").rename(root / "data" / "Testing")
    return root


def one_class(root: Path) -> Path:
    """Class folders, of which there is one."""
    (clean(root / "all") / "train" / "ant").rename(root / "ant")
    shutil.rmtree(root / "all")
    return root


def class_missing(root: Path) -> Path:
    """train/ and test/, which lacks a class."""
    shutil.rmtree(train_and_test(root) / "test" / "bee")
    return root


@pytest.mark.parametrize(
    ("make", "kinds", "splits"),
    [
        (train_and_test, {"duplicates across splits"}, ["train", "valid", "test"]),
        (unlabelled_test, {"other file"}, ["train", "valid"]),
        (other_names, {"duplicates across splits"}, ["train", "valid", "test"]),
        (one_class, {"small class"}, ["train", "valid", "test"]),
        (class_missing, {"duplicates across splits", "class missing from a split"}, ["train", "valid", "test"]),
    ],
)
def test_task__any_layout_is_audited(
    script: Script, tmp_path: Path, make: Callable[[Path], Path], kinds: set[str], splits: list[str]
) -> None:
    root = make(tmp_path / "images")
    result = script("train.py", "task=audit", f"data.root={root}", *SMALL, "hydra.run.dir=run")
    found = report(Path("run"))
    assert {finding["kind"] for finding in found["findings"]} == kinds
    assert result.status == (0 if found["clean"] else 1)
    assert result.err == ""
    assert list(found["splits"]) == list(found["images"]) == splits
    assert all(note in result.out for note in found["notes"])
    assert len(read_split("run")) == sum(sum(counts.values()) for counts in found["images"].values())


def test_task__near_duplicates_of_one_class_and_of_none(
    script: Script, tmp_path: Path, weights: tuple[str, ...]
) -> None:
    compare = (*SMALL, *weights, "data.near_duplicates=true")
    result = script("train.py", "task=audit", f"data.root={one_class(tmp_path / 'one')}", *compare)
    assert (result.status, "near duplicates: compared" in result.out) == (0, True)
    for name in ("ant", "bee"):
        (tmp_path / "none" / name).mkdir(parents=True)
    result = script("train.py", "task=audit", f"data.root={tmp_path / 'none'}", *compare)
    assert result.status == 1
    assert "near duplicates: not compared (there are no images to train on)" in result.out


def test_near_duplicates__found_from_the_features_of_an_earlier_run(
    script: Script, tmp_path: Path, weights: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = clean(tmp_path / "images")
    _, paths = near_duplicate(root)
    store = f"features.dir={tmp_path / 'features'}"
    arguments = (f"data.root={root}", *SMALL, *weights, store, "trainer.max_epochs=1")

    def audited(folder: str) -> str:
        return script("train.py", "task=audit", *arguments, f"hydra.run.dir={tmp_path / folder}").out

    assert "near duplicates: not compared (training does it; or set data.near_duplicates=true)" in audited("before")
    # Very many images are compared only on request.
    with monkeypatch.context() as patch:
        patch.setattr("headstart.auditing.report.MOST_IMAGES", 3)
        trained = script("train.py", *arguments, f"hydra.run.dir={tmp_path / 'many'}")
        assert (trained.status, trained.err) == (0, "")
        assert report(tmp_path / "many")["near_duplicates"].startswith("not compared (more than")
        assert "near duplicates: not compared (more than" in audited("many again")
        asked = script("train.py", *arguments, "data.near_duplicates=true", f"hydra.run.dir={tmp_path / 'asked'}")
        assert "warning: near duplicates across splits" in asked.err
    trained = script("train.py", *arguments, f"hydra.run.dir={tmp_path / 'run'}")
    warning = f"warning: near duplicates across splits: {paths[0]} and {paths[1]}: similarity 0.9"
    assert warning in trained.err
    files = set((tmp_path / "features").rglob("*.npy"))
    assert "near duplicates: compared" in audited("after")
    assert set((tmp_path / "features").rglob("*.npy")) == files
    for folder in ("run", "after"):
        (finding,) = report(tmp_path / folder)["findings"]
        assert (finding["kind"], finding["paths"]) == ("near duplicates across splits", list(paths))


def test_near_duplicates__error_with_random_weights(script: Script, tmp_path: Path) -> None:
    root = clean(tmp_path / "images")
    result = script("train.py", "task=audit", f"data.root={root}", *SMALL, "data.near_duplicates=true")
    assert result.status == 1
    assert result.err.startswith("error: data.near_duplicates=true needs")


def read_split(run: str) -> list[dict[str, str]]:
    with Path(run, "split.csv").open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_training__flat_folder_without_any_option(script: Script, flat: Path) -> None:
    result = script("train.py", f"data.root={flat}", *SMALL, "hydra.run.dir=run", "trainer.max_epochs=1")
    assert (result.status, result.err) == (0, "")
    assert result.out.splitlines()[0] == f"{flat}: 3 classes, 24 train, 6 valid, 6 test images"
    rows = read_split("run")
    assert Counter((row["class"], row["split"]) for row in rows) == {
        (name, split): count
        for name in ("blue", "green", "red")
        for split, count in (("train", 8), ("valid", 2), ("test", 2))
    }
    assert all((flat / row["path"]).is_file() for row in rows)
    tested = Path("run", "test_predictions.csv").read_text().splitlines()[1:]
    assert [row["path"] for row in rows if row["split"] == "test"] == [line.split(",")[0] for line in tested]


def test_training__training_and_testing_without_valid(script: Script, tmp_path: Path) -> None:
    root = other_names(tmp_path / "images")
    result = script("train.py", f"data.root={root}", *SMALL, "hydra.run.dir=run", "trainer.max_epochs=1")
    assert result.status == 0
    assert f"{root}: 3 classes, 30 train, 6 valid, 13 test images" in result.out
    origin = "data.split.valid=0.15 of each class of train, drawn with seed 0"
    assert result.out.count(f"no valid split: 6 images of train are used for it ({origin})\n") == 1
    assert f"train split: {root / 'data/Training'}; test split: {root / 'data/Testing'}\n" in result.out
    assert json.loads(Path("run", "run.json").read_text())["splits"]["valid"] == origin
    assert report(Path("run"))["splits"]["valid"] == origin
    rows = read_split("run")
    assert Counter(row["split"] for row in rows) == {"train": 30, "valid": 6, "test": 13}
    assert {row["class"] for row in rows} == {"ant", "bee", "cat"}


def test_training__unlabelled_test_images_are_predicted_by_the_command_shown(script: Script, tmp_path: Path) -> None:
    root = unlabelled_test(tmp_path / "my images")
    result = script("train.py", f"data.root={root}", *SMALL, "hydra.run.dir=logs/run", "trainer.max_epochs=1")
    assert result.status == 0
    assert "3 classes, 30 train, 6 valid images; 1 other left out (folder without class folders ×1)" in result.out
    assert not Path("logs/run", "test_predictions.csv").exists()
    (command,) = re.findall(r"to predict on it: python (.*)", result.out)
    predicted = script(*shlex.split(command))
    assert predicted.status == 0
    assert str(root / "test" / "0.jpg") in predicted.out


def test_training__odd_metadata_are_read_as_the_audit_says(script: Script, tmp_path: Path) -> None:
    root = clean(tmp_path / "images")
    for name, fields in FIELDS.items():
        (root / "train" / "ant" / f"{name}.jpg").write_bytes(with_exif("JPEG", exif(fields)))
    audited = script("train.py", "task=audit", f"data.root={root}", *SMALL)
    assert re.search(rf"^warning +{len(FIELDS)} +EXIF-rotated$", audited.out, re.MULTILINE)
    result = script("train.py", f"data.root={root}", *SMALL, "hydra.run.dir=run", "trainer.max_epochs=1")
    assert (result.status, result.err) == (0, "")
    predicted = script("predict.py", "ckpt_path=run/checkpoints/best.ckpt", f"source={root / 'train' / 'ant'}")
    assert (predicted.status, "error" in predicted.out) == (0, False)


def test_training__clean_data_take_one_line_and_a_link_to_its_own_folder_changes_nothing(
    script: Script, tmp_path: Path
) -> None:
    root = clean(tmp_path / "images")
    curves = []
    for run in ("before", "after"):
        result = script("train.py", f"data.root={root}", *SMALL, f"hydra.run.dir={run}")
        assert (result.status, result.err) == (0, "")
        curves.append(Path(run, "history.csv").read_text())
        if run == "before":
            assert result.out.splitlines()[0] == f"{root}: 3 classes, 36 train, 12 valid, 12 test images"
            assert report(Path(run))["clean"] is True
            (root / "train" / "ant" / "again").symlink_to(root / "train" / "ant", target_is_directory=True)
    assert curves[0] == curves[1]
    assert Path("before", "split.csv").read_text() == Path("after", "split.csv").read_text()


def test_training__warns_about_errors_and_continues(script: Script, tmp_path: Path) -> None:
    root = clean(tmp_path / "images")
    duplicates_across(root)
    other_file(root)
    result = script("train.py", f"data.root={root}", *SMALL)
    assert result.status == 0
    warning = (
        "warning: duplicates across splits: train/ant/04.jpg and test/ant/again.jpg: the same image in test and train"
    )
    assert result.err.splitlines() == [warning]


def test_training__policies_remove_images_and_are_recorded(script: Script, tmp_path: Path) -> None:
    root = clean(tmp_path / "images")
    duplicates_across(root)
    empty_file(root)
    failed = script("train.py", f"data.root={root}", *SMALL)
    assert failed.status == 1
    assert "test/bee/nothing.jpg cannot be read as an image: the file is empty" in failed.err
    result = script("train.py", f"data.root={root}", *SMALL, "data.on_unreadable=skip", "data.on_leak=drop")
    assert (result.status, result.err) == (0, "")
    assert "35 train, 12 valid, 13 test images" in result.out
    assert "left out, unreadable: test/bee/nothing.jpg" in result.out
    assert "left out, also in valid or test: train/ant/04.jpg" in result.out
    (record,) = Path.cwd().rglob("run.json")
    assert json.loads(record.read_text())["skipped"] == ["test/bee/nothing.jpg"]
    assert json.loads(record.read_text())["dropped"] == ["train/ant/04.jpg"]
    assert report(Path.cwd())["skipped"] == ["test/bee/nothing.jpg"]


@pytest.mark.skipif(sys.platform == "darwin", reason="macOS rejects such names")
def test_names__not_utf_8(script: Script, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9")
    root = clean(tmp_path / "images")
    for split in ("train", "valid", "test"):
        (root / split / "cat").rename(root / split / name)
    (root / "test" / name / "00.jpg").rename(root / "test" / name / f"{name}.jpg")
    (root / "test" / "bee" / f"{name}.jpg").write_bytes(b"")
    result = script("train.py", f"data.root={root}", *SMALL, "data.on_unreadable=skip", "hydra.run.dir=run")
    assert (result.status, result.err) == (0, "")
    found = report(Path("run"))
    assert found["images"]["train"] == {"ant": 12, "bee": 12, name: 12}
    assert found["skipped"] == [f"test/bee/{name}.jpg"]
    assert [(finding["kind"], finding["paths"]) for finding in found["findings"]] == [("empty file", found["skipped"])]
    predictions = Path("run", "test_predictions.csv").read_bytes()
    assert b"\ntest/caf\xe9/caf\xe9.jpg,caf\xe9," in predictions
    assert predictions.count(b"\n") == 1 + 12
    assert b"\ntest/caf\xe9/caf\xe9.jpg,caf\xe9,test\n" in Path("run", "split.csv").read_bytes()
    arguments = (f"data.root={root}", *SMALL, "data.on_unreadable=skip", "ckpt_path=run/checkpoints/best.ckpt")
    assert script("train.py", "task=test", *arguments, "hydra.run.dir=again").status == 0
    assert Path("again", "test_predictions.csv").read_bytes() == predictions


def test_balance__warns_about_imbalance_if_nothing_is_done_and_resumes_exactly(script: Script, tmp_path: Path) -> None:
    root = clean(tmp_path / "images")
    class_imbalance(root)
    arguments = (f"data.root={root}", *SMALL)
    losses = {}
    for balance in ("none", "loss", "sampler"):
        whole, part, resumed = (tmp_path / f"{balance}-{name}" for name in ("whole", "part", "resumed"))
        command = (*arguments, f"data.balance={balance}")
        result = script("train.py", *command, f"hydra.run.dir={part}", "trainer.max_epochs=1")
        assert result.status == 0
        assert ("warning: class imbalance: 'hen' has 4.2 ×" in result.err) == (balance == "none")
        losses[balance] = [row["train/loss"] for row in csv.DictReader((part / "history.csv").open())]
        if balance == "none":
            continue
        script("train.py", *command, f"hydra.run.dir={whole}", "trainer.max_epochs=2")
        last = part / "checkpoints" / "last.ckpt"
        failed = script("train.py", f"ckpt_path={last}", "data.balance=none", f"hydra.run.dir={tmp_path / 'other'}")
        assert f"data.balance=none cannot be set for a resumed run, whose checkpoint has {balance}: " in failed.err
        script("train.py", f"ckpt_path={last}", "trainer.max_epochs=2", f"hydra.run.dir={resumed}")
        assert (whole / "history.csv").read_text() == (resumed / "history.csv").read_text()
    assert len({tuple(curve) for curve in losses.values()}) == 3
