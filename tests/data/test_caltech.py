"""Caltech-256 made ready from an archive that is drawn here in the layout of the real one."""

import dataclasses
import io
import os
import signal
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest
from PIL import Image

from headstart.data import caltech
from headstart.data.caltech import ARCHIVE, make_caltech
from headstart.data.made import RECORD
from headstart.errors import HeadstartError
from headstart.settings import CaltechSettings, SplitSettings

TOP = "256_ObjectCategories"
CATEGORIES = {"009.bear": 14, "056.dog": 12, "134.llama-101": 13, "198.spider": 12, "256.toad": 12, "257.clutter": 15}


def picture(number: int) -> bytes:
    content = io.BytesIO()
    Image.new("RGB", (20, 16), (number % 256, 90, 30)).save(content, "JPEG")
    return content.getvalue()


def draw_archive(path: Path, extra: dict[str, bytes] | None = None) -> Path:
    """An archive with the strays of the real one; `extra` members come first."""
    files = dict(extra or {})
    for category, count in CATEGORIES.items():
        # Not in the order of their names.
        for number in reversed(range(1, count + 1)):
            files[f"{TOP}/{category}/{category[:3]}_{number:04}.jpg"] = picture(int(category[:3]) + number)
    files[f"{TOP}/198.spider/RENAME2"] = b"#!/bin/sh\n"
    files[f"{TOP}/056.dog/greg/vision309/056_0001.jpg"] = picture(1)
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
    return CaltechSettings(
        maker="caltech",
        root=str(tmp_path / "data" / "caltech"),
        split=SplitSettings(train=6, valid=3),
        batch_size=4,
        num_workers=0,
        resize_size=40,
        image_size=32,
        balance="none",
        on_unreadable="error",
        on_leak="warn",
        near_duplicates="auto",
        categories=["bear", "llama"],
        clutter=False,
        archive=str(draw_archive(tmp_path / "archive.tar")),
        archive_md5=None,
        url="http://127.0.0.1:1/there-is-nothing",
    )


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
    assert content == picture(12)


def test_all__without_strays_and_clutter(settings: CaltechSettings) -> None:
    make_caltech(dataclasses.replace(settings, categories=None), seed=0)
    found = [path for path in files(settings.root) if path != RECORD]
    assert {path.split("/")[1] for path in found} == {"bear", "dog", "llama", "spider", "toad"}
    assert len(found) == 14 + 12 + 13 + 12 + 12
    assert not [path for path in found if "RENAME" in path or "greg" in path]


def test_all__with_clutter(settings: CaltechSettings) -> None:
    make_caltech(dataclasses.replace(settings, categories=None, clutter=True), seed=0)
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


def test_done_already__no_work_and_no_archive(settings: CaltechSettings) -> None:
    make_caltech(settings, seed=0)
    times = {path: os.stat(Path(settings.root) / path).st_mtime_ns for path in files(settings.root)}
    Path(str(settings.archive)).unlink()
    make_caltech(settings, seed=0)
    assert times == {path: os.stat(Path(settings.root) / path).st_mtime_ns for path in files(settings.root)}


def test_made_otherwise__is_refused(settings: CaltechSettings) -> None:
    make_caltech(settings, seed=0)
    with pytest.raises(HeadstartError, match=r"was made with split .*'train': 6.*, not .*'train': 7"):
        make_caltech(dataclasses.replace(settings, split=SplitSettings(train=7, valid=3)), seed=0)
    with pytest.raises(HeadstartError, match="was made with categories"):
        make_caltech(dataclasses.replace(settings, categories=["bear", "dog"]), seed=0)


def test_fractions__drawn_by_seed(settings: CaltechSettings) -> None:
    fractions = dataclasses.replace(settings, split=SplitSettings(train=0.5, valid=0.25))
    make_caltech(fractions, seed=3)
    assert len([path for path in files(settings.root) if path.startswith("train/bear")]) == 6
    make_caltech(fractions, seed=3)
    with pytest.raises(HeadstartError, match="was made with seed 3, not 4"):
        make_caltech(fractions, seed=4)


def test_folder_of_the_users_own__is_not_touched(settings: CaltechSettings) -> None:
    mine = Path(settings.root) / "cats" / "tom.jpg"
    mine.parent.mkdir(parents=True)
    mine.write_bytes(picture(1))
    with pytest.raises(HeadstartError, match=f"say data=folder data.root={settings.root}"):
        make_caltech(settings, seed=0)
    assert files(settings.root) == ["cats/tom.jpg"]


def test_unknown_category__the_nearest_is_named(settings: CaltechSettings) -> None:
    with pytest.raises(HeadstartError, match="no category 'lama': did you mean 'llama'"):
        make_caltech(dataclasses.replace(settings, categories=["lama"]), seed=0)
    assert not Path(settings.root).exists()


