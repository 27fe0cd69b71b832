"""sort=copy|link|move: every image is in one folder, whole, and no file is overwritten, whenever the sort is killed."""

import csv
import errno
import functools
import os
import random
import shutil
import signal
import sys
import time
import unicodedata
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, draw
from hydra import compose, initialize_config_dir

from headstart.cli.arguments import register_resolvers
from headstart.config.predict import PredictSettings, check_predict
from headstart.errors import HeadstartError
from headstart.files import MARKER
from headstart.predict import sort
from headstart.predict.run import predict
from headstart.predict.sort import class_folders
from headstart.predict.sources import UNSURE, UNUSUAL, Prediction, find_images
from headstart.predict.write import write

CLASSES = ("blue", "green", "red")


@functools.cache
def usual_settings() -> PredictSettings:
    return checked("source=photos", "output=out", "model.file=fake.onnx", "rows=false")


def checked(*overrides: str) -> PredictSettings:
    """The settings of predict.py with these overrides."""
    register_resolvers()
    with initialize_config_dir(str(ROOT / "conf")):
        return check_predict(compose("predict", list(overrides)))


def settings_of(source: str | Path | list[str], mode: str | None, output: str = "out") -> PredictSettings:
    return replace(
        usual_settings(), source=source if isinstance(source, list) else str(source), sort=mode, output=output
    )


def predicted(path: Path) -> Prediction:
    """Predicts the class that the file's name says."""
    words = path.stem.split()
    if "broken" in words:
        return Prediction(path, error=f"{path} cannot be read")
    doubt = UNSURE if "unsure" in words else UNUSUAL if "unusual" in words else None
    label = next((word for word in words if word in CLASSES), "red")
    return Prediction(path, (label,), (0.9,), familiarity=0.5, doubt=doubt)


def run(source: str | Path | list[str], mode: str | None, output: str = "out") -> None:
    """Does what predict.py does, with a model that knows the files' names."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("headstart.predict.run.open_model", lambda *arguments: None)
        patch.setattr("headstart.predict.run.ExportedPredictor", lambda model: ByName())
        predict(settings_of(source, mode, output))


class ByName:
    classes, depth = CLASSES, 8

    def stream(self, paths: list[Path], **options: object) -> Any:
        return map(predicted, paths)


def content_of(folder: Path | str) -> dict[str, bytes]:
    """All files below a folder, also hidden ones, by path; links are not followed.

    Without what a killed process leaves of predictions.csv and the like, which is hidden in the folder itself.
    """
    return {
        path.relative_to(folder).as_posix(): os.fsencode(os.readlink(path)) if path.is_symlink() else path.read_bytes()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_symlink() or (path.is_file() and not (path.parent == Path(folder) and path.suffix == ".tmp"))
    }


def images_in(folder: Path | str) -> dict[str, bytes]:
    """Those in the class folders."""
    return {name: content for name, content in content_of(folder).items() if "/" in name}


NAMES = (
    *("red 1.jpg", "a/red 1.jpg", "b/red 1.jpg", "b/c/green 1.jpg", "unsure blue.jpg", "a/unsure blue.jpg"),
    *("unusual green.jpg", "broken.jpg", "a/blue.jpg", " =red\n<b>.jpg", "a/-green.jpg"),
)
# Enough to be killed among, a hundred times.
FEW = ("red 1.jpg", "a/red 1.jpg", "broken.jpg", "unsure blue.jpg")
# Where they belong.
PLACES = {
    **{f"red/{name}": name for name in ("red 1.jpg", "a/red 1.jpg", "b/red 1.jpg", " =red\n<b>.jpg")},
    **{"green/b/c/green 1.jpg": "b/c/green 1.jpg", "red/a/-green.jpg": "a/-green.jpg", "blue/a/blue.jpg": "a/blue.jpg"},
    **{f"_unsure/{name}": name for name in ("unsure blue.jpg", "a/unsure blue.jpg")},
    "_unfamiliar/unusual green.jpg": "unusual green.jpg",
}


@pytest.fixture
def photos(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder `photos` in the current one: files with different contents, whose names say what is predicted."""
    monkeypatch.chdir(tmp_path)
    return fill(Path("photos"))


