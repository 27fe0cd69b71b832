"""Training, testing and predicting on archives, as on the folders that they are made of."""

import csv
import os
from dataclasses import dataclass
from pathlib import Path

import pytest
from archived import tar_of, zip_of
from conftest import SMALL, Result, Script, draw_classes
from runs import run_script

from headstart.files import read_json

RULE = ("data.split.train=6", "data.split.valid=3")


def trained_on(script: Script, root: Path, run: Path, *overrides: str) -> Result:
    result = script("train.py", *SMALL, f"data.root={root}", *overrides, f"hydra.run.dir={run}")
    assert result.status == 0, result.err
    return result


def assert_same(run: Path, other: Path) -> None:
    """The same data, split in the same way, with the same results."""
    for name in ("split.csv", "history.csv", "test_predictions.csv"):
        rows = [list(csv.DictReader((folder / name).open(newline=""))) for folder in (run, other)]
        for row in rows[0] + rows[1]:
            for key in [key for key in row if "seconds" in key or key == "throughput"]:
                del row[key]
        assert rows[0] == rows[1], name
    records = [read_json(folder / "run.json") for folder in (run, other)]
    assert records[0]["data_fingerprint"] == records[1]["data_fingerprint"]


@dataclass(frozen=True)
class OfFolder:
    """A run on a folder of images, to be compared with those on archives of it."""

    images: Path
    run: Path


@pytest.fixture(scope="module")
def of_folder(tmp_path_factory: pytest.TempPathFactory) -> OfFolder:
    home = tmp_path_factory.mktemp("of folder")
    images = draw_classes(home / "flat", 12)
    (images / "notes.txt").write_text("notes")
    done = run_script(home, "train.py", *SMALL, f"data.root={images}", *RULE, "hydra.run.dir=run")
    assert done.status == 0, done.err
    return OfFolder(images, home / "run")


def test_train__is_the_same_as_on_the_folder(script: Script, of_folder: OfFolder, tmp_path: Path) -> None:
    place = tmp_path / "archives"
    place.mkdir()
    archive = zip_of(of_folder.images, place / "images.zip", top="zoo")
    before = (archive.read_bytes(), os.stat(archive).st_mtime_ns)
    cache = Path(os.environ["XDG_CACHE_HOME"]) / "headstart" / "features"
    stored = sorted(cache.iterdir())
    run = tmp_path / "of archive"
    result = trained_on(script, archive, run, *RULE)
    assert f"{archive}/zoo: 3 classes, 18 train, 9 valid, 9 test images; 1 other file left out (.txt ×1)" in result.out
    assert_same(of_folder.run, run)
    assert sorted(cache.iterdir()) == stored, "encoded once"
    # The other tasks read images through the same objects.
    reported = script("train.py", "task=report", f"ckpt_path={run}")
    assert reported.status == 0, reported.err
    assert "<img" in (run / "report" / "index.html").read_text(encoding="utf-8")
    assert_predicts(script, run, archive, tmp_path / "out")
    assert (archive.read_bytes(), os.stat(archive).st_mtime_ns) == before
    assert list(place.iterdir()) == [archive]


def test_train__on_a_tar_with_folds_of_groups(script: Script, of_folder: OfFolder, tmp_path: Path) -> None:
    archive = tar_of(of_folder.images, tmp_path / "images.tar", top="zoo")
    before = (archive.read_bytes(), os.stat(archive).st_mtime_ns)
    overrides = (r"data.group=(\w+/\d)", "data.folds=2", "data.fold=1", "trainer.max_epochs=1")
    run = tmp_path / "of archive"
    trained_on(script, of_folder.images, tmp_path / "of folder", *overrides)
    trained_on(script, archive, run, *overrides)
    assert_same(tmp_path / "of folder", run)
    tested = script("train.py", "task=test", f"ckpt_path={run}")
    assert tested.status == 0, tested.err
    audited = script("train.py", "task=audit", *SMALL, f"data.root={archive}", *RULE)
    assert "notes.txt" in audited.out
    assert_predicts(script, run, archive, tmp_path / "out")
    assert (archive.read_bytes(), os.stat(archive).st_mtime_ns) == before


