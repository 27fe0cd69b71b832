"""Loggers of Weights & Biases and MLflow: one run per training, with its outcome and its report."""

import csv
import json
import sys
from pathlib import Path
from typing import Any

import pytest
from conftest import SMALL, Script

TINY = (*SMALL, "data.split.train=6", "data.split.valid=3", "trainer.max_epochs=2")


@pytest.fixture(autouse=True)
def offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)


def wandb_runs(folder: Path) -> int:
    return len(list(folder.rglob("offline-run-*")))


def test_wandb__each_trial_and_each_training_is_a_run_of_its_own(
    script: Script, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    options = (f"data.root={flat}", *TINY, "logger=wandb", "trainer.max_epochs=1")
    assert script("train.py", *options, f"hydra.run.dir={tmp_path / 'first'}").status == 0
    assert wandb_runs(tmp_path / "first") == 1
    assert wandb.run is None
    sweep = ("-m", "model.lr=0.01,0.001", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert script("train.py", *options, *sweep).status == 0
    assert wandb_runs(tmp_path / "sweep") == 2
    # A failed training ends its run too.
    failing = ("model.lr=1e38", "model.head=linear", "trainer.max_epochs=5", f"hydra.run.dir={tmp_path / 'failed'}")
    assert script("train.py", *options, *failing).status == 1
    assert wandb_runs(tmp_path / "failed") == 1
    assert wandb.run is None
    # One that the surrounding program has opened is used, and stays open.
    with wandb.init(dir=str(tmp_path)) as own:
        assert script("train.py", *options, f"hydra.run.dir={tmp_path / 'inside'}").status == 0
        assert wandb.run is own
        assert wandb_runs(tmp_path / "inside") == 0


def test_wandb__gets_the_best_epochs_metrics_and_the_report(
    script: Script, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wandb = pytest.importorskip("wandb")
    with wandb.init(dir=str(tmp_path)) as own:
        arguments = (f"data.root={flat}", *TINY, "logger=wandb", "report=full", f"hydra.run.dir={tmp_path / 'run'}")
        assert script("train.py", *arguments).status == 0
        metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
        assert {name: own.summary[name] for name in metrics} == metrics
        logged = Path(own.dir, str(own.summary["report"]["path"]))
    assert logged.read_bytes() == (tmp_path / "run" / "report" / "index.html").read_bytes()


def test_mlflow__one_run_per_training_and_trial(script: Script, flat: Path, tmp_path: Path) -> None:
    mlflow = pytest.importorskip("mlflow")
    options = (f"data.root={flat}", *TINY, "logger=mlflow")
    assert script("train.py", *options, "report=full", f"hydra.run.dir={tmp_path / 'run'}").status == 0
    client = mlflow.MlflowClient("sqlite:///mlflow.db")
    experiment = client.get_experiment_by_name("headstart")
    (run,) = client.search_runs([experiment.experiment_id])
    metrics = json.loads((tmp_path / "run" / "metrics.json").read_text())
    assert {name: run.data.metrics[name] for name in metrics} == pytest.approx(metrics)
    assert run.info.status == "FINISHED"
    (page,) = [of.path for of in client.list_artifacts(run.info.run_id, "report")]
    copy = Path(client.download_artifacts(run.info.run_id, page, str(tmp_path)))
    assert copy.read_bytes() == (tmp_path / "run" / "report" / "index.html").read_bytes()
    sweep = ("-m", "model.lr=0.01,0.001", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    assert script("train.py", *options, *sweep).status == 0
    with (tmp_path / "sweep" / "leaderboard.csv").open(newline="") as file:
        wanted = sorted(float(row["valid/loss"]) for row in csv.DictReader(file))
    trials = [of for of in client.search_runs([experiment.experiment_id]) if of.info.run_id != run.info.run_id]
    assert sorted(of.data.metrics["valid/loss"] for of in trials) == pytest.approx(wanted, rel=1e-4)


@pytest.mark.parametrize("name", ["wandb", "mlflow"])
def test_missing_package__is_named(name: str, script: Script, flat: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Missing:
        def find_spec(self, module: str, *_: Any) -> None:
            if module.partition(".")[0] == name:
                raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    for module in [of for of in sys.modules if of.partition(".")[0] == name]:
        monkeypatch.delitem(sys.modules, module)
    monkeypatch.setattr(sys, "meta_path", [Missing(), *sys.meta_path])
    monkeypatch.setattr(f"pytorch_lightning.loggers.{name}._{name.upper()}_AVAILABLE", False)
    result = script("train.py", f"data.root={flat}", *TINY, f"logger={name}")
    assert result.status == 1
    assert result.err.count("\n") == 1
    assert f"logger.{name} needs {name}: python -m pip install {name}" in result.err
