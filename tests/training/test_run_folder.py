"""What a finished run stores in its folder, and which folder that is."""

import csv
import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
from conftest import ROOT, SMALL, Script
from fork_server import ForkServer
from omegaconf import OmegaConf
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]

from headstart.metrics import Row
from headstart.report import write
from headstart.report.charts import draw_curves


def test_files(trained: Path) -> None:
    names = {p.relative_to(trained).as_posix() for p in trained.rglob("*") if p.is_file()}
    assert names >= {
        "checkpoints/best.ckpt",
        "checkpoints/last.ckpt",
        "metrics.json",
        "history.csv",
        "test_predictions.csv",
        "audit.json",
        "run.json",
        "config.yaml",
        "split.csv",
        "report/index.html",
        "report/curves.png",
    }
    assert [name for name in names if name.startswith("events.")]
    assert not [name for name in names if name.endswith(".tmp")]
    assert max((trained / "checkpoints" / n).stat().st_size for n in ("best.ckpt", "last.ckpt")) < 8e6


def test_metrics__are_those_of_the_best_epoch(trained: Path) -> None:
    metrics = json.loads((trained / "metrics.json").read_text())
    rows = list(csv.DictReader((trained / "history.csv").open()))
    assert list(rows[0]) == [
        "epoch", "lr", "train/acc", "train/f1", "train/loss", "valid/acc", "valid/f1", "valid/loss",
    ]  # fmt: skip
    best = min(rows, key=lambda row: float(row["valid/loss"]))
    assert metrics["best_epoch"] == int(best["epoch"])
    assert metrics["epochs"] == len(rows) == 3
    assert metrics["valid/loss"] == float(best["valid/loss"])
    assert set(metrics) >= {"test/acc", "test/loss", "test/f1", "valid/acc", "seconds"}


def test_run_json(trained: Path) -> None:
    record = json.loads((trained / "run.json").read_text())
    assert set(record) == {
        "started", "backbone", "data_fingerprint", "command", "git", "python", "packages", "device", "platform",
        "seconds", "skipped", "dropped", "splits", "choices", "encoded_views", "notes",
    }  # fmt: skip
    assert record["encoded_views"] == 2, "features.views=auto"
    assert record["choices"]["data"] == "folder"
    assert record["choices"]["experiment"] is None
    assert set(record["seconds"]) - {"startup"} == {"data", "model", "fit", "test", "report", "all"}
    assert len(record["backbone"]["sha256"]) == 64


def test_config__is_resolved(trained: Path) -> None:
    config: Any = OmegaConf.load(trained / "config.yaml")
    assert config["run_dir"] == str(trained)
    assert config["model"]["dropout"] == 0.4


def test_tensorboard__one_step_per_epoch_and_charts_of_both_splits(trained: Path) -> None:
    events = EventAccumulator(str(trained))
    events.Reload()
    tags = events.Tags()["scalars"]
    assert {"train/loss", "train/acc", "valid/loss", "valid/acc", "train/f1", "valid/f1", "lr"} <= set(tags)
    rows = list(csv.DictReader((trained / "history.csv").open()))
    for tag in ("train/loss", "valid/acc", "lr"):
        points = events.Scalars(tag)
        assert [point.step for point in points] == [1, 2, 3]
        assert [point.value for point in points] == pytest.approx([float(row[tag]) for row in rows])
    layout = events.Tensors("custom_scalars__config__")[0].tensor_proto.string_val[0].decode()
    for tag in ("train/loss", "valid/loss", "train/acc", "valid/acc", "valid/f1"):
        assert tag in layout


def test_curves__are_an_image(trained: Path) -> None:
    with Image.open(trained / "report" / "curves.png") as image:
        assert image.width > 800
        assert len(image.convert("L").getcolors() or []) > 20


def test_curves__show_all_epochs_even_those_after_the_best(script: Script, flat: Path, tmp_path: Path) -> None:
    drawn = []

    def record(rows: list[Row], best_epoch: int, path: Path) -> None:
        drawn.append((rows, best_epoch))
        draw_curves(rows, best_epoch, path)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(write, "draw_curves", record)
        # With so large a learning rate the validation loss soon gets worse.
        result = script(
            "train.py", f"data.root={flat}", *SMALL, *TINY, "trainer.max_epochs=4", "model.lr=0.1", "report=full"
        )
    assert result.status == 0, result.err
    ((rows, best_epoch),) = drawn
    assert best_epoch < 4
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]


def test_run_folder__is_new_for_each_run_and_named_by_data_and_backbone(script: Script, flat: Path) -> None:
    for _ in range(2):
        assert script("train.py", f"data.root={flat}", *SMALL, *TINY).status == 0
    folders = list(Path("logs").glob("flat-shufflenet_v2_x0_5/*"))
    assert len(folders) == 2
    assert all((folder / "metrics.json").exists() for folder in folders)


def test_run_folder__that_holds_a_run_is_not_overwritten(script: Script, flat: Path, trained: Path) -> None:
    before = {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()}
    result = script("train.py", f"data.root={flat}", *SMALL, f"hydra.run.dir={trained}")
    assert result.status == 1
    assert "already holds a run" in result.err
    assert {path: path.read_bytes() for path in trained.rglob("*") if path.is_file()} == before