def assert_predicts(script: Script, run: Path, archive: Path, out: Path) -> None:
    """A run predicts an archive, and one image in it."""
    options = ("labelled=true", f"output={out}", "annotate=true")
    found = script("predict.py", f"ckpt_path={run}", f"source={archive}", *options)
    assert found.status == 0, found.err
    with (out / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 36
    assert rows[0]["path"] == f"{archive}/zoo/blue/0.jpg"
    assert (out / "annotated" / "blue" / "0.jpg").is_file()
    one = script("predict.py", f"ckpt_path={run}", f"source={rows[0]['path']}")
    assert one.out.split() == [rows[0]["path"], *one.out.split()[1:]]


def test_train__on_splits_by_workers_with_fine_tuning(script: Script, split_folders: Path, tmp_path: Path) -> None:
    overrides = ("finetune=full", "model.arch=timm/test_resnet", "trainer.max_epochs=1")
    archive = zip_of(split_folders, tmp_path / "IMAGES.ZIP")
    trained_on(script, split_folders, tmp_path / "of folder", *overrides)
    trained_on(script, archive, tmp_path / "of archive", *overrides, "data.num_workers=2")
    assert_same(tmp_path / "of folder", tmp_path / "of archive")


def test_csv__of_images_in_an_archive(script: Script, flat: Path, of_folder: OfFolder, tmp_path: Path) -> None:
    archive = zip_of(of_folder.images, tmp_path / "images.zip", top="zoo")
    options = (*[o for o in SMALL if o != "data=folder"], "data=csv", "data.columns.label=class")
    again = script(
        "train.py",
        *options,
        f"data.csv={of_folder.run / 'split.csv'}",
        f"data.root={archive}",
        f"hydra.run.dir={tmp_path / 'again'}",
    )
    assert again.status == 0, again.err
    assert_same(of_folder.run, tmp_path / "again")

    # A table in the archive, whose paths are those in the archive.
    rows = [f"zoo/{path.relative_to(flat)},{path.parent.name}" for path in sorted(flat.rglob("*.jpg"))]
    (flat / "labels.csv").write_text("\n".join(["path,class", *rows]))
    archive = zip_of(flat, tmp_path / "images.zip", top="zoo")
    table = f"data.csv={archive}/zoo/labels.csv"
    inside = script("train.py", "task=audit", *options, table, f"data.root={archive}")
    assert inside.status == 0, inside.err


def damaged(archive: Path) -> str:
    archive.write_bytes(archive.read_bytes()[:-200])
    return "is damaged, or not a complete zip archive: copy or download it again"


def without_images(archive: Path) -> str:
    zip_of(archive.parent / "empty", archive)
    return "has no class folders: put the images of each class into a folder"


def not_an_archive(archive: Path) -> str:
    archive.write_text("text")
    return "is a file, and no zip or tar archive: give the folder that holds the class folders, or an archive of it"


def damaged_image(archive: Path) -> str:
    content = archive.read_bytes()
    place = content.index(b"red/0.jpg") + 100
    archive.write_bytes(content[:place] + b"damage" + content[place + 6 :])
    return f"{archive}/red/0.jpg cannot be read as an image: it is damaged in the archive; repair or remove it"


@pytest.mark.parametrize("damage", [damaged, without_images, not_an_archive, damaged_image])
def test_bad_archive__gets_one_sentence(script: Script, flat: Path, tmp_path: Path, damage: object) -> None:
    (tmp_path / "empty").mkdir()
    archive = zip_of(flat, tmp_path / "images.zip")
    sentence = damage(archive)  # type: ignore[operator]
    result = script("train.py", *SMALL, f"data.root={archive}", *RULE)
    assert result.status == 1
    assert result.err.startswith("error: ")
    assert str(archive) in result.err
    assert sentence in result.err
    assert result.err.count("\n") == 1
    assert not list(Path.cwd().iterdir())


def test_predict__on_an_archive_that_is_damaged(script: Script, trained: Path, tmp_path: Path) -> None:
    archive = zip_of(draw_classes(tmp_path / "images", 1), tmp_path / "images.zip")
    archive.write_bytes(archive.read_bytes()[:-200])
    result = script("predict.py", f"ckpt_path={trained}", f"source={archive}")
    assert result.status == 1
    assert f"error: {archive} is damaged" in result.err
