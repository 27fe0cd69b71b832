"""Files that change between the check and their use: never another image's features under a file's fingerprint."""

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import SMALL, Script, draw

from headstart.data.image_info import inspect_images

RULE = ("data.split.train=6", "data.split.valid=3", "trainer.max_epochs=1")


def swap(first: Path, second: Path) -> None:
    """As `mv` does: names are exchanged, and each file keeps its times and size."""
    first.rename(first.with_suffix(".tmp"))
    second.rename(first)
    first.with_suffix(".tmp").rename(second)


def delete(first: Path, second: Path) -> None:
    first.unlink()


def touch(first: Path, second: Path) -> None:
    """Changes no content."""
    os.utime(first, (0, 0))


@pytest.fixture
def after_inspection(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[], None]], None]:
    """Has something done to the files once, when all of them have been inspected."""

    def arrange(change: Callable[[], None]) -> None:
        changes = [change]

        def inspect(*arguments: object, **keywords: object) -> object:
            found = inspect_images(*arguments, **keywords)  # type: ignore[arg-type]
            while changes:
                changes.pop()()
            return found

        monkeypatch.setattr("headstart.data.prepare.inspect_images", inspect)

    return arrange


@pytest.mark.parametrize(
    ("change", "says", "cache", "workers"),
    [
        (swap, "was changed after the images were checked", "true", 0),
        (swap, "was changed after the images were checked", "false", 2),
        (delete, "was there when the images were checked", "true", 2),
        (delete, "was there when the images were checked", "false", 0),
    ],
)
def test_training__one_sentence_and_nothing_stored(
    change: Callable[[Path, Path], None],
    says: str,
    cache: str,
    workers: int,
    script: Script,
    flat: Path,
    tmp_path: Path,
    after_inspection: Callable[[Callable[[], None]], None],
) -> None:
    store = tmp_path / "features"
    stored = (f"features.dir={store}", f"features.cache={cache}", f"data.num_workers={workers}")
    arguments = (f"data.root={flat}", *SMALL, *RULE, *stored)
    after_inspection(lambda: change(flat / "red" / "0.jpg", flat / "blue" / "0.jpg"))
    result = script("train.py", *arguments)
    assert result.status == 1
    errors = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1
    assert says in errors[0]
    assert ".jpg" in errors[0]
    assert not [path for path in store.glob("*/view-*.npy") if "train" in path.parent.name]


def test_second_run__is_that_of_the_files_as_they_are_now(
    script: Script, flat: Path, tmp_path: Path, after_inspection: Callable[[Callable[[], None]], None]
) -> None:
    arguments = (f"data.root={flat}", *SMALL, *RULE)
    shared = f"features.dir={tmp_path / 'features'}"
    after_inspection(lambda: swap(flat / "red" / "0.jpg", flat / "blue" / "0.jpg"))
    assert script("train.py", *arguments, shared).status == 1
    again = script("train.py", *arguments, shared, f"hydra.run.dir={tmp_path / 'again'}")
    fresh = script("train.py", *arguments, f"features.dir={tmp_path / 'new'}", f"hydra.run.dir={tmp_path / 'fresh'}")
    assert (again.status, fresh.status) == (0, 0)
    for name in ("history.csv", "test_predictions.csv"):
        assert (tmp_path / "again" / name).read_text() == (tmp_path / "fresh" / name).read_text()


def test_touched_file__is_the_same_file(
    script: Script, flat: Path, after_inspection: Callable[[Callable[[], None]], None]
) -> None:
    after_inspection(lambda: touch(flat / "red" / "0.jpg", flat))
    assert script("train.py", f"data.root={flat}", *SMALL, *RULE).status == 0


def test_archive__replaced_meanwhile(
    script: Script, flat: Path, tmp_path: Path, after_inspection: Callable[[Callable[[], None]], None]
) -> None:
    def pack(target: Path) -> None:
        with zipfile.ZipFile(target, "w") as archive:
            for path in sorted(flat.rglob("*.jpg")):
                archive.write(path, path.relative_to(flat))

    def replace() -> None:
        draw(flat / "red" / "0.jpg", (0, 0, 0), seed=99)
        pack(tmp_path / "other.zip")
        (tmp_path / "other.zip").replace(tmp_path / "images.zip")

    pack(tmp_path / "images.zip")
    after_inspection(replace)
    result = script("train.py", "data=folder", f"data.root={tmp_path / 'images.zip'}", *SMALL[1:], *RULE)
    # What was opened before may go on being read: then the result is that of the files that were checked.
    assert result.status == 0 or "was changed after the images were checked" in result.err


def test_compare__too(
    script: Script, flat: Path, tmp_path: Path, after_inspection: Callable[[Callable[[], None]], None]
) -> None:
    after_inspection(lambda: swap(flat / "red" / "0.jpg", flat / "blue" / "0.jpg"))
    # Features that another test has stored would be right, and are not encoded again.
    own = f"features.dir={tmp_path / 'features'}"
    result = script(
        "train.py", "task=compare", f"data.root={flat}", *SMALL, *RULE, own, "model.archs=[shufflenet_v2_x0_5]"
    )
    assert result.status == 1
    assert "was changed after the images were checked" in result.err


def test_page__does_not_show_an_image_that_has_changed(trained: Path, script: Script, tmp_path: Path) -> None:
    images = shutil.copytree(trained.parent / "images", tmp_path / "images")
    from conftest import manifest_of

    from headstart.config.data import SplitSettings

    manifest = manifest_of(images, SplitSettings(train=6, valid=3))
    path = manifest.splits["test"].paths[0]
    assert manifest.read(path, 16) is not None
    draw(images / path, (0, 0, 0), seed=99)
    assert manifest.read(path, 16) is None
