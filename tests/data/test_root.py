from pathlib import Path

import pytest
from archived import tar_of, zip_of, zip_with

from headstart.data.layout import check_root, open_root, root_of
from headstart.errors import HeadstartError


@pytest.mark.parametrize(
    ("top", "inner"), [("", ""), ("zoo", "zoo"), ("a/b/zoo", "a/b/zoo"), ("zoo/train", "zoo"), ("train", "")]
)
def test_open_root__of_an_archive_is_the_only_folder_in_it(flat: Path, tmp_path: Path, top: str, inner: str) -> None:
    archive = zip_of(flat, tmp_path / "x.zip", top=top)
    assert open_root(archive).path == archive / inner


def test_open_root__of_a_folder_is_that(flat: Path) -> None:
    assert open_root(flat.parent).path == flat.parent


@pytest.mark.parametrize(("more", "inner"), [("other/1.jpg", ""), ("1.jpg", ""), ("zoo/1.jpg", "zoo")])
def test_open_root__images_beside_it(flat: Path, tmp_path: Path, more: str, inner: str) -> None:
    images = [(f"zoo/{path.relative_to(flat)}", path.read_bytes()) for path in flat.rglob("*.jpg")]
    archive = zip_with(tmp_path / "x.zip", [*images, (more, images[0][1])])
    assert open_root(archive).path == archive / inner


def test_open_root__of_one_class_is_not_that_class(flat: Path, tmp_path: Path) -> None:
    archive = zip_of(flat / "red", tmp_path / "x.zip", top="red")
    assert open_root(archive).path == archive


def test_open_root__what_is_no_image_does_not_matter(flat: Path, tmp_path: Path) -> None:
    (flat / "__MACOSX").mkdir()
    archive = tar_of(flat, tmp_path / "x.tar", top="zoo")
    assert open_root(archive).path == archive / "zoo"
    notes = [("zoo/a/1.jpg", b"1"), ("zoo/b/1.jpg", b"1"), ("README.txt", b"notes"), ("__MACOSX/._zoo", b"metadata")]
    archive = zip_with(tmp_path / "x.zip", notes)
    assert open_root(archive).path == archive / "zoo"


def test_root_of__paths_in_the_archive_or_in_its_only_folder(flat: Path, tmp_path: Path) -> None:
    archive = zip_of(flat, tmp_path / "x.zip", top="zoo")
    assert root_of(archive, ["nowhere.jpg", "red/0.jpg"]) == archive / "zoo"
    assert root_of(archive, ["nowhere.jpg", "zoo/red/0.jpg"]) == archive
    assert root_of(archive, ["nowhere.jpg"]) == archive
    assert root_of(flat, ["nowhere.jpg"]) == flat


def test_check_root__may_not_be_read(flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = zip_of(flat, tmp_path / "x.zip")
    # Root may read everything.
    monkeypatch.setattr("os.access", lambda path, mode: False)
    with pytest.raises(HeadstartError, match=r"x\.zip cannot be read: its permissions do not allow it"):
        check_root(archive)