def fill(folder: Path, names: tuple[str, ...] = NAMES) -> Path:
    for number, name in enumerate(names):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(bytes([number]) * 20_000)
    return folder


def expected(before: dict[str, bytes]) -> dict[str, bytes]:
    return {place: before[name] for place, name in PLACES.items()}


def test_copy__leaves_the_source_as_it_is(photos: Path, messages: list[str]) -> None:
    before = content_of(photos)
    os.utime(photos / "red 1.jpg", (1e9, 1e9))
    run(photos, "copy")
    assert content_of(photos) == before
    assert images_in("out") == expected(before)
    assert Path("out/red/red 1.jpg").stat().st_mtime == 1e9
    counts = "blue 1, green 1, red 5, _unfamiliar 1, _unsure 2; unreadable 1"
    assert messages[-1] == f"sort=copy: 10 of 11 images are in out: {counts}"
    # It is headstart's output, and none of the user's images, wherever it is.
    run(photos, "copy", "photos/out")
    assert len(find_images("photos")) == len(NAMES)
    run(photos, "copy", "photos/out")
    assert images_in("photos/out") == images_in("out")


def test_link__leads_to_the_image_from_everywhere(photos: Path) -> None:
    before = content_of(photos)
    for _ in range(2):
        run(photos, "link")
        assert content_of(photos) == before
        assert {name: Path("out", name).read_bytes() for name in images_in("out")} == expected(before)
    shutil.move("out", "elsewhere")
    assert Path("elsewhere/red/red 1.jpg").resolve() == photos.absolute() / "red 1.jpg"


