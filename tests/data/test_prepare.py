"""What the policies of `data` do about the audit's findings."""

import errno
import os
import shutil
from pathlib import Path

import pytest
from conftest import settings_of
from faulty import clean, conflicting_labels, duplicates_across, empty_file, photo, truncated

from headstart.auditing.findings import find_problems
from headstart.data.prepare import PreparedData, inspect_data, prepare_data
from headstart.errors import HeadstartError


def prepare(root: Path, *overrides: str) -> PreparedData:
    rule = ("data.split.train=6", "data.split.valid=3")
    return prepare_data(settings_of("data=folder", f"data.root={root}", *rule, *overrides).data, seed=0)


def remaining(data: PreparedData) -> list[str]:
    """The kinds of what is wrong with the images that are used."""
    removed = {*data.manifest.skipped, *data.manifest.dropped}
    return [finding.kind for finding in find_problems(data) if finding.remains_without(removed)]


def test_clean__everything_is_used(tmp_path: Path) -> None:
    data = prepare(clean(tmp_path))
    assert data.manifest.counts == {"train": 36, "valid": 12, "test": 12}
    assert (data.manifest.skipped, data.manifest.dropped) == ((), ())
    assert remaining(data) == []


def test_on_unreadable__error_names_the_first_file_and_counts_the_others(tmp_path: Path) -> None:
    truncated(clean(tmp_path))
    with pytest.raises(HeadstartError, match=r"valid/ant/half\.jpg cannot be read as an image: .*on_unreadable=skip$"):
        prepare(tmp_path)
    empty_file(tmp_path)
    with pytest.raises(HeadstartError, match=r"and 1 more: see task=audit"):
        prepare(tmp_path)


def test_on_unreadable__skip_leaves_the_other_images_in_their_splits(tmp_path: Path) -> None:
    flat = clean(tmp_path / "all") / "train"
    before = prepare(flat).manifest.splits
    (flat / "ant" / "02.jpg").write_bytes(b"")
    data = prepare(flat, "data.on_unreadable=skip")
    assert data.manifest.skipped == ("ant/02.jpg",)
    assert data.manifest.counts == {"train": 17, "valid": 9, "test": 9}
    assert data.manifest.splits["train"].paths == tuple(p for p in before["train"].paths if p != "ant/02.jpg")
    assert data.manifest.splits["valid"].paths == before["valid"].paths
    assert "empty file" not in remaining(data)


def test_on_unreadable__skip_does_not_empty_a_class(tmp_path: Path) -> None:
    clean(tmp_path)
    for path in (tmp_path / "test" / "cat").iterdir():
        path.write_bytes(b"")
    with pytest.raises(HeadstartError, match=r"test/cat holds no usable images"):
        prepare(tmp_path, "data.on_unreadable=skip")


def test_on_leak__warn_uses_all_images(tmp_path: Path) -> None:
    duplicates_across(clean(tmp_path))
    data = prepare(tmp_path)
    assert data.manifest.counts["train"] == 36
    assert remaining(data) == ["duplicates across splits"]


def test_on_leak__error_counts_the_images_and_names_one(tmp_path: Path) -> None:
    duplicates_across(clean(tmp_path))
    message = rf"^the train split of {tmp_path} shares 1 image with valid or test, such as train/ant/04\.jpg: "
    with pytest.raises(HeadstartError, match=message):
        prepare(tmp_path, "data.on_leak=error")
    (tmp_path / "valid/bee/too.jpg").write_bytes((tmp_path / "train/bee/00.jpg").read_bytes())
    with pytest.raises(HeadstartError, match="shares 2 images with"):
        prepare(tmp_path, "data.on_leak=error")


def test_on_leak__drop_removes_the_training_images_only(tmp_path: Path) -> None:
    duplicates_across(clean(tmp_path))
    (tmp_path / "valid/bee/too.jpg").write_bytes((tmp_path / "train/bee/00.jpg").read_bytes())
    data = prepare(tmp_path, "data.on_leak=drop")
    assert data.manifest.dropped == ("train/ant/04.jpg", "train/bee/00.jpg")
    assert data.manifest.counts == {"train": 34, "valid": 13, "test": 13}
    assert remaining(data) == []


