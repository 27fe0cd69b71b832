"""Each head from training to prediction, report and sweep, as a user runs them."""

import csv
import json
from pathlib import Path

import pytest
from conftest import SMALL, Script
from PIL import Image

import headstart

pytestmark = pytest.mark.slow
RULE = ("data.split.train=6", "data.split.valid=3")
# Features that tell the colours apart.
BUNDLED = (*SMALL, *RULE, "model.arch=mobilenet_v3_small", "model.weights=bundled")
BASELINES = {"ridge": "ridge regression", "knn": "nearest neighbours"}
CLOSED_FORM = tuple(BASELINES)


@pytest.mark.parametrize("head", ["linear", "ridge", "knn"])
def test_head__from_training_to_prediction(script: Script, flat: Path, tmp_path: Path, head: str) -> None:
    run, out = tmp_path / "run", tmp_path / "out"
    options = (f"model.head={head}", "report=full", f"hydra.run.dir={run}")
    trained = script("train.py", f"data.root={flat}", *BUNDLED, *options)
    assert trained.status == 0, trained.err
    metrics = json.loads((run / "metrics.json").read_text())
    assert metrics["epochs"] == (1 if head in CLOSED_FORM else 3)

    tested = script("train.py", "task=test", f"ckpt_path={run}", f"hydra.run.dir={tmp_path / 'test'}")
    assert tested.status == 0, tested.err
    again = json.loads((tmp_path / "test" / "metrics.json").read_text())
    assert again["test/loss"] == pytest.approx(metrics["test/loss"], rel=1e-4)

    predicted = script("predict.py", f"ckpt_path={run}", f"source={flat / 'red'}", "explain=true", f"output={out}")
    assert predicted.status == 0, predicted.err
    rows = list(csv.DictReader((out / "predictions.csv").open()))
    assert len(rows) == 12
    with Image.open(next((out / "explained").iterdir())) as explained:
        assert explained.width > 10
    found = headstart.load(run, accelerator="cpu").predict(flat / "red" / "0.jpg")
    assert found[0].label == rows[0]["label_1"]

    report = json.loads((run / "report" / "report.json").read_text())
    written = script("train.py", "task=report", f"ckpt_path={run}")
    assert written.status == 0, written.err
    assert json.loads((run / "report" / "report.json").read_text())["head"] == report["head"]


@pytest.mark.parametrize("head", CLOSED_FORM)
def test_report__does_not_compare_a_head_with_itself(script: Script, flat: Path, tmp_path: Path, head: str) -> None:
    options = (f"model.head={head}", "report=full", f"hydra.run.dir={tmp_path / 'run'}")
    result = script("train.py", f"data.root={flat}", *BUNDLED, *options)
    assert result.status == 0, result.err
    report = json.loads((tmp_path / "run" / "report" / "report.json").read_text())
    names = {baseline["name"] for baseline in report["baselines"]}
    assert names == {"majority class", "nearest class mean", "logistic regression", *BASELINES.values()} - {
        BASELINES[head]
    }
    assert report["head"]["kind"] == head
    page = (tmp_path / "run" / "report" / "index.html").read_text()
    assert f"model.head={head}, {report['head']['setting']}" in page
    assert "of the other simple classifiers" in page
    assert "not augmented" in page
    assert "epoch 2" not in page


def test_sweep__over_all_heads(script: Script, flat: Path) -> None:
    result = script("train.py", "-m", f"data.root={flat}", *BUNDLED, "model.head=mlp,linear,ridge,knn")
    assert result.status == 0, result.err
    assert "4 trials, 0 of them failed" in result.out
    (folder,) = Path("logs").iterdir()
    rows = {row["model.head"]: row for row in csv.DictReader((folder / "leaderboard.csv").open())}
    assert {head for head, row in rows.items() if row["best_epoch"] == "1"} >= set(CLOSED_FORM)
    predicted = script("predict.py", f"ckpt_path={folder}", f"source={flat / 'red' / '0.jpg'}")
    assert predicted.status == 0, predicted.err
