"""What predict.py says and draws besides classes: doubt, explanations, contact sheets, a labelled folder's score."""

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL, Script, draw
from PIL import Image
from sklearn.metrics import accuracy_score, f1_score  # type: ignore[import-untyped]
from test_predict import rows_of

from headstart.model.checkpoint import read_checkpoint
from headstart.predict import overlays


@pytest.fixture
def best(trained: Path) -> str:
    return f"ckpt_path={trained / 'checkpoints' / 'best.ckpt'}"


def test_unsure__below_min_confidence(script: Script, trained: Path, best: str) -> None:
    source = f"source={trained.parent / 'images'}"
    assert script("predict.py", best, source, "output=all").status == 0
    result = script("predict.py", best, source, "output=out", "min_confidence=0.7")
    for row, plain in zip(rows_of(Path("out")), rows_of(Path("all")), strict=True):
        assert plain["doubt"] in ("", "unusual")
        unsure = "unsure" if float(row["prob_1"]) < 0.7 else ""
        assert row["doubt"] == (plain["doubt"] or unsure)
        assert row["label_1"] == plain["label_1"]
        line = next(text for text in result.out.splitlines() if row["path"] in text)
        assert line.endswith(f"({row['doubt']})") == bool(row["doubt"])


def test_familiar__is_lower_for_what_was_never_trained_on(script: Script, trained: Path, tmp_path: Path) -> None:
    # Of fewer than 19 images to validate on, there is no threshold.
    run = tmp_path / "run"
    rule = ("data.split.train=4", "data.split.valid=7", f"hydra.run.dir={run}")
    assert script("train.py", f"data.root={trained.parent / 'images'}", *SMALL, *rule).status == 0
    best = f"ckpt_path={run}"
    noise = np.random.default_rng(0).integers(0, 256, (48, 40, 3), dtype=np.uint8)
    Image.fromarray(noise).save("noise.png")
    known = trained.parent / "images"
    for source, folder in ((known, "known"), (Path("noise.png"), "unknown")):
        assert script("predict.py", best, f"source={source}", f"output={folder}").status == 0
    scores = [float(row["familiar"]) for row in rows_of(Path("known"))]
    (unknown,) = rows_of(Path("unknown"))
    assert float(unknown["familiar"]) < np.quantile(scores, 0.1)
    threshold = float(read_checkpoint(run / "checkpoints" / "best.ckpt")["state_dict"]["familiarity.threshold"])
    for row in (unknown, *rows_of(Path("known"))):
        assert (row["doubt"] == "unusual") == (float(row["familiar"]) < threshold)
    assert any(row["doubt"] for row in (unknown, *rows_of(Path("known"))))


def test_explain__draws_what_the_network_saw_beside_its_map(script: Script, trained: Path, best: str) -> None:
    images = trained.parent / "images"
    result = script("predict.py", best, f"source={images}", "output=out", "explain=true")
    assert result.status == 0, result.err
    drawn = sorted(path.relative_to("out/explained") for path in Path("out/explained").rglob("*.jpg"))
    assert len(drawn) == len(list(images.rglob("*.*")))
    with Image.open(Path("out/explained") / drawn[0]) as picture:
        assert picture.size == (32 + 6 + 32, 32)


def test_contact_sheets__have_every_image(
    script: Script, trained: Path, best: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(overlays, "ROWS", 2)
    images = trained.parent / "images"
    count = len(list(images.rglob("*.*")))
    for source in (images, images / "red"):
        assert script("predict.py", best, f"source={source}", "output=out", "annotate=true").status == 0
        sheets = sorted(path.name for path in Path("out/contact_sheets").glob("*.jpg"))
        number = -(-(count if source == images else 12) // 16)
        assert sheets == [f"{sheet}.jpg" for sheet in range(1, number + 1)]


def test_labelled__scores_the_folder(script: Script, trained: Path, best: str, tmp_path: Path) -> None:
    assert script("predict.py", best, f"source={trained.parent / 'images'}", "output=first").status == 0
    folder, output = tmp_path / "labelled", tmp_path / "out"
    draw(folder / "blue" / "deep" / "0.png", (30, 160, 60), 5)
    (folder / "blue" / "broken.jpg").write_bytes(b"no image")
    # Labelled as predicted, except for some.
    for number, row in enumerate(rows_of(Path("first"))):
        place = folder / (row["label_1"] if number % 4 else "red") / f"{number}.png"
        place.parent.mkdir(exist_ok=True)
        shutil.copy(row["path"], place)
    result = script("predict.py", best, f"source={folder}", f"output={output}", "labelled=true", "topk=1")
    assert result.status == 0, result.err
    rows = [row for row in rows_of(output) if not row["error"]]
    labels = [Path(row["path"]).relative_to(folder).parts[0] for row in rows]
    predicted = [row["label_1"] for row in rows]
    found = json.loads((output / "report" / "report.json").read_text())
    assert found["images"] == len(rows) == 37
    assert found["accuracy"] == pytest.approx(accuracy_score(labels, predicted))
    assert 0 < found["accuracy"] < 1
    assert f"is right about {found['correct']} of 37 labelled images" in result.out
    present = sorted({*labels, *predicted})
    assert found["macro_f1"] == pytest.approx(f1_score(labels, predicted, average="macro", labels=present))
    with (output / "report" / "per_class.csv").open() as file:
        assert {row["class"]: int(row["images"]) for row in csv.DictReader(file)} == {
            name: labels.count(name) for name in ("blue", "green", "red")
        }
    assert "<h2>How did it train?" not in (output / "report" / "index.html").read_text()


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("red/0.png", "needs a folder of class folders"),
        ("red", "is in no class folder of"),
        (".", "are not classes of"),
    ],
)
def test_labelled__what_is_no_labelled_folder(script: Script, best: str, source: str, says: str) -> None:
    draw(Path("images/red/0.png"), (200, 50, 40), 0)
    draw(Path("images/purple/0.png"), (200, 50, 200), 0)
    result = script("predict.py", best, f"source=images/{source}", "labelled=true", "output=out")
    assert result.status == 1
    assert says in result.err
    assert not Path("out").exists()
