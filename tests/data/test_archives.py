import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest
from archived import tar_link, tar_with, zip_link, zip_with

from headstart.data import archives
from headstart.data.archives import OPENED, Archive, Item, in_archive, members_of
from headstart.errors import HeadstartError


def tree_of(archive: Archive, inner: str = "") -> list[str]:
    """The files in an archive."""
    found = []
    for entry in archive.entries(inner):
        path = f"{inner}/{entry.name}".strip("/")
        found += tree_of(archive, path) if entry.is_dir() and not entry.is_symlink() else [path]
    return found


@pytest.mark.parametrize("write", [zip_with, tar_with])
def test_names__as_when_it_is_unpacked(tmp_path: Path, write: object) -> None:
    names = ("./a/1.jpg", "/a/2.jpg", "../a/3.jpg", "a/../b/4.jpg", "a//5.jpg")
    archive = Archive(str(write(tmp_path / "x", [(name, name.encode()) for name in names])))  # type: ignore[operator]
    assert tree_of(archive) == ["a/1.jpg", "a/2.jpg", "a/3.jpg", "a/5.jpg", "a/b/4.jpg"]
    assert archive.read("a/3.jpg") == b"../a/3.jpg"


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("write", [zip_with, tar_with])
def test_names__the_last_of_several_counts(tmp_path: Path, write: object) -> None:
    members = [("a.jpg", b"old"), ("b", b"a file"), ("b/c.jpg", b"in a folder"), ("a.jpg", b"new"), ("b", b"again")]
    archive = Archive(str(write(tmp_path / "x", members)))  # type: ignore[operator]
    assert archive.read("a.jpg") == b"new"
    assert tree_of(archive) == ["a.jpg", "b/c.jpg"]


def test_folders__also_empty_ones_and_those_without_an_entry(tmp_path: Path) -> None:
    archive = Archive(str(zip_with(tmp_path / "x", [("empty/", b""), ("a/b/1.jpg", b"1")])))
    assert [(entry.name, entry.is_dir()) for entry in archive.entries("")] == [("a", True), ("empty", True)]
    assert archive.entries("empty") == []
    for inner in ("nowhere", "a/b/1.jpg", "a/b/1.jpg/2"):
        with pytest.raises(OSError, match=r"\[Errno"):
            archive.entries(inner)


def test_read__only_files(tmp_path: Path) -> None:
    archive = Archive(str(zip_with(tmp_path / "x", [("a/1.jpg", b"1")])))
    with pytest.raises(IsADirectoryError):
        archive.read("a")
    with pytest.raises(FileNotFoundError):
        archive.read("a/2.jpg")


LINKS = {"a/near.jpg": "1.jpg", "far.jpg": "a/1.jpg", "b": "a", "a/up": "..", "gone.jpg": "a/9.jpg", "loop": "loop"}
LINKS |= {"outside.jpg": "../1.jpg", "absolute.jpg": "/etc/1.jpg"}


@pytest.fixture(params=["zip", "tar"])
def with_links(request: pytest.FixtureRequest, tmp_path: Path) -> Archive:
    path = tmp_path / "x"
    if request.param == "zip":
        zip_with(path, [("a/1.jpg", b"1"), *((zip_link(name), to.encode()) for name, to in LINKS.items())])
    else:
        tar_with(path, [("a/1.jpg", b"1"), *((tar_link(name, to), b"") for name, to in LINKS.items())])
    return Archive(str(path))


def test_links__lead_to_files_and_folders_in_the_archive(with_links: Archive) -> None:
    for inner in ("a/near.jpg", "far.jpg", "b/1.jpg", "b/near.jpg", "a/up/b/up/far.jpg"):
        assert with_links.read(inner) == b"1"
        assert with_links.real(inner) == "a/1.jpg"
    entries = {entry.name: entry for entry in with_links.entries("")}
    assert entries["b"].is_dir()
    assert entries["b"].is_symlink()
    assert entries["far.jpg"].is_file()