TINY = ("data.split.train=6", "data.split.valid=3", "trainer.max_epochs=1")


def test_failed_start__never_deletes_older_files(forks: ForkServer, trained: Path, tmp_path: Path) -> None:
    shutil.copytree(trained / "checkpoints", tmp_path / "kept" / "checkpoints")
    time.sleep(0.1)
    command = (f"ckpt_path={tmp_path / 'kept' / 'checkpoints' / 'last.ckpt'}", f"hydra.run.dir={tmp_path / 'kept'}")
    assert forks.run(str(ROOT / "train.py"), *command).returncode == 1
    assert (tmp_path / "kept" / "checkpoints" / "last.ckpt").exists()


def test_sweep__its_trials_never_see_the_test_split(script: Script, flat: Path, tmp_path: Path) -> None:
    sweep = ("-m", "model.lr=0.01,0.001", f"hydra.sweep.dir={tmp_path / 'sweep'}")
    result = script("train.py", f"data.root={flat}", *SMALL, *TINY, *sweep)
    assert result.status == 0, result.err
    for trial in ("model.lr=0.01", "model.lr=0.001"):
        metrics = json.loads((tmp_path / "sweep" / trial / "metrics.json").read_text())
        assert "valid/loss" in metrics
        assert not any(name.startswith("test/") for name in metrics)


def test_home__is_expanded_from_a_tilde(
    script: Script, flat: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert script("train.py", "data.root=~/flat", *SMALL, *TINY, f"hydra.run.dir={tmp_path / 'run'}").status == 0
    result = script("train.py", "ckpt_path=~/run/checkpoints/last.ckpt", "trainer.max_epochs=2")
    assert result.status == 0, result.err
    result = script("predict.py", "ckpt_path=~/run/checkpoints/best.ckpt", "source=~/flat/red", "output=~/out")
    assert result.status == 0, result.err
    assert (tmp_path / "out" / "predictions.csv").exists()


def test_no_test_split__no_test_metrics(script: Script, flat: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    result = script(
        "train.py", f"data.root={flat}", *SMALL, *TINY, "data.split.valid=6", f"hydra.run.dir={run}", "logger=none"
    )
    assert result.status == 0
    assert not any(name.startswith("test/") for name in json.loads((run / "metrics.json").read_text()))
    assert not (run / "test_predictions.csv").exists()
    assert not list(run.glob("events*"))


def test_task_test__gives_the_same_metrics_as_the_training(script: Script, trained: Path, tmp_path: Path) -> None:
    best = trained / "checkpoints" / "best.ckpt"
    result = script("train.py", "task=test", f"ckpt_path={best}", f"hydra.run.dir={tmp_path / 'test'}")
    assert result.status == 0, result.err
    found = json.loads((tmp_path / "test" / "metrics.json").read_text())
    expected = json.loads((trained / "metrics.json").read_text())
    for name in ("test/loss", "test/acc", "test/f1"):
        assert found[name] == pytest.approx(expected[name], abs=1e-6)


def test_task_test__on_other_classes_is_an_error(script: Script, trained: Path, flat: Path) -> None:
    (flat / "red").rename(flat / "rust")
    best = trained / "checkpoints" / "best.ckpt"
    result = script("train.py", "task=test", f"ckpt_path={best}", f"data.root={flat}")
    assert result.status == 1
    assert "has the classes blue, green, rust, but the checkpoint was trained on blue, green, red" in result.err


def test_trainer__accepts_any_argument_and_a_fast_dev_run_keeps_nothing(
    script: Script, flat: Path, tmp_path: Path
) -> None:
    run = tmp_path / "run"
    result = script("train.py", f"data.root={flat}", *SMALL, *TINY, f"hydra.run.dir={run}", "trainer.fast_dev_run=true")
    assert result.status == 0, result.err
    assert not (run / "checkpoints").exists()


@pytest.mark.parametrize("cache", ["true", "false"])
def test_trainer__overfit_batches(script: Script, flat: Path, cache: str) -> None:
    settings = ("trainer.overfit_batches=1", f"features.cache={cache}")
    assert script("train.py", f"data.root={flat}", *SMALL, *TINY, *settings).status == 0


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("trainer.val_check_interval=1000", "the trainer settings were rejected by Lightning: "),
        ("trainer.accelerator=warp", "the trainer settings were rejected by Lightning: "),
        ("callbacks.checkpoint.mode=up", "callbacks.checkpoint.mode=up contradicts callbacks.checkpoint.monitor="),
        ("callbacks.early_stopping.mode=max", "callbacks.early_stopping.mode=max contradicts"),
        ("+callbacks.x._target_=os.system", "callbacks.x is invalid"),
    ],
)
def test_settings_rejected_by_lightning__are_one_sentence(
    script: Script, flat: Path, override: str, sentence: str
) -> None:
    result = script("train.py", f"data.root={flat}", *SMALL, *TINY, override)
    assert result.status == 1
    assert sentence in result.err
    assert result.err.count("\n") == 1
    assert not list(Path.cwd().iterdir())
