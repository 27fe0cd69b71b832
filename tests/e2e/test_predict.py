"""predict.py as a user runs it."""

import csv
import json
import os
import shutil
from pathlib import Path

import pytest
from conftest import SMALL, Script, draw, manifest_of, settings_of

from headstart.evaluation.predictions import predict_split
from headstart.model.checkpoint import load_classifier


@pytest.fixture
def best(trained: Path) -> str:
    return f"ckpt_path={trained / 'checkpoints' / 'best.ckpt'}"


def rows_of(folder: Path) -> list[dict[str, str]]:
    with (folder / "predictions.csv").open() as file:
        return list(csv.DictReader(file))


def probabilities_in(row: dict[str, str]) -> dict[str, float]:
    """Of three classes, by name."""
    return {row[f"label_{k}"]: float(row[f"prob_{k}"]) for k in (1, 2, 3)}


def test_probabilities__equal_those_of_the_test_loop(script: Script, trained: Path, best: str) -> None:
    images = trained.parent / "images"
    in_float32 = ("data.num_workers=0", "features.precision=32")
    result = script("predict.py", best, f"source={images}", "topk=3", "output=out", *in_float32)
    assert result.status == 0, result.err
    probabilities = {row["path"]: probabilities_in(row) for row in rows_of(Path("out"))}
    rule = ("data.split.train=6", "data.split.valid=3", "data.batch_size=5", "features.precision=32")
    settings = settings_of(*SMALL, f"data.root={images}", *rule, "features.cache=false")
    manifest = manifest_of(images, settings.data.split)
    classifier = load_classifier(trained / "checkpoints" / "best.ckpt", settings.features, moved_to=None)
    source = classifier.feature_source(settings, manifest)
    expected = predict_split(classifier, source.eval_loader("test"))
    assert len(expected.paths) == 9
    for path, values in zip(expected.paths, expected.calibrated.exp(), strict=True):
        found = probabilities[str(images / path)]
        assert [found[name] for name in manifest.classes] == pytest.approx(values.tolist(), abs=1e-5)


