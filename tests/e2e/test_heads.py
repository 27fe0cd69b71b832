"""Each head from training to prediction, report and sweep, as a user runs them."""

import csv
import json
from pathlib import Path

import pytest
from conftest import SMALL, Script, draw_classes
from PIL import Image
from runs import run_script

import headstart
from headstart.config.model import EncoderSettings
from headstart.model.checkpoint import load_classifier
from headstart.model.image_classifier import setting_of

pytestmark = pytest.mark.slow
RULE = ("data.split.train=6", "data.split.valid=3")
# Features that tell the colours apart.
BUNDLED = (*SMALL, *RULE, "model.arch=mobilenet_v3_small", "model.weights=bundled")
BASELINES = {"ridge": "ridge regression", "knn": "nearest neighbours", "logistic": "logistic regression"}
CLOSED_FORM = tuple(BASELINES)


@pytest.fixture(scope="module", params=["linear", "mean", *CLOSED_FORM])
def head(request: pytest.FixtureRequest) -> str:
    kind: str = request.param
    return kind


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_classes(tmp_path_factory.mktemp("heads") / "images", 12)


@pytest.fixture(scope="module")
def run(head: str, images: Path) -> Path:
    """The folder of a finished run of this head, with its report."""
    folder = images.with_name(f"run-{head}")
    options = (f"model.head={head}", "report=full", f"hydra.run.dir={folder}")
    trained = run_script(images.parent, "train.py", f"data.root={images}", *BUNDLED, *options)
    assert trained.status == 0, trained.err
    return folder


def test_head__from_training_to_prediction(script: Script, head: str, run: Path, images: Path, tmp_path: Path) -> None:
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["epochs"] == (1 if head in CLOSED_FORM else 3)

    tested = script("train.py", "task=test", f"ckpt_path={run}", f"hydra.run.dir={tmp_path / 'test'}")
    assert tested.status == 0, tested.err
    again = json.loads((tmp_path / "test" / "metrics.json").read_text())
    assert again["test/loss"] == pytest.approx(metrics["test/loss"], rel=1e-4)

    out = tmp_path / "out"
    predicted = script("predict.py", f"ckpt_path={run}", f"source={images / 'red'}", "explain=true", f"output={out}")
    assert predicted.status == 0, predicted.err
    rows = list(csv.DictReader((out / "predictions.csv").open()))
    assert len(rows) == 12
    with Image.open(next((out / "explained").iterdir())) as explained:
        assert explained.width > 10
    found = headstart.load(run, accelerator="cpu").predict(images / "red" / "0.jpg")
    assert found[0].label == rows[0]["label_1"]


def test_report__does_not_compare_a_head_with_itself(head: str, run: Path) -> None:
    report = json.loads((run / "report" / "report.json").read_text())
    names = {baseline["name"] for baseline in report["baselines"]}
    assert names == {"majority class", "nearest class mean", *BASELINES.values()} - {BASELINES.get(head)}
    if head in CLOSED_FORM:
        assert report["head"]["kind"] == head
        page = (run / "report" / "index.html").read_text()
        assert f"model.head={head}, {report['head']['setting']}" in page
        assert "of the other simple classifiers" in page
        assert "not augmented" in page
        assert "epoch 2" not in page


def test_report__written_again_says_the_same_of_the_head(script: Script, head: str, run: Path) -> None:
    report = json.loads((run / "report" / "report.json").read_text())
    loaded = load_classifier(run / "checkpoints" / "best.ckpt", EncoderSettings(precision="32", compile=False), None)
    assert setting_of(loaded.head) == report["head"]["setting"]
    if head == "knn":
        written = script("train.py", "task=report", f"ckpt_path={run}")
        assert written.status == 0, written.err
        assert json.loads((run / "report" / "report.json").read_text())["head"] == report["head"]


def test_advice__followed_gives_what_was_promised(script: Script, images: Path, tmp_path: Path) -> None:
    # Random weights, with which each head makes mistakes of its own.
    options = (f"data.root={images}", *SMALL, *RULE)
    assert script("train.py", *options, "report=full", f"hydra.run.dir={tmp_path / 'mlp'}").status == 0
    report = json.loads((tmp_path / "mlp" / "report" / "report.json").read_text())
    for baseline in (b for b in report["baselines"] if b["kind"]):
        run = tmp_path / baseline["kind"]
        assert script("train.py", *options, f"model.head={baseline['kind']}", f"hydra.run.dir={run}").status == 0
        metrics = json.loads((run / "metrics.json").read_text())
        assert metrics["valid/acc"] == pytest.approx(baseline["valid_accuracy"])
        assert metrics["test/acc"] == pytest.approx(baseline["accuracy"])


def test_auto__from_the_choice_to_predictions_and_back(script: Script, images: Path, tmp_path: Path) -> None:
    options = (f"data.root={images}", *BUNDLED, "model.head=auto")
    run = tmp_path / "run"
    trained = script("train.py", *options, f"hydra.run.dir={run}")
    assert trained.status == 0, trained.err
    (line,) = (line for line in trained.out.splitlines() if line.startswith("model.head=auto: "))
    chosen = line.split()[1].rstrip(",")
    assert "by cross-validation on train and valid" in trained.out
    found = headstart.load(run, accelerator="cpu").predict(images / "red" / "0.jpg")
    assert found[0].label == "red"
    # Exactly as if it had been chosen by hand.
    assert script("train.py", *options, f"model.head={chosen}", f"hydra.run.dir={tmp_path / 'same'}").status == 0
    first, same = (json.loads((folder / "metrics.json").read_text()) for folder in (run, tmp_path / "same"))
    assert first | {"seconds": 0} == same | {"seconds": 0}
    # A resumed run keeps the head, without choosing again.
    resumed = script("train.py", f"ckpt_path={run}", f"hydra.run.dir={tmp_path / 'again'}")
    assert resumed.status == 0, resumed.err
    assert "model.head=auto" not in resumed.out
    again = json.loads((tmp_path / "again" / "metrics.json").read_text())
    assert again["test/loss"] == pytest.approx(first["test/loss"])


def test_auto__needs_stored_features_of_a_frozen_backbone(script: Script, images: Path) -> None:
    for option in ("features.cache=false", "finetune=full", "data.balance=loss"):
        result = script("train.py", f"data.root={images}", *BUNDLED, "model.head=auto", option)
        assert result.status == 1
        assert "model.head=auto" in result.err
        assert len(result.err.strip().splitlines()) == 1


def test_sweep__over_all_heads(script: Script, flat: Path) -> None:
    heads = "model.head=mlp,linear,ridge,knn,logistic,mean,auto"
    result = script("train.py", "-m", f"data.root={flat}", *BUNDLED, heads)
    assert result.status == 0, result.err
    assert "7 trials, 0 of them failed" in result.out
    (folder,) = Path("logs").iterdir()
    rows = {row["model.head"]: row for row in csv.DictReader((folder / "leaderboard.csv").open())}
    assert {head for head, row in rows.items() if row["best_epoch"] == "1"} >= set(CLOSED_FORM)
    predicted = script("predict.py", f"ckpt_path={folder}", f"source={flat / 'red' / '0.jpg'}")
    assert predicted.status == 0, predicted.err