def test_archive__checked_by_its_sum(settings: CaltechSettings) -> None:
    with pytest.raises(HeadstartError, match=r"its MD5 is .*, not 0123"):
        make_caltech(dataclasses.replace(settings, archive_md5="0123"), seed=0)
    assert not Path(settings.root).exists()
    assert Path(str(settings.archive)).exists()


@pytest.mark.parametrize("content", [b"", b"x" * 5000, "half", "other"])
def test_archive__damaged(settings: CaltechSettings, content: bytes | str) -> None:
    path = Path(str(settings.archive))
    if content == "other":
        with tarfile.open(path, "w"):
            pass
    else:
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2] if content == "half" else content)
    with pytest.raises(HeadstartError, match=r"archive\.tar (is damaged|holds no pictures)"):
        make_caltech(dataclasses.replace(settings, categories=None), seed=0)
    assert not Path(settings.root).parent.exists() or not list(Path(settings.root).parent.iterdir())


def test_archive__named_and_not_there(settings: CaltechSettings) -> None:
    with pytest.raises(HeadstartError, match=r"data\.archive=nowhere\.tar does not exist"):
        make_caltech(dataclasses.replace(settings, archive="nowhere.tar"), seed=0)


def test_archive__beside_the_root_is_found(settings: CaltechSettings) -> None:
    Path(settings.root).parent.mkdir()
    Path(str(settings.archive)).rename(Path(settings.root).parent / ARCHIVE)
    make_caltech(dataclasses.replace(settings, archive=None), seed=0)
    assert (Path(settings.root) / "train" / "bear").is_dir()


def test_no_network_and_no_archive__one_sentence_that_says_where(settings: CaltechSettings) -> None:
    with pytest.raises(HeadstartError) as caught:
        make_caltech(dataclasses.replace(settings, archive=None), seed=0)
    message = str(caught.value)
    assert "\n" not in message
    assert "https://data.caltech.edu/records/nyy15-4j048" in message
    assert str(Path(settings.root).parent / ARCHIVE) in message
    assert "data.archive=FILE" in message
    assert not Path(settings.root).exists()


def test_interrupted__at_any_picture(settings: CaltechSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    extract, count = caltech._extract, 0

    def extract_some(*arguments: object) -> None:
        nonlocal count
        count += 1
        if count == 20:
            raise KeyboardInterrupt
        extract(*arguments)

    monkeypatch.setattr(caltech, "_extract", extract_some)
    with pytest.raises(KeyboardInterrupt):
        make_caltech(settings, seed=0)
    assert not Path(settings.root).exists()
    make_caltech(settings, seed=0)
    assert len(files(settings.root)) == 14 + 13 + 1


SLOW = """
import sys, time
from pathlib import Path
from headstart.data import caltech
from test_caltech import *
extract = caltech._extract
caltech._extract = lambda *a: (extract(*a), time.sleep(0.02))
import dataclasses
root, archive = sys.argv[1:]
settings = CaltechSettings(maker="caltech", root=root, split=SplitSettings(6, 3), batch_size=4, num_workers=0,
    resize_size=40, image_size=32, balance="none", on_unreadable="error", on_leak="warn", near_duplicates="auto",
    categories=["bear", "llama"], clutter=False, archive=archive, archive_md5=None, url="")
print("ready", flush=True)
caltech.make_caltech(settings, seed=0)
"""


@pytest.mark.parametrize("wait", [0.05, 0.3, 0.5])
def test_killed__and_started_again(settings: CaltechSettings, wait: float) -> None:
    command = [sys.executable, "-c", SLOW, settings.root, str(settings.archive)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, cwd=Path(__file__).parent) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"ready\n"
        time.sleep(wait)
        os.kill(process.pid, signal.SIGKILL)
    assert not Path(settings.root).exists()
    make_caltech(settings, seed=0)
    assert len(files(settings.root)) == 14 + 13 + 1
    assert {path.name for path in Path(settings.root).parent.iterdir()} == {"caltech"}


def test_two_at_once__one_makes_it_and_the_other_waits(settings: CaltechSettings) -> None:
    command = [sys.executable, "-c", SLOW, settings.root, str(settings.archive)]
    processes = [subprocess.Popen(command, stdout=subprocess.DEVNULL, cwd=Path(__file__).parent) for _ in range(2)]
    assert [process.wait(60) for process in processes] == [0, 0]
    assert len(files(settings.root)) == 14 + 13 + 1


def test_recipe__counts_are_those_published(settings: CaltechSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caltech, "RECIPE", ["bear", "llama"])
    monkeypatch.setattr(caltech, "check_md5", lambda *arguments: None)
    published = dataclasses.replace(
        settings, split=SplitSettings(60, 10), archive_md5=caltech.PUBLISHED_MD5, categories=["bear", "llama"]
    )
    with pytest.raises(HeadstartError, match=r"the archive gives .* pictures, not .*600"):
        make_caltech(published, seed=0)
    assert not Path(settings.root).exists()