def test_probabilities__equal_those_in_the_run_folder(script: Script, trained: Path, best: str) -> None:
    images = trained.parent / "images"
    assert script("predict.py", best, f"source={images}", "topk=3", "output=out").status == 0
    probabilities = {row["path"]: probabilities_in(row) for row in rows_of(Path("out"))}
    with (trained / "test_predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 9
    for row in rows:
        # Features in the store are float16 if the hardware computes in bf16.
        found = probabilities[str(images / row["path"])][row["prediction"]]
        assert found == pytest.approx(float(row["probability"]), abs=1e-2)


def test_output__csv_jsonl_and_the_terminal_agree(script: Script, trained: Path, best: str) -> None:
    result = script("predict.py", best, f"source={trained.parent / 'images' / 'red'}", "topk=2", "output=out")
    assert result.status == 0, result.err
    rows = rows_of(Path("out"))
    assert list(rows[0]) == ["path", "error", "label_1", "prob_1", "label_2", "prob_2", "familiar", "doubt"]
    lines = [json.loads(line) for line in Path("out/predictions.jsonl").read_text().splitlines()]
    for row, line in zip(rows, lines, strict=True):
        assert row["path"] == line["path"]
        assert line["error"] is None
        assert [p["label"] for p in line["predictions"]] == [row["label_1"], row["label_2"]]
        assert line["predictions"][0]["prob"] == float(row["prob_1"]) >= float(row["prob_2"])
        assert row["label_1"] in next(text for text in result.out.splitlines() if row["path"] in text)


@pytest.mark.parametrize("workers", [0, 2])
def test_unreadable__gets_a_row_and_the_others_are_predicted(
    script: Script, trained: Path, best: str, tmp_path: Path, workers: int
) -> None:
    folder = tmp_path / "mixed"
    shutil.copytree(trained.parent / "images" / "red", folder / "deep")
    (folder / "a broken.jpg").write_text("no")
    (folder / "notes.txt").write_text("not an image by its name")
    arguments = [f"source={folder}", "output=out", f"data.num_workers={workers}", "data.batch_size=5"]
    result = script("predict.py", best, *arguments)
    assert result.status == 0, result.err
    rows = {Path(row["path"]).name: row for row in rows_of(Path("out"))}
    assert len(rows) == 13
    assert "cannot be read as an image" in rows["a broken.jpg"]["error"]
    assert rows["a broken.jpg"]["label_1"] == ""
    assert all(row["error"] == "" and row["label_1"] for name, row in rows.items() if name != "a broken.jpg")
    assert "1 of 13 images could not be read" in result.out


def test_unreadable__every_image(script: Script, best: str) -> None:
    Path("a.jpg").write_text("no")
    result = script("predict.py", best, "source=a.jpg", "output=out")
    assert result.status == 1
    assert "none of the 1 images of source=a.jpg could be read" in result.err
    assert "cannot be read" in rows_of(Path("out"))[0]["error"]


def test_source__file_and_glob(script: Script, trained: Path, best: str) -> None:
    images = trained.parent / "images"
    assert len(script("predict.py", best, f"source={images / 'red' / '0.jpg'}").out.splitlines()) == 1
    assert len(script("predict.py", best, f"source={images}/*/1*.jpg").out.splitlines()) == 9
    assert len(script("predict.py", best, f"source={images}/**/0.jpg").out.splitlines()) == 3


def test_output__none_by_default(script: Script, trained: Path, best: str) -> None:
    assert script("predict.py", best, f"source={trained.parent / 'images'}").status == 0
    assert not list(Path.cwd().iterdir())


def test_annotate__writes_each_image_and_ignores_its_own_output(script: Script, best: str) -> None:
    draw(Path("in/a/0.jpg"), (200, 50, 40), seed=0)
    draw(Path("in/b/0.png"), (200, 50, 40), seed=1)
    for _ in range(2):
        result = script("predict.py", best, "source=in", "output=in/out", "annotate=true")
        assert result.status == 0, result.err
        found = sorted(p.relative_to("in/out/annotated").as_posix() for p in Path("in/out/annotated").rglob("*.jpg"))
        assert found == ["a/0.jpg", "b/0.png.jpg"]
        assert len(rows_of(Path("in/out"))) == 2
    assert "1 folder that headstart made left out (in/out)" in result.out


def test_output__file_name_that_is_not_utf_8(script: Script, best: str) -> None:
    draw(Path("in/0.jpg"), (200, 50, 40), seed=0)
    Path("in/0.jpg").rename(os.fsdecode(b"in/caf\xe9.jpg"))
    result = script("predict.py", best, "source=in", "output=out")
    assert result.status == 0, result.err
    assert b"in/caf\xe9.jpg" in Path("out/predictions.csv").read_bytes()


def test_topk__more_than_there_are_classes(script: Script, trained: Path, best: str) -> None:
    script("predict.py", best, f"source={trained.parent / 'images' / 'red'}", "topk=50", "output=out")
    assert "label_3" in rows_of(Path("out"))[0]
    assert "label_4" not in rows_of(Path("out"))[0]


def test_sort__moves_images_and_moves_them_back(script: Script, trained: Path, best: str) -> None:
    shutil.copytree(trained.parent / "images", "photos")
    Path("photos/broken.jpg").write_text("no")
    before = {path: path.read_bytes() for path in sorted(Path("photos").rglob("*.jpg"))}
    moved = script("predict.py", best, "source=photos", "output=photos/out", "sort=move", "min_confidence=0.6")
    assert moved.status == 0, moved.err
    assert "sort=move: 36 of 37 images are in photos/out: " in moved.out
    rows = [row for row in rows_of(Path("photos/out")) if not row["error"]]
    folders = {"unsure": "_unsure", "unusual": "_unfamiliar"}
    for row in rows:
        place = Path("photos/out", folders.get(row["doubt"], row["label_1"]), Path(row["path"]).relative_to("photos"))
        assert place.read_bytes() == before[Path(row["path"])]
        assert not Path(row["path"]).exists()
    assert len(rows) == 36
    assert script("predict.py", "sort=undo", "output=photos/out").out == "36 of 36 images moved back\n"
    assert {path: path.read_bytes() for path in sorted(Path("photos").rglob("*.jpg"))} == before
