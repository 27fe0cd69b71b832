import os
import tarfile
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO

import pytest
from archived import tar_link, tar_with, zip_link, zip_with

from headstart.data import archives
from headstart.data.archives import Archive, Member, in_archive, members_of, open_archive
from headstart.errors import HeadstartError


def tree_of(archive: Archive, inner: str = "") -> list[str]:
    """The files in an archive."""
    found = []
    for entry in archive.entries(inner):
        path = f"{inner}/{entry.name}".strip("/")
        found += tree_of(archive, path) if entry.is_folder and not entry.is_link else [path]
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
    assert [(entry.name, entry.is_folder) for entry in archive.entries("")] == [("a", True), ("empty", True)]
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


def test_links_and_special_files__are_neither_files_nor_folders(tmp_path: Path) -> None:
    kinds = {"soft.jpg": tarfile.SYMTYPE, "hard.jpg": tarfile.LNKTYPE, "pipe.jpg": tarfile.FIFOTYPE}
    tar = tar_with(tmp_path / "x.tar", [(tar_link(name, "1.jpg", kind), b"") for name, kind in kinds.items()])
    for path, count in ((tar, 3), (zip_with(tmp_path / "x.zip", [(zip_link("soft.jpg"), b"1.jpg")]), 1)):
        entries = Archive(str(path)).entries("")
        assert len(entries) == count
        assert not any(entry.is_file or entry.is_folder or entry.is_link for entry in entries)
        with pytest.raises(FileNotFoundError):
            Archive(str(path)).read("soft.jpg")


def test_changed__archive_is_not_read_any_more_until_it_is_listed_again(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "x.zip", [("1.jpg", b"old")])
    assert open_archive(str(path)).read("1.jpg") == b"old"
    zip_with(path, [("0.jpg", b"first"), ("1.jpg", b"new")])
    with pytest.raises(OSError, match=r"x\.zip has been changed since its files were listed: start again"):
        open_archive(str(path), as_listed=True).read("1.jpg")
    assert open_archive(str(path)).read("1.jpg") == b"new"
    assert open_archive(str(path), as_listed=True).read("0.jpg") == b"first"
    path.write_text("no longer one")
    with pytest.raises(HeadstartError, match=r"x\.zip is damaged, or not a complete zip or tar archive"):
        open_archive(str(path))


def test_list__is_read_once_by_all_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = zip_with(tmp_path / "x.zip", [(f"{number}.jpg", str(number).encode()) for number in range(100)])
    read = list[str]()

    def counted(path: str, file: IO[bytes]) -> Iterator[tuple[str, Member | None]]:
        read.append(path)
        return members_of(path, file)

    monkeypatch.setattr(archives, "members_of", counted)
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda number: open_archive(str(path), as_listed=True).read(f"{number}.jpg"), range(100)))
    assert found == [str(number).encode() for number in range(100)]
    assert len(read) == 1


def test_read__in_a_forked_process(tmp_path: Path) -> None:
    path = zip_with(tmp_path / "x.zip", [(f"{number}.jpg", str(number).encode() * 9999) for number in range(50)])
    archive = open_archive(str(path))
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