def test_move__and_undo(photos: Path, messages: list[str]) -> None:
    before = content_of(photos)
    run(photos, "move")
    assert content_of(photos) == {"broken.jpg": before["broken.jpg"]}
    assert images_in("out") == expected(before)
    assert "to undo it: python predict.py sort=undo output=out" in messages
    with open("out/undo.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["to"]: row["from"] for row in rows} == {to: str(photos.absolute() / of) for to, of in PLACES.items()}
    assert {row["moved"] for row in rows} == {"yes"}
    # The output can be moved to another folder.
    shutil.move("out", "elsewhere")
    predict(settings_of("nothing", "undo", "elsewhere"))
    assert content_of(photos) == before
    assert sorted(path.name for path in Path("elsewhere").iterdir()) == [MARKER, "predictions.csv", "predictions.jsonl"]
    assert messages[-1] == "10 of 10 images moved back"
    with pytest.raises(HeadstartError, match=r"output=elsewhere has no undo\.csv"):
        predict(settings_of("nothing", "undo", "elsewhere"))


def test_move__an_output_that_keeps_images_is_not_used_again(photos: Path) -> None:
    run(photos, "move")
    before = content_of("out")
    (photos / "red 1.jpg").write_text("another")
    for mode in ("move", "copy", None):
        with pytest.raises(HeadstartError, match=r"out keeps 10 images of a sort=move: .* output=out-2, or undo it"):
            run(photos, mode)
    assert content_of("out") == before
    assert (photos / "red 1.jpg").read_text() == "another"


@pytest.mark.parametrize("mode", ["copy", "link", "move"])
def test_file_of_the_users__in_the_way_is_kept(photos: Path, messages: list[str], mode: str) -> None:
    before = content_of(photos)
    run(photos, "link" if mode == "link" else "copy")
    shutil.rmtree("out/red")
    shutil.rmtree("out/_unsure")
    Path("out/red/a/red 1.jpg").mkdir(parents=True)
    Path("out/red/red 1.jpg").write_text("mine")
    Path("out/red/b").mkdir()
    Path("out/red/b/red 1.jpg").symlink_to("nowhere")
    run(photos, mode)
    assert Path("out/red/red 1.jpg").read_text() == "mine"
    assert os.readlink("out/red/b/red 1.jpg") == "nowhere"
    assert not list(Path("out/red/a/red 1.jpg").iterdir())
    for name in ("red 1.jpg", "a/red 1.jpg", "b/red 1.jpg"):
        assert (photos / name).read_bytes() == before[name]
    said = next(text for text in messages if "because another file has their name there" in text)
    assert "photos/red 1.jpg" in said
    if mode == "move":
        predict(settings_of("nothing", "undo"))
        assert content_of(photos) == before
        assert Path("out/red/red 1.jpg").read_text() == "mine"


def test_undo__overwrites_nothing(photos: Path, messages: list[str]) -> None:
    run(photos, "move")
    (photos / "red 1.jpg").write_text("new")
    Path("out/_unsure/unsure blue.jpg").unlink()
    moved = Path("out/red/red 1.jpg").read_bytes()
    for _ in range(2):
        predict(settings_of("nothing", "undo"))
        assert (photos / "red 1.jpg").read_text() == "new"
        assert images_in("out") == {"red/red 1.jpg": moved}
        assert "left as they are, because they are gone: 1 image: photos/unsure blue.jpg" in messages
    (photos / "red 1.jpg").unlink()
    (photos / "unsure blue.jpg").write_text("from a backup")
    predict(settings_of("nothing", "undo"))
    assert (photos / "red 1.jpg").read_bytes() == moved
    assert not Path("out/undo.csv").exists()


def test_undo__where_a_link_leads_to_the_output(photos: Path, messages: list[str]) -> None:
    run(photos, "move")
    before = images_in("out")
    # So that programs find the images by their old names.
    shutil.move(photos, "left")
    photos.symlink_to("out/red")
    predict(settings_of("nothing", "undo"))
    for name in ("red 1.jpg", "a/red 1.jpg"):
        assert Path("out/red", name).read_bytes() == before[f"red/{name}"]
    assert sorted(images_in("out").values()) == sorted(before.values())


def test_copy__again_adds_new_images_and_keeps_what_people_have_moved(photos: Path, messages: list[str]) -> None:
    before = content_of(photos)
    run(photos, "copy")
    Path("out/blue/unsure blue.jpg").write_bytes(Path("out/_unsure/unsure blue.jpg").read_bytes())
    Path("out/_unsure/unsure blue.jpg").unlink()
    (photos / "green 7.jpg").write_text("new")
    wanted = expected(before) | {"green/green 7.jpg": b"new"}
    wanted["blue/unsure blue.jpg"] = wanted.pop("_unsure/unsure blue.jpg")
    run(photos, "copy")
    assert images_in("out") == wanted
    assert any("an earlier sort put them into another folder there: 1 image" in text for text in messages)


# Killed at a random moment.


CHANGES = ("link", "remove", "rename", "symlink", "mkdir", "rmdir")


def killed_after(calls: int, action: Callable[[], None]) -> bool:
    """Runs `action` in a forked process that is killed at its `calls`-th change of the disk; whether it was."""
    pid = os.fork()
    if pid == 0:
        left = calls

        def watch(event: str, arguments: tuple[Any, ...]) -> None:
            nonlocal left
            is_change = event.startswith("os.") and event.removeprefix("os.") in CHANGES
            left -= is_change or (event == "open" and arguments[1] in ("w", "wb", "xb"))
            if left == 0:
                # It is an event itself.
                left = -1
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(watch)
        try:
            action()
        finally:
            os._exit(0)
    return os.waitpid(pid, 0)[1] == signal.SIGKILL


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["copy", "link", "move", "move between disks"])
def test_killed__at_each_change_of_the_disk_and_continued(
    photos: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str], mode: str
) -> None:
    reset(photos, FEW)
    before, how = content_of(photos), mode.split()[0]
    if mode == "move between disks":
        monkeypatch.setattr("os.link", links_only_beside(os.link))
    run(photos, how)
    after = content_of("out") | {"source": repr(content_of(photos)).encode()}
    for moment in range(1, 300):
        reset(photos, FEW)
        if not killed_after(moment, lambda: run(photos, how)):
            break
        # Whole images only, under a name of theirs, and none that is lost.
        names = images_in("out") if Path("out").exists() else {}
        visible = [content for name, content in names.items() if not Path(name).name.startswith(".")]
        if how != "link":
            assert {*visible, *content_of(photos).values()} == set(before.values()), moment
        if not finished(how):
            run(photos, how)
        assert content_of("out") | {"source": repr(content_of(photos)).encode()} == after, moment
    assert moment > 15
    assert len(read_rows("out/predictions.csv")) == len(FEW)


