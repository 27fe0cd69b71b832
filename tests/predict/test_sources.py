import errno
import os
from pathlib import Path

import pytest
from archived import zip_of
from conftest import draw
from odd_files import saved

from headstart.errors import HeadstartError
from headstart.files import PREDICTIONS, mark
from headstart.predict.sources import find_images


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """photos/0.jpg, photos/1.png and photos/in/2.jpg."""
    root = tmp_path / "photos"
    for name in ("0.jpg", "1.png", "in/2.jpg"):
        draw(root / name, (9, 90, 200), seed=0, size=(8, 8))
    return root


def found(source: Path | str) -> list[str]:
    return [str(path).rpartition("photos/")[2] for path in find_images(str(source))]


def test_folder__images_of_every_extension_and_of_none(folder: Path, messages: list[str]) -> None:
    forms = {
        ".jfif": "JPEG",
        ".jpe": "JPEG",
        ".avif": "AVIF",
        ".jp2": "JPEG2000",
        ".tga": "TGA",
        "": "WEBP",
        ".x": "PNG",
    }
    for suffix, form in forms.items():
        (folder / f"more{suffix}").write_bytes(saved(form))
    assert found(folder) == sorted(["0.jpg", "1.png", "in/2.jpg", *(f"more{suffix}" for suffix in forms)])
    assert messages == []


def test_folder__what_is_left_out_is_counted_and_named(folder: Path, messages: list[str]) -> None:
    for name in ("a.txt", "b.txt", "c.pdf", "d", ".DS_Store", "._0.jpg"):
        (folder / name).write_text("x")
    (folder / ".cache").mkdir()
    assert found(folder) == ["0.jpg", "1.png", "in/2.jpg"]
    assert messages == [
        f"{folder}: 7 other files left out (.txt ×2, .DS_Store ×1, .cache ×1, .pdf ×1, d ×1, … and 1 more kind)"
    ]


@pytest.mark.parametrize(("link", "target"), [("loop", "."), ("in/loop", ".."), ("in/loop", "/"), ("again", "in")])
@pytest.mark.parametrize("pattern", ["", "**/*", "**/*.*", "**"])
def test_links__every_folder_is_visited_once(
    folder: Path, messages: list[str], link: str, target: str, pattern: str
) -> None:
    (folder / link).symlink_to(target, target_is_directory=True)
    assert found(folder / pattern) == ["0.jpg", "1.png", "in/2.jpg"]
    assert pattern or len(messages) == 1


def test_links__to_files_are_used(folder: Path) -> None:
    (folder / "latest.jpg").symlink_to("0.jpg")
    assert found(folder) == ["0.jpg", "1.png", "in/2.jpg", "latest.jpg"]


def test_links__two_loops_end(folder: Path) -> None:
    for name in ("a", "b", "in/a", "in/b"):
        (folder / name).symlink_to(folder, target_is_directory=True)
    for source in (folder, folder / "**/*.jpg", folder / "**"):
        assert [name for name in found(source) if name != "1.png"] == ["0.jpg", "in/2.jpg"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*", ["0.jpg", "1.png"]),
        ("*.jpg", ["0.jpg"]),
        ("**", ["0.jpg", "1.png", "in/2.jpg"]),
        ("**/*.jpg", ["0.jpg", "in/2.jpg"]),
        ("**/in/*", ["in/2.jpg"]),
        ("in/**/2.*", ["in/2.jpg"]),
        ("**/**/?.jpg", ["0.jpg", "in/2.jpg"]),
        ("i?/**", ["in/2.jpg"]),
        ("[0-1].*", ["0.jpg", "1.png"]),
        ("*/*", ["in/2.jpg"]),
    ],
)
def test_glob(folder: Path, monkeypatch: pytest.MonkeyPatch, pattern: str, expected: list[str]) -> None:
    draw(folder / ".hidden" / "9.jpg", (9, 90, 200), seed=0, size=(8, 8))
    assert found(folder / pattern) == expected
    assert found(str(folder.parent / "**" / pattern).replace("**/**", "**")) != []
    monkeypatch.chdir(folder)
    assert found(pattern) == expected


