import errno
import os
from pathlib import Path

import pytest
from conftest import draw
from odd_files import saved

from headstart.data.folders import (
    BROKEN_LINK,
    LOOP,
    NOT_A_FILE,
    SECOND_LINK,
    Folder,
    left_out_summary,
    listed,
    open_folder,
    walk,
)
from headstart.errors import HeadstartError


def image(path: Path) -> Path:
    draw(path, (9, 99, 200), seed=len(path.parts), size=(8, 8))
    return path


def images_below(top: Path) -> list[str]:
    folders, _ = walk(Folder(top))
    return [(folder.path / name).relative_to(top).as_posix() for folder in folders for name in folder.images]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """tree/1.png, tree/in/2.png and tree/in/deep/3.png."""
    root = tmp_path / "tree"
    for name in ("1.png", "in/2.png", "in/deep/3.png"):
        image(root / name)
    return root


def test_walk__images_by_path(tree: Path) -> None:
    assert images_below(tree) == ["1.png", "in/2.png", "in/deep/3.png"]


@pytest.mark.parametrize(
    ("link", "target"),
    [
        ("loop", "."),
        ("in/loop", "."),
        ("in/loop", ".."),
        ("in/deep/loop", "../.."),
        ("in/deep/loop", "../../.."),
        ("in/loop", "../../tree"),
        ("in/loop", "/"),
    ],
)
def test_walk__a_link_to_a_folder_above_is_left_out(tree: Path, link: str, target: str) -> None:
    (tree / link).symlink_to(target, target_is_directory=True)
    assert images_below(tree) == ["1.png", "in/2.png", "in/deep/3.png"]
    folders, _ = walk(Folder(tree))
    others = {
        (folder.path / name).relative_to(tree).as_posix(): why
        for folder in folders
        for name, why in folder.others.items()
    }
    assert others == {link: LOOP}


def test_walk__two_loops_end(tree: Path) -> None:
    for name in ("a", "b", "in/a", "in/b"):
        (tree / name).symlink_to(tree, target_is_directory=True)
    assert len(images_below(tree)) == 3


def test_walk__a_loop_by_way_of_a_folder_elsewhere(tree: Path, tmp_path: Path) -> None:
    image(tmp_path / "elsewhere" / "4.png")
    (tmp_path / "elsewhere" / "back").symlink_to(tree, target_is_directory=True)
    (tree / "out").symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    assert images_below(tree) == ["1.png", "in/2.png", "in/deep/3.png", "out/4.png"]


def test_walk__a_second_link_to_a_folder_is_left_out(tree: Path, tmp_path: Path) -> None:
    image(tmp_path / "elsewhere" / "4.png")
    for name in ("link", "link 2", "in/link"):
        (tree / name).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    folders, left_out = walk(Folder(tree))
    assert sum(len(folder.images) for folder in folders) == 4
    assert list(left_out.values()) == [SECOND_LINK] * 2


def test_walk__the_folder_itself_comes_before_links_to_it(tree: Path) -> None:
    (tree / "a link").symlink_to("in", target_is_directory=True)
    _, left_out = walk(Folder(tree))
    assert images_below(tree) == ["1.png", "in/2.png", "in/deep/3.png"]
    assert left_out == {tree / "a link": SECOND_LINK}


def test_walk__folders_that_link_to_each_other(tree: Path) -> None:
    image(tree / "other" / "4.png")
    (tree / "other" / "to in").symlink_to("../in", target_is_directory=True)
    (tree / "in" / "to other").symlink_to("../other", target_is_directory=True)
    assert images_below(tree) == ["1.png", "in/2.png", "in/deep/3.png", "other/4.png"]


def test_others__with_the_reason(tree: Path) -> None:
    (tree / "notes.txt").write_text("x")
    (tree / ".hidden").mkdir()
    (tree / "Thumbs.db").write_text("x")
    (tree / "gone").symlink_to("nowhere")
    (tree / "itself").symlink_to("itself")
    (tree / ".headstart.json").write_text("{}")
    os.mkfifo(tree / "pipe.png")
    assert Folder(tree).others == {
        ".hidden": "",
        "Thumbs.db": "",
        "gone": BROKEN_LINK,
        "itself": BROKEN_LINK,
        "notes.txt": "",
        "pipe.png": NOT_A_FILE,
    }


def test_images__by_content_and_broken_links_by_name(tree: Path) -> None:
    (tree / "unnamed").write_bytes(saved("JPEG"))
    (tree / "gone.jpg").symlink_to("nowhere.jpg")
    (tree / "link").symlink_to("1.png")
    assert Folder(tree).images == ["1.png", "gone.jpg", "link", "unnamed"]
    assert Folder(tree).files == {"1.png": False, "gone.jpg": True, "link": True, "unnamed": False}


def deny(monkeypatch: pytest.MonkeyPatch, path: Path) -> None:
    """As if the user had no permission to read the folder; the superuser always has."""
    scandir = os.scandir

    def scan(folder: str | os.PathLike[str]) -> object:
        if Path(folder) == path:
            raise PermissionError(errno.EACCES, "Permission denied", str(folder))
        return scandir(folder)

    monkeypatch.setattr(os, "scandir", scan)


def test_error__a_folder_that_cannot_be_read(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deny(monkeypatch, tree / "in")
    assert Folder(tree / "in").error == "Permission denied"
    assert [folder.error for folder in walk(Folder(tree))[0]] == [None, "Permission denied"]
    with pytest.raises(HeadstartError, match=r"^the folder .*/in cannot be read: Permission denied$"):
        open_folder(tree / "in")


def test_has_images(tree: Path) -> None:
    (tree / "in" / "none").mkdir()
    assert Folder(tree).has_images
    assert not Folder(tree / "in" / "none").has_images


def test_summary__by_kind() -> None:
    left_out = {
        "a/x.txt": "",
        "b/y.txt": "",
        ".DS_Store": "",
        "a/._b.jpg": "",
        "c": LOOP,
        "Thumbs.db": "",
        "README": "",
    }
    assert left_out_summary(left_out) == (
        "7 other files left out (.txt ×2, .DS_Store ×1, README ×1, Thumbs.db ×1, hidden .jpg ×1, … and 1 more kind)"
    )
    assert left_out_summary({"a.txt": ""}) == "1 other file left out (.txt ×1)"


def test_listed() -> None:
    assert [listed("abcdefgh"[:count]) for count in range(4)] == ["", "a", "a and b", "a, b and c"]
    assert listed("abcdefgh") == "a, b, c, d, e, … and 3 more"