def finished(how: str) -> bool:
    path = Path("out/undo.csv")
    return how == "move" and path.exists() and all(row["moved"] for row in read_rows(path))


def read_rows(path: Path | str) -> list[dict[str, str]]:
    with open(path, newline="") as file:
        return list(csv.DictReader(file))


def reset(photos: Path, names: tuple[str, ...] = NAMES) -> None:
    shutil.rmtree("out", ignore_errors=True)
    shutil.rmtree(photos)
    fill(photos, names)


def links_only_beside(link: Callable[..., None]) -> Callable[..., None]:
    """os.link, where each folder is a disk of its own."""

    def on_one_disk(source: Path, target: Path, **options: bool) -> None:
        if Path(target).exists():
            raise FileExistsError(errno.EEXIST, "File exists", str(target))
        if Path(source).parent != Path(target).parent:
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        link(source, target, **options)

    return on_one_disk


@pytest.mark.slow
@pytest.mark.parametrize("disks", [1, 2])
def test_killed__then_undone(photos: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str], disks: int) -> None:
    reset(photos, FEW)
    before = content_of(photos)
    if disks == 2:
        monkeypatch.setattr("os.link", links_only_beside(os.link))
    for moment in range(1, 200, 2):
        reset(photos, FEW)
        if not killed_after(moment, lambda: run(photos, "move")):
            break
        if Path("out/undo.csv").exists():
            killed_after(moment % 17, lambda: predict(settings_of("nothing", "undo")))
        if Path("out/undo.csv").exists():
            predict(settings_of("nothing", "undo"))
        assert content_of(photos) == before, moment
        assert not Path("out").exists() or images_in("out") == {}, moment
    assert moment > 15


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["copy", "link", "move"])
def test_killed__at_a_random_moment(photos: Path, mode: str, messages: list[str]) -> None:
    before, chosen = content_of(photos), random.Random(mode)
    begin = time.perf_counter()
    run(photos, mode)
    seconds = time.perf_counter() - begin
    for _ in range(4):
        reset(photos)
        if (pid := os.fork()) == 0:
            try:
                run(photos, mode)
            finally:
                os._exit(0)
        time.sleep(chosen.random() * seconds)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        if not finished(mode):
            run(photos, mode)
        found = {name: Path("out", name).read_bytes() for name in images_in("out")}
        assert found == expected(before)
        assert sorted(content_of(photos)) == (["broken.jpg"] if mode == "move" else sorted(before))
        assert len(read_rows("out/predictions.csv")) == len(NAMES)


def test_stopped__is_continued_by_the_same_command_only(
    photos: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]
) -> None:
    before, real = content_of(photos), sort._move

    def full(image: Path, place: Path) -> None:
        if image.name == "unusual green.jpg":
            raise OSError(errno.EIO, "Input/output error", str(image))
        real(image, place)

    monkeypatch.setattr(sort, "_move", full)
    with pytest.raises(OSError, match="Input/output error"):
        run(photos, "move")
    assert "stopped while images were sorted into out: the same command continues" in messages
    predictions = Path("out/predictions.csv").read_text()
    Path("others").mkdir()
    Path("others/red.jpg").write_text("x")
    for source, mode in ((photos, "copy"), ("others", "move")):
        with pytest.raises(HeadstartError, match="holds a sort=move that was stopped: run its command again, or undo"):
            run(source, mode)
    monkeypatch.setattr(sort, "_move", real)
    run(photos, "move")
    assert images_in("out") == expected(before)
    assert Path("out/predictions.csv").read_text() == predictions
    assert messages[-2].startswith("sort=move: 10 of 10 images are in out: blue 1, ")


def test_two_at_once__the_second_is_refused(photos: Path) -> None:
    with sort._alone(Path("out")), pytest.raises(HeadstartError, match="another process is sorting images into output"):
        run(photos, "move")
    assert len(content_of(photos)) == len(NAMES)


# Disks.