def test_on_leak__drop_keeps_duplicates_between_valid_and_test_and_within_train(tmp_path: Path) -> None:
    conflicting_labels(clean(tmp_path))
    (tmp_path / "valid/bee/too.jpg").write_bytes((tmp_path / "test/bee/00.jpg").read_bytes())
    data = prepare(tmp_path, "data.on_leak=drop")
    assert data.manifest.dropped == ()
    assert remaining(data) == ["conflicting labels", "duplicates across splits"]


def closed_folder(root: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder in a class folder that cannot be read; the superuser, as whom tests may run, can read any."""
    (root / "train" / "ant" / "closed").mkdir()
    scandir = os.scandir

    def scan(folder: str | os.PathLike[str]) -> object:
        if Path(folder).name == "closed":
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", scan)
    return "train/ant/closed"


def test_unreadable_folder__is_an_error_or_skipped_and_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = closed_folder(clean(tmp_path), monkeypatch)
    message = rf"^the folder {tmp_path / path} cannot be read: Permission denied; repair or remove it, or skip it with"
    with pytest.raises(HeadstartError, match=message):
        prepare(tmp_path)
    data = prepare(tmp_path, "data.on_unreadable=skip")
    assert data.manifest.skipped == (path,)
    assert f"left out, unreadable: {path}" in data.manifest.describe()
    (finding,) = find_problems(data)
    assert (finding.kind, finding.paths, finding.severity) == ("unreadable", (path,), "error")
    assert finding.says == "the folder cannot be read: Permission denied"


def test_inspect_data__includes_what_cannot_be_trained_on(tmp_path: Path) -> None:
    _, (empty,) = empty_file(clean(tmp_path))
    duplicates_across(tmp_path)
    (tmp_path / "train" / "extra").mkdir()
    data = inspect_data(settings_of("data=folder", f"data.root={tmp_path}").data, seed=0)
    assert data.manifest.skipped == (empty,)
    assert data.manifest.dropped == ()
    assert data.manifest.counts == {"train": 36, "valid": 12, "test": 13}
    assert data.manifest.classes == ("ant", "bee", "cat", "extra")
    assert data.infos[empty].fault == "empty file"


def kinds(root: Path) -> list[str]:
    data = inspect_data(settings_of("data=folder", f"data.root={root}").data, seed=0)
    return sorted({finding.kind for finding in find_problems(data)})


def test_inspect_data__train_and_test_without_valid(tmp_path: Path) -> None:
    duplicates_across(clean(tmp_path))
    shutil.rmtree(tmp_path / "valid")
    assert kinds(tmp_path) == ["duplicates across splits"]


def test_inspect_data__train_alone(tmp_path: Path) -> None:
    (clean(tmp_path / "all") / "train").rename(tmp_path / "train")
    shutil.rmtree(tmp_path / "all")
    assert kinds(tmp_path) == []


def test_inspect_data__unlabelled_images(tmp_path: Path) -> None:
    clean(tmp_path)
    for split in ("valid", "test"):
        shutil.rmtree(tmp_path / split)
        photo(tmp_path / split / "0.jpg", seed=1)
    assert kinds(tmp_path) == ["other file"]


def test_inspect_data__one_class(tmp_path: Path) -> None:
    (clean(tmp_path / "all") / "train" / "ant").rename(tmp_path / "ant")
    shutil.rmtree(tmp_path / "all")
    assert kinds(tmp_path) == ["small class"]


def test_inspect_data__small_classes_and_no_images_at_all(tmp_path: Path) -> None:
    for seed, name in enumerate(("ant", "bee")):
        photo(tmp_path / name / "0.jpg", seed)
        (tmp_path / f"{name} 2").mkdir()
    assert kinds(tmp_path) == ["empty class", "small class"]


def test_policies__in_a_folder_that_is_split(tmp_path: Path) -> None:
    clean(tmp_path)
    shutil.rmtree(tmp_path / "valid")
    (tmp_path / "train" / "ant" / "00.jpg").write_bytes(b"")
    data = prepare_data(
        settings_of("data=folder", f"data.root={tmp_path}", "data.on_unreadable=skip", "data.split.valid=3").data,
        seed=0,
    )
    assert data.manifest.skipped == ("train/ant/00.jpg",)
    assert sum(data.manifest.counts.values()) == 36 - 1 + 12
