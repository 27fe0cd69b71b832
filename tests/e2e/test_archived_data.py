"""Training, testing and predicting on archives, as on the folders that they are made of."""

import csv
import os
import shutil
from pathlib import Path

import pytest
from archived import tar_of, zip_of
from conftest import SMALL, Result, Script, draw_classes

from headstart.files import read_json

pytestmark = pytest.mark.slow

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


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zip", "tar"])
def test_train__is_the_same_as_on_the_folder(script: Script, flat: Path, tmp_path: Path, kind: str) -> None:
    place = tmp_path / "archives"
    place.mkdir()
    (flat / "notes.txt").write_text("notes")
    archive = (zip_of if kind == "zip" else tar_of)(flat, place / f"images.{kind}", top="zoo")
    before = (archive.read_bytes(), os.stat(archive).st_mtime_ns)
    cache = Path(os.environ["XDG_CACHE_HOME"]) / "headstart" / "features"
    trained_on(script, flat, tmp_path / "of folder", *RULE)
    stored = sorted(cache.iterdir())
    result = trained_on(script, archive, tmp_path / "of archive", *RULE)
    assert f"{archive}/zoo: 3 classes, 18 train, 9 valid, 9 test images; 1 other file left out (.txt ×1)" in result.out
    assert_same(tmp_path / "of folder", tmp_path / "of archive")
    assert sorted(cache.iterdir()) == stored, "encoded once"
    if kind == "zip":
        # The other tasks read images through the same objects.
        reported = script("train.py", "task=report", f"ckpt_path={tmp_path / 'of archive'}")
        assert reported.status == 0, reported.err
        assert "<img" in (tmp_path / "of archive" / "report" / "index.html").read_text(encoding="utf-8")
    else:
        tested = script("train.py", "task=test", f"ckpt_path={tmp_path / 'of archive'}")
        assert tested.status == 0, tested.err
        audited = script("train.py", "task=audit", *SMALL, f"data.root={archive}", *RULE)
        assert "notes.txt" in audited.out
    shutil.rmtree(flat)
    found = script(
        "predict.py",
        f"ckpt_path={tmp_path / 'of archive'}",
        f"source={archive}",
        "labelled=true",
        f"output={tmp_path / 'out'}",
        "annotate=true",
    )
    assert found.status == 0, found.err
    with (tmp_path / "out" / "predictions.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 36
    assert rows[0]["path"] == f"{archive}/zoo/blue/0.jpg"
    assert (tmp_path / "out" / "annotated" / "blue" / "0.jpg").is_file()
    one = script("predict.py", f"ckpt_path={tmp_path / 'of archive'}", f"source={rows[0]['path']}")
    assert one.out.split() == [rows[0]["path"], *one.out.split()[1:]]

    assert (archive.read_bytes(), os.stat(archive).st_mtime_ns) == before
    assert list(place.iterdir()) == [archive]


@pytest.mark.slow
def test_train__on_splits_by_workers_with_fine_tuning(script: Script, split_folders: Path, tmp_path: Path) -> None:
    overrides = ("finetune=full", "model.arch=timm/test_resnet", "data.num_workers=2", "trainer.max_epochs=1")
    archive = zip_of(split_folders, tmp_path / "IMAGES.ZIP")
    trained_on(script, split_folders, tmp_path / "of folder", *overrides)
    trained_on(script, archive, tmp_path / "of archive", *overrides)
    assert_same(tmp_path / "of folder", tmp_path / "of archive")


@pytest.mark.slow
def test_sweep__over_folds_with_groups(script: Script, flat: Path, tmp_path: Path) -> None:
    archive = tar_of(flat, tmp_path / "images.tar", top="zoo")
    overrides = (r"data.group=(\w+/\d)", "data.folds=2", "-m", "data.fold=range(2)", "trainer.max_epochs=1")
    tables = []
    for root in (flat, archive):
        sweep = tmp_path / f"sweep of {root.name}"
        result = script("train.py", *SMALL, f"data.root={root}", *overrides, f"hydra.sweep.dir={sweep}")
        assert result.status == 0, result.err
        tables.append((sweep / "out_of_fold.csv").read_text())
    assert tables[0] == tables[1]


@pytest.mark.slow
def test_csv__of_images_in_an_archive(script: Script, flat: Path, tmp_path: Path) -> None:
    archive = zip_of(flat, tmp_path / "images.zip", top="zoo")
    trained_on(script, archive, tmp_path / "first", *RULE)
    options = (*[o for o in SMALL if o != "data=folder"], "data=csv", "data.columns.label=class")
    again = script(
        "train.py",
        *options,
        f"data.csv={tmp_path / 'first' / 'split.csv'}",
        f"data.root={archive}",
        f"hydra.run.dir={tmp_path / 'again'}",
    )
    assert again.status == 0, again.err
    assert_same(tmp_path / "first", tmp_path / "again")

    # A table in the archive, whose paths are those in the archive.
    rows = [f"zoo/{path.relative_to(flat)},{path.parent.name}" for path in sorted(flat.rglob("*.jpg"))]
    (flat / "labels.csv").write_text("\n".join(["path,class", *rows]))
    archive = zip_of(flat, tmp_path / "images.zip", top="zoo")
    result = script(
        "train.py",
        *options,
        f"data.csv={archive}/zoo/labels.csv",
        f"data.root={archive}",
        f"hydra.run.dir={tmp_path / 'inside'}",
    )
    assert result.status == 0, result.err


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