def test_full_disk__names_the_file_and_leaves_nothing_of_it(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content_of(photos)

    def full(source: Any, target: Any, length: int) -> None:
        target.write(source.read(100))
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(shutil, "copyfileobj", full)
        with pytest.raises(OSError, match="No space") as caught:
            run(photos, "copy")
    assert str(caught.value.filename).startswith("out/")
    assert images_in("out") == {}
    run(photos, "copy")
    assert images_in("out") == expected(before)


def test_no_hard_links__as_on_exfat(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(*arguments: object, **options: object) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr("os.link", refused)
    before = content_of(photos)
    run(photos, "move")
    assert images_in("out") == expected(before)
    predict(settings_of("nothing", "undo"))
    assert content_of(photos) == before


@pytest.mark.skipif(not os.path.isdir("/dev/shm"), reason="needs a second disk")
def test_move__to_another_disk(photos: Path, messages: list[str]) -> None:
    before, output = content_of(photos), Path("/dev/shm", f"sort {os.getpid()}")
    if os.stat("/dev/shm").st_dev == os.stat(photos).st_dev:
        pytest.skip("needs a second disk")
    try:
        run(photos, "move", str(output))
        assert images_in(output) == expected(before)
        assert list(content_of(photos)) == ["broken.jpg"]
        predict(settings_of("nothing", "undo", str(output)))
        assert content_of(photos) == before
    finally:
        shutil.rmtree(output, ignore_errors=True)


# Sources.


def test_source__file_glob_and_list(photos: Path) -> None:
    run(photos / "a" / "blue.jpg", "copy", "one")
    assert set(images_in("one")) == {"blue/blue.jpg"}
    run("photos/*/red 1.jpg", "copy", "glob")
    assert set(images_in("glob")) == {"red/a/red 1.jpg", "red/b/red 1.jpg"}
    run(["photos/a", "photos/b/../b/c"], "copy", "list")
    assert {"red/a/red 1.jpg", "green/b/%2E%2E/b/c/green 1.jpg"} < set(images_in("list"))
    run("photos/a/blue.jpg", "move", "moved")
    assert set(images_in("moved")) == {"blue/blue.jpg"}


def test_source__archive_is_copied_only(photos: Path) -> None:
    before = content_of(photos)
    with zipfile.ZipFile("photos.zip", "w") as file:
        for name, content in before.items():
            file.writestr(name, content)
    archived = Path("photos.zip").read_bytes()
    for mode in ("link", "move"):
        with pytest.raises(HeadstartError, match=f"sort={mode} needs files, not those of an archive"):
            run("photos.zip", mode)
    for _ in range(2):
        run("photos.zip", "copy")
        assert images_in("out") == expected(before)
    assert Path("photos.zip").read_bytes() == archived


def test_source__links_and_second_names(photos: Path, messages: list[str]) -> None:
    os.link(photos / "red 1.jpg", photos / "red 2.jpg")
    Path("red elsewhere.jpg").write_text("elsewhere")
    (photos / "red link.jpg").symlink_to("../red elsewhere.jpg")
    before = content_of(photos)
    run(photos, "copy", "copies")
    assert Path("copies/red/red link.jpg").read_text() == "elsewhere"
    assert not Path("copies/red/red link.jpg").is_symlink()
    run(photos, "move")
    assert os.readlink(photos / "red link.jpg") == "../red elsewhere.jpg"
    assert Path("out/red/red 1.jpg").read_bytes() == Path("out/red/red 2.jpg").read_bytes() == before["red 1.jpg"]
    assert any("symbolic links are not moved: 1 image: photos/red link.jpg" in text for text in messages)


def test_source__in_the_output_is_refused(photos: Path) -> None:
    run(photos, "copy")
    before = content_of("out")
    Path("more").mkdir()
    Path("more/link").symlink_to(Path("out/red").absolute())
    for source in ("out", "out/red", "more"):
        with pytest.raises(HeadstartError, match=r"output=out holds the images to sort, in .*: choose another one"):
            run(source, "move")
    assert content_of("out") == before


def test_source__read_only(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = content_of(photos)
    (photos / "red 1.jpg").chmod(0o444)
    monkeypatch.setattr("os.access", lambda path, mode: Path(path).name != "c")
    with pytest.raises(HeadstartError, match="sort=move cannot take images out of photos/b/c, which is read-only"):
        run(photos, "move")
    assert not Path("out").exists()
    run(photos, "copy")
    assert images_in("out") == expected(before)


def test_image__that_vanishes_meanwhile(photos: Path, monkeypatch: pytest.MonkeyPatch, messages: list[str]) -> None:
    real = sort._put_all

    def after_deletion(*arguments: Any) -> list[str | None]:
        (photos / "a" / "blue.jpg").unlink()
        return real(*arguments)

    monkeypatch.setattr(sort, "_put_all", after_deletion)
    run(photos, "copy")
    assert "left as they are, because they are gone: 1 image: photos/a/blue.jpg" in messages
    fill(photos)
    run(photos, "move", "moved")
    assert len(images_in("moved")) == len(PLACES) - 1


def test_undo_file__that_was_changed(photos: Path) -> None:
    run(photos, "move")
    file, target = Path("out/undo.csv"), Path("mine.txt")
    target.write_text("mine")
    good = file.read_text()
    for bad in (good.replace("red/red 1.jpg", "../mine.txt"), good.replace(",", ";"), good.replace("from", "of"), ""):
        file.write_text(bad)
        with pytest.raises(HeadstartError, match=r"out/undo\.csv is not as headstart has written it"):
            predict(settings_of("nothing", "undo"))
    assert target.read_text() == "mine"


# Names of classes.

HOSTILE = (
    *("..", ".", "", "a/b", "a\\b", "/abs", "_unsure", "_UNSURE", "_unfamiliar", "Cat", "cat", "CAT", "end.", "end"),
    *("x" * 300, "x" * 299 + "y", "x" * 300 + "z", "é" * 200, "e\u0301", "\u00e9", "nul.txt", "a%2Fb", "annotated"),
    *("Report", "predictions.csv", "undo.csv", MARKER, "-rf", "=1+1", "<script>", "a\nb", "ß", "SS", "caf\udce9"),
)


def test_class_folders__are_one_name_each_on_every_file_system(tmp_path: Path) -> None:
    folders = class_folders(HOSTILE)
    assert list(folders) == list(HOSTILE)
    taken = {unicodedata.normalize("NFC", name.casefold()) for name in folders.values()}
    assert len(taken) == len(HOSTILE)
    assert taken.isdisjoint({"_unsure", "_unfamiliar", "annotated", "report", "predictions.csv", "undo.csv", MARKER})
    for name in folders.values():
        (tmp_path / name).mkdir()
    assert {path.name for path in tmp_path.iterdir()} == set(folders.values())
    assert class_folders(CLASSES) == {name: name for name in CLASSES}
    # The same whatever was predicted: it depends on the model alone.
    assert class_folders(HOSTILE) == folders


def test_classes__with_hostile_names(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.rmtree(photos)
    for number in range(len(HOSTILE)):
        draw(photos / f"{number}.png", (number, 9, 9), seed=number, size=(8, 8))
    paths = find_images("photos")
    rows = [Prediction(path, (HOSTILE[int(path.stem)],), (0.9,)) for path in paths]
    write(rows, settings_of("photos", "move"), paths, HOSTILE, 8)
    folders = class_folders(HOSTILE)
    assert set(images_in("out")) == {f"{folders[name]}/{number}.png" for number, name in enumerate(HOSTILE)}
    predict(settings_of("nothing", "undo"))
    assert find_images("photos") == paths


# Settings.


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["sort=copy"], "sort=copy needs a folder for the class folders: output=DIR"),
        (["sort=undo"], "sort=undo needs the folder that the images were moved to: output=DIR"),
        (["sort=yes"], "sort=yes is invalid: it must be copy, link, move or undo, or null"),
        (
            ["sort=move", "output=out", "labelled=true"],
            "sort=move and labelled=true, for sorted images, exclude each other",
        ),
    ],
)
def test_settings__that_are_refused(overrides: list[str], sentence: str) -> None:
    with pytest.raises(HeadstartError, match=sentence):
        checked("source=photos", "ckpt_path=run", *overrides)


def test_undo__needs_no_images_and_no_model() -> None:
    assert checked("sort=undo", "output=out").output == "out"
