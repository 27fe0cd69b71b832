"""Caltech-256 from a generated archive in the layout of the real one."""

import dataclasses
import io
import multiprocessing
import os
import tarfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from conftest import settings_of
from PIL import Image

from headstart.config.data import CaltechSettings, SplitSettings
from headstart.datasets import RECORD, caltech256
from headstart.datasets.caltech256 import ARCHIVE, make_caltech
from headstart.errors import HeadstartError

# A forked process starts without importing everything again.
FORK = multiprocessing.get_context("fork")
TOP = "256_ObjectCategories"
CATEGORIES = {"009.bear": 14, "056.dog": 12, "134.llama-101": 13, "198.spider": 12, "256.toad": 12, "257.clutter": 15}


def image_bytes(number: int) -> bytes:
    """A JPEG file; each number has another colour."""
    content = io.BytesIO()
    Image.new("RGB", (20, 16), (number % 256, 90, 30)).save(content, "JPEG")
    return content.getvalue()


def draw_archive(path: Path, extra: dict[str, bytes] | None = None) -> Path:
    """An archive with the strays of the real one; `extra` members come first."""
    files = dict(extra or {})
    for category, count in CATEGORIES.items():
        # Not in the order of their names.
        for number in reversed(range(1, count + 1)):
            files[f"{TOP}/{category}/{category[:3]}_{number:04}.jpg"] = image_bytes(int(category[:3]) + number)
    files[f"{TOP}/198.spider/RENAME2"] = b"#!/bin/sh\n"
    files[f"{TOP}/056.dog/greg/vision309/056_0001.jpg"] = image_bytes(1)
    files[f"{TOP}/056.dog/056_0001.jpg~"] = b"x"
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
        link = tarfile.TarInfo(f"{TOP}/009.bear/009_0099.jpg")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        tar.addfile(link)
    return path


@pytest.fixture
def settings(tmp_path: Path) -> CaltechSettings:
    data = settings_of(
        "data=caltech256",
        f"data.root={tmp_path / 'data' / 'caltech'}",
        "data.split.train=6",
        "data.split.valid=3",
        "data.categories=[bear,llama]",
        f"data.archive={draw_archive(tmp_path / 'archive.tar')}",
        "data.archive_md5=null",
        "data.url=http://127.0.0.1:1/there-is-nothing",
    ).data
    assert isinstance(data, CaltechSettings)
    return data


def files(root: str | Path) -> list[str]:
    return sorted(path.relative_to(root).as_posix() for path in Path(root).rglob("*") if path.is_file())


def test_categories__first_by_name_to_train_next_to_valid_rest_to_test(settings: CaltechSettings) -> None:
    make_caltech(settings, seed=0)
    expected = [RECORD]
    for name, number, count in (("bear", "009", 14), ("llama", "134", 13)):
        for position in range(1, count + 1):
            split = "train" if position <= 6 else "valid" if position <= 9 else "test"
            expected.append(f"{split}/{name}/{number}_{position:04}.jpg")
    assert files(settings.root) == sorted(expected)
    content = (Path(settings.root) / "train/bear/009_0003.jpg").read_bytes()
    assert content == image_bytes(12)


def test_all__without_strays_and_clutter(settings: CaltechSettings) -> None:
    make_caltech(dataclasses.replace(settings, categories=None), seed=0)
    found = [path for path in files(settings.root) if path != RECORD]
    assert {path.split("/")[1] for path in found} == {"bear", "dog", "llama", "spider", "toad"}
    assert len(found) == 14 + 12 + 13 + 12 + 12
    assert not [path for path in found if "RENAME" in path or "greg" in path]


def test_clutter__only_if_it_is_named(settings: CaltechSettings) -> None:
    make_caltech(dataclasses.replace(settings, categories=["bear", "clutter"]), seed=0)
    assert (Path(settings.root) / "test" / "clutter").is_dir()


def test_unsafe_members__are_not_extracted(settings: CaltechSettings, tmp_path: Path) -> None:
    evil = {
        "/absolute/009.bear/009_0050.jpg": b"x",
        f"{TOP}/009.bear/../../../../evil.jpg": b"x",
        f"{TOP}/../009.bear/009_0051.jpg": b"x",
        f"{TOP}/300.../300_0001.jpg": b"x",
        "../256_ObjectCategories/009.bear/009_0052.jpg": b"x",
    }
    draw_archive(Path(str(settings.archive)), evil)
    before = files(tmp_path)
    make_caltech(dataclasses.replace(settings, categories=None), seed=0)
    new = [path for path in files(tmp_path) if path not in before]
    assert all(path.startswith("data/") for path in new)
    assert not [path for path in new if path.endswith(("evil.jpg", "_0050.jpg", "_0051.jpg", "_0052.jpg"))]


def test_existing_folder__takes_no_work_and_no_archive(settings: CaltechSettings) -> None:
    make_caltech(settings, seed=0)
    times = {path: os.stat(Path(settings.root) / path).st_mtime_ns for path in files(settings.root)}
    Path(str(settings.archive)).unlink()
    make_caltech(settings, seed=0)
    assert times == {path: os.stat(Path(settings.root) / path).st_mtime_ns for path in files(settings.root)}


def test_existing_folder__error_if_created_with_other_options(settings: CaltechSettings) -> None:
    make_caltech(settings, seed=0)
    with pytest.raises(HeadstartError, match=r"was created with split .*'train': 6.*, not .*'train': 7"):
        make_caltech(dataclasses.replace(settings, split=SplitSettings(train=7, valid=3)), seed=0)
    with pytest.raises(HeadstartError, match="was created with categories"):
        make_caltech(dataclasses.replace(settings, categories=["bear", "dog"]), seed=0)


