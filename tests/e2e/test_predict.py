"""predict.py as a user runs it."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from conftest import Script, draw, manifest_of

from headstart.data.module import PictureDataModule
from headstart.model.checkpoint import load_classifier
from headstart.settings import EncoderSettings, SplitSettings


@pytest.fixture
def best(trained: Path) -> str:
    return f"ckpt_path={trained / 'checkpoints' / 'best.ckpt'}"


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def test_probabilities__equal_the_test_loops(script: Script, trained: Path, best: str) -> None:
    pictures = trained.parent / "pictures"
    result = script(
        "predict.py", best, f"source={pictures}", "topk=3", "output=out", "data.num_workers=0", "features.precision=32"
    )
    assert result.status == 0, result.err
    probabilities = {
        row["path"]: {row[f"label_{k}"]: float(row[f"prob_{k}"]) for k in (1, 2, 3)} for row in rows_of(Path("out"))
    }
    plain = EncoderSettings(precision="32", compile=False)
    classifier = load_classifier(trained / "checkpoints" / "best.ckpt", plain, moved_to=None)
    manifest = manifest_of(pictures, SplitSettings(6, 3))
    data = PictureDataModule(
        manifest,
        preprocessing=classifier.recipe.preprocessing,
        batch_size=5,
        num_workers=0,
        seed=0,
        views=None,
        frozen_epochs=None,
        balanced=False,
        encoder=classifier.backbone,
        store=None,
        backbone={},
    )
    with torch.no_grad():
        expected = torch.cat([classifier(images).exp() for images, _ in data.test_dataloader()])
    assert len(expected) == 9
    for path, values in zip(manifest.splits["test"].paths, expected, strict=True):
        found = probabilities[str(pictures / path)]
        assert [found[name] for name in manifest.classes] == pytest.approx(values.tolist(), abs=1e-5)


def test_output__csv_and_jsonl_say_the_same(script: Script, trained: Path, best: str) -> None:
    result = script("predict.py", best, f"source={trained.parent / 'pictures' / 'red'}", "topk=2", "output=out")
    assert result.status == 0, result.err
    rows = rows_of(Path("out"))
    assert list(rows[0]) == ["path", "error", "label_1", "prob_1", "label_2", "prob_2"]
    lines = [json.loads(line) for line in Path("out/predictions.jsonl").read_text().splitlines()]
    for row, line in zip(rows, lines, strict=True):
        assert row["path"] == line["path"]
        assert line["error"] is None
        assert [p["label"] for p in line["predictions"]] == [row["label_1"], row["label_2"]]
        assert line["predictions"][0]["prob"] == float(row["prob_1"]) >= float(row["prob_2"])
        assert f"{row['label_1']}" in next(text for text in result.out.splitlines() if row["path"] in text)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable__gets_a_row_and_the_rest_goes_on(
    script: Script, trained: Path, best: str, tmp_path: Path, workers: int
) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(trained.parent / "pictures" / "red", folder / "deep")
    (folder / "a broken.jpg").write_text("no")
    (folder / "notes.txt").write_text("no picture by its name")
    arguments = [f"source={folder}", "output=out", f"data.num_workers={workers}", "data.batch_size=5"]
    result = script("predict.py", best, *arguments)
    assert result.status == 0, result.err
    rows = {Path(row["path"]).name: row for row in rows_of(Path("out"))}
    assert len(rows) == 13
    assert "cannot be read as a picture" in rows["a broken.jpg"]["error"]
    assert rows["a broken.jpg"]["label_1"] == ""
    assert all(row["error"] == "" and row["label_1"] for name, row in rows.items() if name != "a broken.jpg")
    assert "1 of 13 pictures could not be read" in result.out


def test_unreadable__all_of_them(script: Script, best: str) -> None:
    Path("a.jpg").write_text("no")
    result = script("predict.py", best, "source=a.jpg", "output=out")
    assert result.status == 1
    assert "none of the 1 pictures of source=a.jpg could be read" in result.err
    assert "cannot be read" in rows_of(Path("out"))[0]["error"]


def test_source__file_and_glob(script: Script, trained: Path, best: str) -> None:
    pictures = trained.parent / "pictures"
    assert len(script("predict.py", best, f"source={pictures / 'red' / '0.jpg'}").out.splitlines()) == 1
    assert len(script("predict.py", best, f"source={pictures}/*/1*.jpg").out.splitlines()) == 9
    assert len(script("predict.py", best, f"source={pictures}/**/0.jpg").out.splitlines()) == 3


def test_nothing_is_written__without_output(script: Script, trained: Path, best: str) -> None:
    assert script("predict.py", best, f"source={trained.parent / 'pictures'}").status == 0
    assert not list(Path.cwd().iterdir())


def test_annotate__writes_each_picture_and_never_reads_its_own(script: Script, best: str) -> None:
    draw(Path("in/a/0.jpg"), (200, 50, 40), seed=0)
    draw(Path("in/b/0.png"), (200, 50, 40), seed=1)
    for _ in range(2):
        result = script("predict.py", best, "source=in", "output=in", "annotate=true")
        assert result.status == 0, result.err
        found = sorted(p.relative_to("in/annotated").as_posix() for p in Path("in/annotated").rglob("*.*"))
        assert found == ["a/0.jpg", "b/0.png.jpg"]
        assert len(rows_of(Path("in"))) == 2


def test_name__that_is_not_unicode(script: Script, best: str) -> None:
    draw(Path("in/0.jpg"), (200, 50, 40), seed=0)
    Path("in/0.jpg").rename(os.fsdecode(b"in/caf\xe9.jpg"))
    result = script("predict.py", best, "source=in", "output=out")
    assert result.status == 0, result.err
    assert b"in/caf\xe9.jpg" in Path("out/predictions.csv").read_bytes()


def test_more_classes_asked_than_there_are(script: Script, trained: Path, best: str) -> None:
    script("predict.py", best, f"source={trained.parent / 'pictures' / 'red'}", "topk=50", "output=out")
    assert "label_3" in rows_of(Path("out"))[0]
    assert "label_4" not in rows_of(Path("out"))[0]