@pytest.mark.parametrize("inner", ["gone.jpg", "loop", "outside.jpg", "absolute.jpg"])
def test_links__broken_ones(with_links: Archive, inner: str) -> None:
    (entry,) = (entry for entry in with_links.entries("") if entry.name == inner)
    assert (entry.is_symlink(), entry.is_file(), entry.is_dir()) == (True, False, False)
    assert with_links.has(inner)
    assert with_links.real(inner) == inner
    with pytest.raises(OSError, match=r"\[Errno"):
        with_links.read(inner)


def test_hard_links__are_files(tmp_path: Path) -> None:
    links = {"a/2.jpg": "a/1.jpg", "3.jpg": "gone"}
    hard = [(tar_link(name, target, tarfile.LNKTYPE), b"") for name, target in links.items()]
    archive = Archive(str(tar_with(tmp_path / "x", [("a/1.jpg", b"1"), *hard])))
    assert archive.read("a/2.jpg") == b"1"
    assert {entry.name: entry.is_symlink() for entry in archive.entries("a")} == {"1.jpg": False, "2.jpg": False}
    assert archive.node("3.jpg") is None


def test_special_files__are_neither_files_nor_folders(tmp_path: Path) -> None:
    archive = Archive(str(tar_with(tmp_path / "x", [(tar_link("pipe.jpg", "", tarfile.FIFOTYPE), b"")])))
    (entry,) = archive.entries("")
    assert (entry.is_file(), entry.is_dir(), entry.is_symlink()) == (False, False, False)


def test_changed__archive_is_not_read_any_more_until_it_is_listed_again(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "x.zip", [("1.jpg", b"old")])
    assert OPENED.current(str(path)).read("1.jpg") == b"old"
    zip_with(path, [("0.jpg", b"first"), ("1.jpg", b"new")])
    with pytest.raises(OSError, match=r"x\.zip has been changed since its files were listed: start again"):
        OPENED.known(str(path)).read("1.jpg")
    assert OPENED.current(str(path)).read("1.jpg") == b"new"
    assert OPENED.known(str(path)).read("0.jpg") == b"first"
    path.write_text("no longer one")
    with pytest.raises(HeadstartError, match=r"x\.zip is damaged, or not a complete zip or tar archive"):
        OPENED.current(str(path))


def test_list__is_read_once_by_all_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zip_with(tmp_path / "x.zip", [(f"{number}.jpg", str(number).encode()) for number in range(100)])
    read = list[str]()

    def counted(path: str, file: IO[bytes]) -> Iterator[tuple[str, Item]]:
        read.append(path)
        return members_of(path, file)

    monkeypatch.setattr(archives, "members_of", counted)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: OPENED.known(str(path)).read(f"{number}.jpg"), range(100)))
    assert found == [str(number).encode() for number in range(100)]
    assert len(read) == 1


def test_read__in_a_forked_process(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "x.zip", [(f"{number}.jpg", str(number).encode() * 9999) for number in range(50)])
    archive = OPENED.current(str(path))
    child = os.fork()
    right = all(archive.read(f"{number}.jpg") == str(number).encode() * 9999 for number in range(50))
    if not child:
        os._exit(not right)
    assert right
    assert os.waitpid(child, 0)[1] == 0


def test_in_archive__the_nearest_file_on_the_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zip_with(tmp_path / "x.zip", [("a/1.jpg", b"1")])
    (tmp_path / "notes.txt").write_text("notes")
    (tmp_path / "folder.zip").mkdir()
    monkeypatch.chdir(tmp_path)
    assert in_archive(path) == in_archive("x.zip") == (str(path), "")
    assert in_archive("x.zip/a/1.jpg") == (str(path), "a/1.jpg")
    for other in ("notes.txt", "notes.txt/1.jpg", "folder.zip/1.jpg", "nowhere/1.jpg", ".", "/"):
        assert in_archive(other) is None
