"""Each head from training to prediction, report and sweep, as a user runs them."""

import csv
import json
from pathlib import Path
from typing import Any

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


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_classes(tmp_path_factory.mktemp("heads") / "images", 12)


@pytest.fixture(scope="module")
def runs(images: Path) -> dict[str, Path]:
    """The folders of finished runs by their heads, of which two have a report; tests only read them.

    With random weights, each head makes mistakes of its own.
    """
    folders = {head: images.with_name(f"run-{head}") for head in ("linear", "mean", *CLOSED_FORM)}
    for head, folder in folders.items():
        options = (f"model.head={head}", f"report={'full' if head == 'linear' else 'none'}", f"hydra.run.dir={folder}")
        trained = run_script(images.parent, "train.py", f"data.root={images}", *SMALL, *RULE, *options)
        assert trained.status == 0, trained.err
    reported = run_script(images.parent, "train.py", "task=report", f"ckpt_path={folders['knn']}")
    assert reported.status == 0, reported.err
    return folders


def report_of(run: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((run / "report" / "report.json").read_text())
    return report


@pytest.mark.parametrize("head", ["linear", "mean", *CLOSED_FORM])
def test_head__from_training_to_prediction(
    script: Script, head: str, runs: dict[str, Path], images: Path, tmp_path: Path
) -> None:
    run = runs[head]
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["epochs"] == (1 if head in CLOSED_FORM else 3)

    tested = script("train.py", "task=test", f"ckpt_path={run}", f"hydra.run.dir={tmp_path / 'test'}")
    assert tested.status == 0, tested.err
    again = json.loads((tmp_path / "test" / "metrics.json").read_text())
    assert again["test/loss"] == pytest.approx(metrics["test/loss"], rel=1e-4)

    source, out = tmp_path / "some", tmp_path / "out"
    source.mkdir()
    for name in ("0.jpg", "1.jpg"):
        (source / name).symlink_to(images / "red" / name)
    predicted = script("predict.py", f"ckpt_path={run}", f"source={source}", "explain=true", f"output={out}")
    assert predicted.status == 0, predicted.err
    rows = list(csv.DictReader((out / "predictions.csv").open()))
    assert len(rows) == 2
    with Image.open(next((out / "explained").iterdir())) as explained:
        assert explained.width > 10
    found = headstart.load(run, accelerator="cpu").predict(images / "red" / "0.jpg")
    assert found[0].label == rows[0]["label_1"]


def test_report__does_not_compare_a_head_with_itself(runs: dict[str, Path]) -> None:
    for head in ("linear", "knn"):
        names = {baseline["name"] for baseline in report_of(runs[head])["baselines"]}
        assert names == {"majority class", "nearest class mean", *BASELINES.values()} - {BASELINES.get(head)}


def test_report__says_how_a_head_was_fitted(runs: dict[str, Path]) -> None:
    head = report_of(runs["knn"])["head"]
    assert head["kind"] == "knn"
    page = (runs["knn"] / "report" / "index.html").read_text()
    assert f"model.head=knn, {head['setting']}" in page
    assert "of the other simple classifiers" in page
    assert "not augmented" in page
    assert "epoch 2" not in page
    for kind in ("linear", "knn"):
        best = runs[kind] / "checkpoints" / "best.ckpt"
        loaded = load_classifier(best, EncoderSettings(precision="32", compile=False), None)
        assert setting_of(loaded.head) == report_of(runs[kind])["head"]["setting"]


def test_advice__followed_gives_what_was_promised(runs: dict[str, Path]) -> None:
    promised = {baseline["kind"]: baseline for baseline in report_of(runs["linear"])["baselines"] if baseline["kind"]}
    assert set(promised) == set(CLOSED_FORM)
    for kind, baseline in promised.items():
        metrics = json.loads((runs[kind] / "metrics.json").read_text())
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


def test_sweep__over_heads_of_every_kind(script: Script, images: Path) -> None:
    sweep = ("model.head=mlp,knn,auto", "trainer.max_epochs=2", "hydra.sweep.dir=sweep")
    result = script("train.py", "-m", f"data.root={images}", *BUNDLED, *sweep)
    assert result.status == 0, result.err
    assert "3 trials, 0 of them failed" in result.out
    with Path("sweep/leaderboard.csv").open() as file:
        rows = {row["model.head"]: row for row in csv.DictReader(file)}
    assert rows["knn"]["best_epoch"] == "1"
    predicted = script("predict.py", "ckpt_path=sweep", f"source={images / 'red' / '0.jpg'}")
    assert predicted.status == 0, predicted.err
