"""Folders and archives are the same to whoever reads the files in them."""

import os
from pathlib import Path

import pytest
from archived import tar_of, zip_of

from headstart.data.folders import (
    BROKEN_LINK,
    NOT_A_FILE,
    Folder,
    exists,
    is_file,
    is_folder,
    is_in_archive,
    open_file,
    open_folder,
    read_file,
    walk,
)
from headstart.data.images import read_rgb
from headstart.errors import HeadstartError, UnreadableImage


@pytest.fixture
def folder(flat: Path) -> Path:
    """Three classes, other files, a hidden folder, an image without an extension, an archive and links."""
    (flat / "notes.txt").write_text("notes")
    (flat / "__MACOSX" / "red").mkdir(parents=True)
    (flat / "__MACOSX" / "red" / "._0.jpg").write_bytes(b"metadata")
    (flat / "red" / "photo").write_bytes((flat / "red" / "0.jpg").read_bytes())
    (flat / "blue" / "data").write_bytes(b"no image")
    zip_of(flat / "green", flat / "green" / "inner.zip")
    (flat / "red" / "again.jpg").symlink_to("0.jpg")
    (flat / "red" / "gone.jpg").symlink_to("nowhere.jpg")
    (flat / "red" / "gone.txt").symlink_to("nowhere.txt")
    return flat


def archived(folder: Path, kind: str) -> Path:
    if kind == "folder":
        return folder
    path = folder.parent / f"IMAGES.{kind.upper()}"
    # Links stay links only in the tar, where they are left out.
    return tar_of(folder, path) if kind == "tar" else zip_of(folder, path)


def contents(top: Path) -> tuple[dict[str, bytes], dict[str, str]]:
    """The images in a folder, and what is left out."""
    folders, left_out = walk(open_folder(top))
    images = {folder.path / name for folder in folders for name in folder.images}
    for below in folders:
        left_out |= {below.path / name: reason for name, reason in below.others.items()}
    return (
        {path.relative_to(top).as_posix(): read_file(path) for path in images if exists(path)},
        {path.relative_to(top).as_posix(): reason for path, reason in left_out.items()},
    )


def test_tar__is_read_as_its_folder(folder: Path) -> None:
    images, left_out = contents(folder)
    assert len(images) == 36 + 2
    others = dict.fromkeys(("notes.txt", "__MACOSX", "blue/data", "green/inner.zip"), "")
    assert left_out == others | {"red/gone.txt": BROKEN_LINK}
    # Links in an archive are not followed.
    del images["red/again.jpg"]
    links = dict.fromkeys(("red/again.jpg", "red/gone.jpg", "red/gone.txt"), NOT_A_FILE)
    assert contents(archived(folder, "tar")) == (images, others | links)


def test_zip__is_read_as_its_folder(folder: Path) -> None:
    for name in ("again.jpg", "gone.jpg", "gone.txt"):
        (folder / "red" / name).unlink()
    assert contents(archived(folder, "zip")) == contents(folder)


@pytest.mark.parametrize("kind", ["folder", "zip", "tar"])
def test_questions__about_places(flat: Path, kind: str) -> None:
    top = archived(flat, kind)
    assert is_folder(top)
    assert is_folder(top / "red")
    assert is_file(top / "red" / "0.jpg")
    assert exists(top / "red" / "0.jpg")
    assert not is_folder(top / "red" / "0.jpg")
    assert not is_file(top / "red")
    for nowhere in (top / "yellow", top / "red" / "99.jpg", top / "red" / "0.jpg" / "0.jpg"):
        assert not any(ask(nowhere) for ask in (exists, is_file, is_folder))
        with pytest.raises(OSError, match=r"\[Errno"):
            open_file(nowhere)
    assert is_in_archive(top) == (kind != "folder")


def test_links(folder: Path, tmp_path: Path) -> None:
    assert not exists(folder / "red" / "gone.jpg")
    link = tmp_path / "link"
    for kind in ("folder", "zip"):
        (folder / "red" / "gone.jpg").unlink(missing_ok=True)
        (folder / "red" / "gone.txt").unlink(missing_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(top := archived(folder, kind))
        assert read_file(link / "red" / "0.jpg") == read_file(top / "red" / "0.jpg")
        assert Folder(link / "red").real == str(top / "red")


def test_read_rgb__names_the_file_in_the_archive(flat: Path) -> None:
    (flat / "red" / "0.jpg").write_bytes(b"")
    top = archived(flat, "zip")
    assert read_rgb(top / "red" / "1.jpg").size == (48, 40)
    with pytest.raises(UnreadableImage, match=r"IMAGES\.ZIP/red/0\.jpg cannot be read as an image: the file is empty"):
        read_rgb(top / "red" / "0.jpg")
    with pytest.raises(UnreadableImage, match=r"99\.jpg cannot be read as an image: No such file"):
        read_rgb(top / "red" / "99.jpg")


def test_read_rgb__of_an_archive_that_was_changed(flat: Path) -> None:
    top = archived(flat, "zip")
    read_rgb(top / "red" / "1.jpg")
    os.utime(top, (1, 1))
    with pytest.raises(UnreadableImage, match="has been changed since its files were listed: start again"):
        read_rgb(top / "red" / "1.jpg")


def test_open_folder__of_an_archive_that_is_damaged(flat: Path) -> None:
    top = archived(flat, "zip")
    top.write_bytes(top.read_bytes()[:-100])
    with pytest.raises(HeadstartError, match=r"IMAGES\.ZIP is damaged, or not a complete zip archive"):
        open_folder(top)