def test_archive__is_searched_as_the_folder(folder: Path, tmp_path: Path) -> None:
    place = tmp_path / "archive"
    place.mkdir()
    archive = zip_of(folder, place / "images.zip")
    assert find_images(str(archive)) == [archive / name for name in ("0.jpg", "1.png", "in/2.jpg")]
    assert find_images(str(archive / "in")) == find_images(f"{archive}/**/2*") == [archive / "in" / "2.jpg"]
    assert find_images(f"{archive}/?.*g") == [archive / "0.jpg", archive / "1.png"]
    assert find_images(str(archive / "1.png")) == [archive / "1.png"]
    for nowhere in ("9.jpg", "out/*", "9.*"):
        with pytest.raises(HeadstartError, match="is not a file or folder, and no file matches it"):
            find_images(str(archive / nowhere))


def test_glob__takes_files_whatever_their_names(folder: Path) -> None:
    (folder / "notes.txt").write_text("x")
    assert found(folder / "*.txt") == ["notes.txt"]
    assert found(folder / "**/*.txt") == ["notes.txt"]


def test_glob__a_folder_by_a_link_counts_once(folder: Path, messages: list[str]) -> None:
    (folder / "a link").symlink_to("in", target_is_directory=True)
    assert found(folder / "*/*.jpg") == ["in/2.jpg"]
    assert messages == [f"{folder / '*/*.jpg'}: 1 other file left out (second link to the same ×1)"]


@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("", ["0.jpg", "1.png", "in/2.jpg"]),
        ("**/*.jpg", ["0.jpg", "in/2.jpg"]),
        ("*/**/*.jpg", ["in/2.jpg"]),
        ("*/*.jpg", ["in/2.jpg"]),
        ("*/*/*.jpg", ["in/in/3.jpg"]),
    ],
)
def test_folders_that_headstart_made__are_left_out_and_named(
    folder: Path, pattern: str, expected: list[str], messages: list[str]
) -> None:
    if expected == ["in/in/3.jpg"]:
        draw(folder / "in" / "in" / "3.jpg", (9, 90, 200), seed=0, size=(8, 8))
    for name in ("out/0.jpg", "out/annotated/0.jpg"):
        draw(folder / name, (9, 90, 200), seed=0, size=(8, 8))
    mark(folder / "out", PREDICTIONS)
    source = folder / pattern
    assert found(source) == expected
    assert messages == [f"{source}: 1 folder that headstart made left out ({folder / 'out'})"]


def test_folder_that_headstart_made__is_read_if_it_is_named(folder: Path) -> None:
    mark(folder / "in", PREDICTIONS)
    for source in ("in", "in/2.jpg", "in/*.jpg", "in/**/*.jpg"):
        assert found(folder / source) == ["in/2.jpg"]


def test_folder_that_only_sounds_like_an_output__is_read(folder: Path) -> None:
    names = [f"{name}/0.jpg" for name in ("annotated", "checkpoints", "logs", "predictions", "report")]
    for name in names:
        draw(folder / name, (9, 90, 200), seed=0, size=(8, 8))
    assert set(found(folder)) > set(names)


def test_unreadable_folder__is_named_and_the_others_are_used(
    folder: Path, messages: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    scandir = os.scandir

    def scan(path: str | os.PathLike[str]) -> object:
        if Path(path).name == "in":
            raise PermissionError(errno.EACCES, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", scan)
    assert found(folder) == ["0.jpg", "1.png"]
    assert messages == [f"the folder {folder / 'in'} cannot be read: Permission denied"]
    with pytest.raises(HeadstartError, match=r"in cannot be read: Permission denied"):
        find_images(str(folder / "in"))


def test_no_images__what_is_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "none").mkdir()
    with pytest.raises(HeadstartError, match=r"^source=.*/none holds no images$"):
        find_images(str(tmp_path / "none"))
    (tmp_path / "none" / "a.txt").write_text("x")
    with pytest.raises(HeadstartError, match=r"^source=.*/none holds no images: 1 other file left out \(\.txt ×1\)$"):
        find_images(str(tmp_path / "none"))
    for pattern in ("*.jpg", "**/*.jpg", "nowhere", "nowhere/**"):
        with pytest.raises(HeadstartError, match="is not a file or folder, and no file matches it"):
            find_images(str(tmp_path / pattern))


def test_file__whatever_its_name(folder: Path) -> None:
    (folder / "notes[1].txt").write_text("x")
    assert found(folder / "notes[1].txt") == ["notes[1].txt"]
