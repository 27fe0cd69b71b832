"""evaluation.views and predict.py views=, as a user runs them."""

import csv
import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest
from conftest import SMALL, Result, Script, draw_classes
from runs import run_script

import headstart
from headstart.errors import HeadstartError
from headstart.run_folder import RunFolder

# Each runs whole trainings.
pytestmark = pytest.mark.slow

TINY = (
    *(*SMALL, "model.arch=mobilenet_v3_small", "model.weights=bundled", "features.precision=32", "model.lr=0.003"),
    *("data.split.train=5", "data.split.valid=3", "trainer.max_epochs=3", "report=full", "evaluation.views=3"),
)
ON_TEST = ("accuracy", "macro_f1", "calibrated")


@dataclass(frozen=True)
class Trained:
    """A finished run, its images, its command and what it said."""

    run: RunFolder
    images: Path
    base: tuple[str, ...]
    result: Result

    @property
    def metrics(self) -> dict[str, float]:
        found: dict[str, float] = json.loads(self.run.metrics.read_text())
        return found


@pytest.fixture(scope="module")
def viewed(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    """A run that averages three views; in these tests that helps."""
    home = tmp_path_factory.mktemp("viewed")
    images = draw_classes(home / "images", 12)
    base = (f"data.root={images}", *TINY, f"features.dir={home / 'features'}")
    result = run_script(home, "train.py", *base, "hydra.run.dir=run")
    assert result.status == 0, result.err
    found = Trained(RunFolder(home / "run"), images, base, result)
    assert found.metrics["views_used"] == 3, "so that there is something to test"
    return found


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open() as file:
        return list(csv.DictReader(file))


def test_run__says_whether_it_helped_and_how_to_predict(viewed: Trained) -> None:
    metrics = viewed.metrics
    assert metrics["views"] == 3
    assert metrics["mean_of_views/valid/loss"] < metrics["one_view/valid/loss"]
    sentence = "The mean over 3 views of each image lowers the loss on the valid split"
    assert sentence in viewed.result.out
    assert sentence in viewed.run.page.read_text()
    assert json.loads((viewed.run.report / "report.json").read_text())["averaging"]["views_used"] == 3
    (command,) = [line for line in viewed.result.out.splitlines() if line.startswith("to predict: ")]
    assert command.endswith(" views=3")


def test_predict__gives_what_the_run_reported(viewed: Trained, script: Script) -> None:
    source, best = f"source={viewed.images}", f"ckpt_path={viewed.run.path}"
    arguments = (best, source, "output=out", "accelerator=cpu", "features.precision=32")
    assert script("predict.py", *arguments, "views=3").status == 0
    averaged = {row["path"]: row for row in rows_of(Path("out/predictions.csv"))}
    assert script("predict.py", *arguments).status == 0
    plain = {row["path"]: row for row in rows_of(Path("out/predictions.csv"))}
    rows = rows_of(viewed.run.test_predictions)
    assert len(rows) == 12
    for row in rows:
        path = str(viewed.images / row["path"])
        assert averaged[path]["label_1"] == row["prediction"]
        assert float(averaged[path]["prob_1"]) == pytest.approx(float(row["probability"]), abs=1e-5)
        assert averaged[path]["prob_1"] != plain[path]["prob_1"]
        assert averaged[path]["familiar"] == plain[path]["familiar"]
    right = sum(averaged[str(viewed.images / row["path"])]["label_1"] == row["label"] for row in rows)
    assert right / 12 == pytest.approx(viewed.metrics["test/acc"])


def test_predict__is_the_same_for_one_image_as_for_many(viewed: Trained) -> None:
    predictor = headstart.load(viewed.run.path, accelerator="cpu", precision="32", compile=False)
    paths = sorted(viewed.images.rglob("*.jpg"))
    for path, found in zip(paths[-3:], predictor.predict(paths, views=4)[-3:], strict=True):
        (alone,) = predictor.predict(path, views=4)
        assert alone.classes == found.classes
        assert alone.probabilities == pytest.approx(found.probabilities, abs=1e-6)
    with pytest.raises(HeadstartError, match="views=0 is invalid"):
        predictor.predict(paths, views=0)


def test_labelled__scores_the_mean(viewed: Trained, script: Script) -> None:
    # The test split as a folder of its own.
    for row in rows_of(viewed.run.test_predictions):
        place = Path("labelled") / row["path"]
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(viewed.images / row["path"], place)
    options = ("output=out", "labelled=true", "accelerator=cpu", "features.precision=32", "explain=true", "views=3")
    result = script("predict.py", f"ckpt_path={viewed.run.path}", "source=labelled", *options)
    assert result.status == 0, result.err
    found = json.loads(Path("out/report/report.json").read_text())
    of_run = json.loads((viewed.run.report / "report.json").read_text())
    assert found["temperature"] == of_run["temperature"] == 1
    assert found["accuracy"] == pytest.approx(of_run["accuracy"])
    assert found["calibrated"]["log_loss"] == pytest.approx(of_run["calibrated"]["log_loss"], abs=1e-5)


def test_task_test_and_report__average_as_the_run_did(viewed: Trained, script: Script, tmp_path: Path) -> None:
    run = RunFolder(shutil.copytree(viewed.run.path, tmp_path / "run"))
    result = script("train.py", "task=test", f"ckpt_path={run.path}", "hydra.run.dir=tested")
    assert result.status == 0, result.err
    tested = json.loads(Path("tested/metrics.json").read_text())
    compared = [name for name in tested if name != "seconds"]
    assert {"views_used", "test/acc"} <= set(compared)
    for name in compared:
        assert tested[name] == pytest.approx(viewed.metrics[name], abs=1e-6)
    before = (run.report / "report.json").read_text()
    shutil.rmtree(run.report)
    assert script("train.py", "task=report", f"ckpt_path={run.path}").status == 0
    assert (run.report / "report.json").read_text() == before
    result = script("train.py", "task=test", f"ckpt_path={run.path}", "hydra.run.dir=plain", "evaluation.views=1")
    assert result.status == 0, result.err
    assert "views" not in json.loads(Path("plain/metrics.json").read_text())


def test_sweep__averages_for_the_test_of_the_best_trial_only(viewed: Trained, script: Script) -> None:
    sweep = ("report=none", "trainer.max_epochs=1", "-m", "model.lr=0.003,0.0001", "hydra.sweep.dir=sweep")
    result = script("train.py", *viewed.base, *sweep)
    assert result.status == 0, result.err
    best = Path("sweep/best/trial.json").resolve().parent
    assert "views" not in json.loads((best / "metrics.json").read_text())
    tested = json.loads((best / "test/metrics.json").read_text())
    assert tested["views"] == 3
    assert rows_of(best / "test/test_predictions.csv")[0].keys() == rows_of(viewed.run.test_predictions)[0].keys()


@pytest.mark.parametrize(
    ("name", "argument"), [("train.py", "evaluation.views=0"), ("predict.py", "views=0"), ("train.py", "views=2")]
)
def test_rejected__in_one_sentence(viewed: Trained, script: Script, name: str, argument: str) -> None:
    given = viewed.base if name == "train.py" else (f"ckpt_path={viewed.run.path}", f"source={viewed.images}")
    result = script(name, *given, argument)
    assert result.status == 1
    assert argument.partition("=")[0] in result.err
    assert result.err.count("\n") == 1
