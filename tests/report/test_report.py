"""The report of a run: the page, its charts and tables."""

import csv
import html
import json
import re
import runpy
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, SMALL, Script, draw
from PIL import Image
from torch.nn.functional import log_softmax

from headstart.config.model import EncoderSettings
from headstart.data.manifest import Manifest, Split
from headstart.evaluation.predictions import Predictions, Result, wilson_interval
from headstart.files import write_json
from headstart.model.checkpoint import load_classifier
from headstart.report.charts import draw_accuracy, draw_confusion, draw_map, draw_reliability
from headstart.report.write import trained_again, write_result
from headstart.run_folder import RunFolder

RULE = ("data.split.train=6", "data.split.valid=3")
NAMES = {
    2: ("ja", "nein"),
    10: tuple(f"class {i}" for i in range(10)),
    101: tuple(f"猫 klasse_{i}_with_a_name_that_has_no_space_at_all" for i in range(101)),
    257: tuple(f"a long name, {i}" for i in range(257)),
}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on images of two classes, one of whose names is markup."""
    base = tmp_path_factory.mktemp("report")
    for name, colour in (("<b>red & co", (200, 50, 40)), ("grün 猫", (30, 160, 60))):
        for i in range(12):
            draw(base / "images" / name / f"{i}.png", colour, i)
    arguments = (f"data.root={base / 'images'}", *RULE, *SMALL, "report=full", f"hydra.run.dir={base / 'run'}")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "argv", [str(ROOT / "train.py"), *arguments])
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    return base / "run"


@pytest.mark.slow
def test_report__says_what_the_metrics_say(run: Path) -> None:
    numbers = json.loads((run / "report" / "report.json").read_text())
    metrics = json.loads((run / "metrics.json").read_text())
    page = (run / "report" / "index.html").read_text()
    assert numbers["accuracy"] == pytest.approx(metrics["test/acc"])
    assert numbers["macro_f1"] == pytest.approx(metrics["test/f1"])
    assert numbers["uncalibrated"]["log_loss"] == pytest.approx(metrics["test/loss"])
    assert numbers["interval"] == pytest.approx(wilson_interval(np.arange(numbers["images"]) < numbers["correct"]))
    assert f"right about {numbers['correct']} of {numbers['images']} test images" in page
    for baseline in numbers["baselines"]:
        assert baseline["name"] in page
    assert numbers["head"] == {"kind": "mlp", "setting": "", "valid_accuracy": pytest.approx(metrics["valid/acc"])}
    assert set(numbers["label_issues"]) == {"estimate", "low", "high", "listed"}
    value, low, high = numbers["learning_curve"]["forecast"]
    assert low <= value <= high
    assert numbers["better_head"] in (None, "knn", "ridge", "logistic")


def test_report__shows_each_view_once(run: Path) -> None:
    page = (run / "report" / "index.html").read_text()
    assert all(text in page for text in ("not augmented", "epoch 2<"))
    assert not any(text in page for text in ("epoch 1<", "epoch 3<"))


def test_report__needs_nothing_else(run: Path) -> None:
    page = (run / "report" / "index.html").read_text()
    assert "<script" not in page
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) > 10
    assert all(source.startswith("data:image/") for source in sources)
    assert "http" not in page


def test_report__leads_on(run: Path) -> None:
    page = (run / "report" / "index.html").read_text()
    for section in page.split("<h2>")[1:]:
        assert 'class="next"' in section or "<a href" in section, section[:60]
    for link in re.findall(r'<a href="([^"]*)"', page):
        assert (run / "report" / link).is_file(), link
    commands = [html.unescape(of) for of in re.findall(r'class="next">[^<]*<code>([^<]*)</code>', page)]
    checkpoint = f"ckpt_path={run}"
    assert {"task=review", checkpoint} <= {word for of in commands for word in shlex.split(of)}
    trained = [shlex.split(of)[2:] for of in commands if "model.head=" in of or "features.views=" in of]
    assert len(trained) == 2
    for arguments in trained:
        # The command of the run with one setting changed.
        assert f"data.root={run.parent / 'images'}" in arguments
        assert not [of for of in arguments if of.startswith(("hydra.run.dir=", "task="))]
        assert len([of for of in arguments if of.startswith(("model.head=", "features.views="))]) == 1
    predicting = next(shlex.split(of) for of in commands if "predict.py" in of)
    assert predicting[2:] == [checkpoint, "source=FILE_OR_FOLDER"]


def test_report__every_image_has_a_caption(run: Path) -> None:
    page = (run / "report" / "index.html").read_text()
    figures = re.findall(r"<figure.*?</figure>", page, re.DOTALL)
    assert sum(figure.count("<img") for figure in figures) == page.count("<img") > 10
    for figure in figures:
        assert re.search(r"<figcaption>\s*\S", figure), figure[-200:]


def test_report__trained_again_is_said_only_of_one_command(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    for given, expected in (
        (["data.root=a b", "task=train", "model.head=knn"], ["data.root=a b", "model.head=auto"]),
        (["data.root=a", "+trainer.max_steps=3"], ["data.root=a", "+trainer.max_steps=3", "model.head=auto"]),
        (["ckpt_path=logs/run/checkpoints/last.ckpt"], None),
        (["-m", "model.lr=1,2"], None),
        (["data.root=a", "model.head=auto"], None),
        (["tests/report"], None),
    ):
        write_json(run.record, {"command": ["train.py", *given]})
        words = shlex.split(trained_again(run, "model.head=auto"))
        assert words == ([] if expected is None else ["python", "train.py", *expected])


def test_report__shows_names_as_they_are(run: Path) -> None:
    page = (run / "report" / "index.html").read_text()
    assert "grün 猫" in page
    assert "&lt;b&gt;red &amp; co" in page
    assert "<b>red" not in page


def test_report__has_every_table_and_chart(run: Path) -> None:
    folder = run / "report"
    for name in ("accuracy", "confusion", "reliability", "curves", "learning_curve"):
        with Image.open(folder / f"{name}.png") as chart:
            assert chart.width > 300
    rows = list(csv.DictReader((folder / "suspicious.csv").open(encoding="utf-8")))
    assert [int(row["rank"]) for row in rows] == list(range(1, 25))
    beliefs = [float(row["belief"]) for row in rows]
    assert beliefs == sorted(beliefs)
    assert {row["split"] for row in rows} == {"train", "valid", "test"}
    matrix = list(csv.reader((folder / "confusion.csv").open(encoding="utf-8")))
    assert sum(int(cell) for row in matrix[1:] for cell in row[1:]) == 6


def test_report__changes_nothing(run: Path, script: Script, tmp_path: Path) -> None:
    images = run.parent / "images"
    result = script("train.py", f"data.root={images}", *RULE, *SMALL, f"hydra.run.dir={tmp_path / 'none'}")
    assert result.status == 0, result.err
    assert not (tmp_path / "none" / "report").exists()
    assert (tmp_path / "none" / "history.csv").read_bytes() == (run / "history.csv").read_bytes()


def test_report__without_stored_features(run: Path, script: Script, tmp_path: Path) -> None:
    more = ("report=full", "features.cache=false", f"hydra.run.dir={tmp_path / 'run'}")
    result = script("train.py", f"data.root={run.parent / 'images'}", *RULE, *SMALL, *more)
    assert result.status == 0, result.err
    assert "Without stored features of a frozen backbone" in (tmp_path / "run" / "report" / "index.html").read_text()
    assert not (tmp_path / "run" / "report" / "suspicious.csv").exists()


def result_of(classes: tuple[str, ...]) -> Result:
    generator = torch.Generator().manual_seed(0)
    labels = torch.randint(0, len(classes), (600,), generator=generator)
    logits = torch.randn(600, len(classes), generator=generator) + 3 * torch.eye(len(classes))[labels]
    return Result("test", classes, Predictions(tuple(map(str, range(600))), labels, log_softmax(logits, 1)))


@pytest.mark.slow
@pytest.mark.parametrize("classes", NAMES)
def test_charts__of_any_number_of_classes(classes: int, tmp_path: Path) -> None:
    result = result_of(NAMES[classes])
    draw_confusion(result, tmp_path / "confusion.png")
    draw_map(result, np.random.default_rng(0).normal(size=(600, 2)), tmp_path / "map.png")
    draw_accuracy(result, None, tmp_path / "accuracy.png")
    draw_reliability(result, tmp_path / "reliability.png")
    for path in tmp_path.iterdir():
        with Image.open(path) as chart:
            assert np.asarray(chart.convert("L")).std() > 5
            assert max(chart.size) < 1600


def page_of(run: Path, classes: int, folder: Path) -> str:
    """The page of a result with so many classes, of images that are gone, as when a report is read later."""
    result = result_of(NAMES[classes])
    paths, labels = result.predictions.paths, tuple(result.predictions.labels.tolist())
    gone = Split(folder, paths, labels, ("",) * len(paths))
    manifest = Manifest(folder, result.classes, {"test": gone}, {}, (), (), {}, ())
    features = EncoderSettings(precision="32", compile=False)
    write_result(load_classifier(run / "checkpoints" / "best.ckpt", features, None), manifest, result, folder)
    return (folder / "index.html").read_text()


@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs chromium")
@pytest.mark.slow
def test_page__fits_any_screen(run: Path, tmp_path: Path) -> None:
    pages = {str(classes): page_of(run, classes, tmp_path / str(classes)) for classes in NAMES}
    pages["run"] = (run / "report" / "index.html").read_text()
    frames = []
    for name, page in pages.items():
        # The title becomes the width in pixels of what sticks out.
        measure = "const e = document.documentElement; document.title = e.scrollWidth - e.clientWidth"
        (tmp_path / f"{name}.html").write_text(page.replace("</body>", f"<script>{measure}</script></body>"))
        # In frames, because a window has a least width.
        for width in (390, 1100):
            frames.append(f'<iframe src="{name}.html" style="width:{width}px;height:900px;border:0"></iframe>')
    script = 'onload=()=>document.title=[...document.querySelectorAll("iframe")].map(f=>f.contentDocument.title)'
    (tmp_path / "frames.html").write_text(f"{''.join(frames)}<script>{script}</script>")
    command = ["chromium", "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files"]
    url = (tmp_path / "frames.html").as_uri()
    done = subprocess.run([*command, "--dump-dom", url], capture_output=True, text=True, timeout=60, check=True)
    assert f"<title>{','.join('0' for _ in frames)}</title>" in done.stdout