def test_fractions__are_drawn_by_seed(settings: CaltechSettings) -> None:
    fractions = dataclasses.replace(settings, split=SplitSettings(train=0.5, valid=0.25))
    make_caltech(fractions, seed=3)
    assert len([path for path in files(settings.root) if path.startswith("train/bear")]) == 6
    make_caltech(fractions, seed=3)
    with pytest.raises(HeadstartError, match="was created with seed 3, not 4"):
        make_caltech(fractions, seed=4)


def test_folder_of_the_user__is_not_touched(settings: CaltechSettings) -> None:
    own = Path(settings.root) / "cats" / "tom.jpg"
    own.parent.mkdir(parents=True)
    own.write_bytes(image_bytes(1))
    with pytest.raises(HeadstartError, match=f"use data=folder data.root={settings.root}"):
        make_caltech(settings, seed=0)
    assert files(settings.root) == ["cats/tom.jpg"]


def test_unknown_category__the_nearest_is_named(settings: CaltechSettings) -> None:
    with pytest.raises(HeadstartError, match="no category 'lama': did you mean 'llama'"):
        make_caltech(dataclasses.replace(settings, categories=["lama"]), seed=0)
    assert not Path(settings.root).exists()


def test_archive__checked_by_its_md5(settings: CaltechSettings) -> None:
    with pytest.raises(HeadstartError, match=r"its MD5 is .*, not 0123"):
        make_caltech(dataclasses.replace(settings, archive_md5="0123"), seed=0)
    assert not Path(settings.root).exists()
    assert Path(str(settings.archive)).exists()


@pytest.mark.parametrize("kind", ["empty", "text", "half", "other"])
def test_archive__damaged(settings: CaltechSettings, kind: str) -> None:
    path = Path(str(settings.archive))
    content = path.read_bytes()
    with tarfile.open(path, "w"):
        pass
    contents = {"empty": b"", "text": b"x" * 5000, "half": content[: len(content) // 2], "other": path.read_bytes()}
    path.write_bytes(contents[kind])
    with pytest.raises(HeadstartError, match=r"archive\.tar (is damaged|holds no images)"):
        make_caltech(dataclasses.replace(settings, categories=None), seed=0)
    assert not Path(settings.root).parent.exists() or not list(Path(settings.root).parent.iterdir())


def test_archive__named_but_missing(settings: CaltechSettings) -> None:
    with pytest.raises(HeadstartError, match=r"data\.archive=nowhere\.tar does not exist"):
        make_caltech(dataclasses.replace(settings, archive="nowhere.tar"), seed=0)


def test_archive__found_beside_the_root(settings: CaltechSettings) -> None:
    Path(settings.root).parent.mkdir()
    Path(str(settings.archive)).rename(Path(settings.root).parent / ARCHIVE)
    make_caltech(dataclasses.replace(settings, archive=None), seed=0)
    assert (Path(settings.root) / "train" / "bear").is_dir()


def test_no_network_and_no_archive__one_sentence_that_says_what_to_do(settings: CaltechSettings) -> None:
    with pytest.raises(HeadstartError) as caught:
        make_caltech(dataclasses.replace(settings, archive=None), seed=0)
    message = str(caught.value)
    assert "\n" not in message
    assert "https://data.caltech.edu/records/nyy15-4j048" in message
    assert str(Path(settings.root).parent / ARCHIVE) in message
    assert "data.archive=FILE" in message
    assert not Path(settings.root).exists()


def test_interrupted__leaves_nothing_and_starts_again(
    settings: CaltechSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    extract, count = caltech256._extract, 0

    def extract_some(*arguments: Any) -> None:
        nonlocal count
        count += 1
        if count == 20:
            raise KeyboardInterrupt
        extract(*arguments)

    monkeypatch.setattr(caltech256, "_extract", extract_some)
    with pytest.raises(KeyboardInterrupt):
        make_caltech(settings, seed=0)
    assert not Path(settings.root).exists()
    make_caltech(settings, seed=0)
    assert len(files(settings.root)) == 14 + 13 + 1


def create(settings: CaltechSettings, after_extract: Callable[[int], object]) -> None:
    """Creates the folder in a forked process, which calls `after_extract` with the number of images so far."""
    extract, count = caltech256._extract, 0

    def counting(*arguments: Any) -> None:
        nonlocal count
        extract(*arguments)
        count += 1
        after_extract(count)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(caltech256, "_extract", counting)
        make_caltech(settings, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("last", [1, 20, 27])
def test_killed__leaves_no_folder_and_starts_again(settings: CaltechSettings, last: int) -> None:
    reached = FORK.Event()

    def wait_to_be_killed(count: int) -> None:
        if count == last:
            reached.set()
            time.sleep(60)

    process = FORK.Process(target=create, args=(settings, wait_to_be_killed))
    process.start()
    assert reached.wait(30)
    process.kill()
    process.join()
    assert not Path(settings.root).exists()
    make_caltech(settings, seed=0)
    assert len(files(settings.root)) == 14 + 13 + 1
    assert {path.name for path in Path(settings.root).parent.iterdir()} == {"caltech"}


@pytest.mark.slow
def test_in_parallel__one_process_creates_the_folder_and_the_other_waits(settings: CaltechSettings) -> None:
    extracted = FORK.Value("i", 0)

    def work_slowly(count: int) -> None:
        with extracted.get_lock():
            extracted.value += 1
        time.sleep(0.01)

    processes = [FORK.Process(target=create, args=(settings, work_slowly)) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    assert extracted.value == 14 + 13
    assert len(files(settings.root)) == 14 + 13 + 1
