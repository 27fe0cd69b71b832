"""Sweeps as a user runs them."""

import csv
import json
import os
import shutil
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from conftest import ARCH, ROOT, SMALL, Result, Script, draw_classes
from fork_server import ForkServer, Process
from hydra.errors import MissingConfigException
from optuna.trial import TrialState
from runs import run_script
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator  # type: ignore[import-untyped]
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData  # type: ignore[import-untyped]
from torch import nn
from torchvision.models import get_model

from headstart.backbones.backbone import load_backbone
from headstart.config.train import TrainSettings
from headstart.datasets import open_data
from headstart.files import SWEEP, exclusively, mark, read_json
from headstart.model import image_classifier
from headstart.model.image_classifier import build_head
from headstart.model.recipe import Recipe
from headstart.program import sentence_of
from headstart.run_folder import RunFolder
from headstart.sweeping import finalize, trial

# Each runs whole trainings.
pytestmark = pytest.mark.slow

TINY = (*SMALL, "data.split.train=6", "data.split.valid=3", "trainer.max_epochs=2", "features.precision=32")
GRID = ("-m", "model.lr=0.01,0.001", "model.dropout=0.2,0.4")
SKIPPED = "already completed, skipped"


@dataclass(frozen=True)
class Grid:
    """A finished sweep of four trials: its folder, its images, and how often it prepared data and backbones."""

    folder: Path
    images: Path
    base: tuple[str, ...]
    result: Result
    calls: Counter[str]


@pytest.fixture(scope="module")
def grid(tmp_path_factory: pytest.TempPathFactory) -> Grid:
    """Run once; tests only read it, or work on a copy of its folder."""
    home = tmp_path_factory.mktemp("grid")
    images = draw_classes(home / "images", 12)
    base = (f"data.root={images}", *TINY, f"features.dir={home / 'features'}")
    with pytest.MonkeyPatch.context() as patch:
        calls = count_calls(patch)
        result = run_script(home, "train.py", *base, *GRID)
    assert result.status == 0, result.err
    (folder,) = (home / "logs").iterdir()
    return Grid(folder, images, base, result, calls)


@pytest.fixture
def copied(grid: Grid, script: Script) -> Path:
    """A copy of the grid, in the current folder."""
    return Path(shutil.copytree(grid.folder, "sweep", symlinks=True))


@pytest.fixture
def base(flat: Path, tmp_path: Path) -> tuple[str, ...]:
    return (f"data.root={flat}", *TINY, f"features.dir={tmp_path / 'features'}")


@pytest.fixture
def no_plot(monkeypatch: pytest.MonkeyPatch) -> None:
    """Saves the time that the plot of a sweep takes, which is as long as a trial, where nobody looks at it."""
    monkeypatch.setattr(finalize, "draw_sweep", lambda *arguments: None)


def count_calls(patch: pytest.MonkeyPatch) -> Counter[str]:
    """Counts, from now on, how often a sweep prepares data and backbones, by the names of the functions."""
    counts: Counter[str] = Counter()

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            counts[function.__name__] += 1
            return function(*args, **kwargs)

        return call

    for function in (open_data, load_backbone):
        patch.setattr(trial, function.__name__, counted(function))
    return counts


def board(folder: Path) -> list[dict[str, str]]:
    """The rows of a leaderboard."""
    with (folder / "leaderboard.csv").open() as file:
        return list(csv.DictReader(file))


def without_seconds(folder: Path) -> list[dict[str, str]]:
    return [row | {"seconds": ""} for row in board(folder)]


def best_in(folder: Path) -> str | None:
    """The folder of the trial whose files are in `best`; None if there are none."""
    if not (folder / "best").exists():
        return None
    (name,) = {path.resolve().parent.name for path in (folder / "best").iterdir()}
    return name


def times(folder: Path) -> dict[str, int]:
    """When each trial ended."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*=*/trial.json")}


def history(folder: Path) -> str:
    return (folder / "history.csv").read_text()


def process(forks: ForkServer, *arguments: str) -> Process:
    return forks.start(str(ROOT / "train.py"), *arguments, environment=os.environ | {"PYTHONUNBUFFERED": "1"})


def end_after(forks: ForkServer, trials: int, number: signal.Signals, *arguments: str) -> tuple[Path, dict[str, int]]:
    """Runs a sweep as a process that gets a signal after so many trials; returns its folder and when these ended."""
    running = process(forks, *arguments)
    for line in running.stdout:
        trials -= line.startswith("#")
        if not trials:
            break
    running.send_signal(number)
    _, err = running.communicate(timeout=300)
    assert running.returncode != 0
    assert ("run the same command again to continue the sweep" in err) == (number != signal.SIGKILL)
    (folder,) = Path("logs").iterdir()
    return folder, times(folder)


def test_grid__ranks_its_trials_and_tests_the_best(grid: Grid) -> None:
    assert grid.result.err == ""
    rows = board(grid.folder)
    assert len(rows) == 4
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    losses = [float(row["valid/loss"]) for row in rows]
    assert losses == sorted(losses)
    for row in rows:
        trial = grid.folder / f"model.dropout={row['model.dropout']},model.lr={row['model.lr']}"
        assert row["folder"] == trial.name
        metrics = json.loads((trial / "metrics.json").read_text())
        assert metrics["valid/loss"] == float(row["valid/loss"])
        assert metrics["best_epoch"] == int(row["best_epoch"])
        assert not any(name.startswith("test/") for name in metrics)
        assert "epoch 2/2" in (trial / "output.txt").read_text()
    # Only the best one is tested.
    assert best_in(grid.folder) == rows[0]["folder"]
    (test,) = grid.folder.glob("*=*/test/metrics.json")
    assert test.parent.parent.name == rows[0]["folder"]
    assert not list(grid.folder.glob("*=*/test_predictions.csv"))
    accuracy = json.loads(test.read_text())["test/acc"]
    assert json.loads((grid.folder / "leaderboard.json").read_text())["test"]["test/acc"] == accuracy
    assert f"test/acc {accuracy:.4f}" in grid.result.out
    assert (grid.folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert "4 trials, 0 of them failed" in grid.result.out
    assert "to predict" not in grid.result.out, "the command of a run is not that of a trial"


def test_grid__prepares_data_and_backbone_once(grid: Grid) -> None:
    assert grid.calls == {"open_data": 1, "load_backbone": 1}


def test_grid__trial_equals_a_run_of_its_own(script: Script, grid: Grid, tmp_path: Path) -> None:
    values = ("model.lr=0.001", "model.dropout=0.4")
    assert script("train.py", *grid.base, *values, f"hydra.run.dir={tmp_path / 'run'}").status == 0
    assert history(tmp_path / "run") == history(grid.folder / "model.dropout=0.4,model.lr=0.001")


def test_hparams__only_the_swept_keys(grid: Grid) -> None:
    for row in board(grid.folder):
        swept: dict[str, float] = {}
        best: dict[str, float] = {}
        for file in (grid.folder / row["folder"]).glob("events*"):
            events = EventAccumulator(str(file)).Reload()
            best |= {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"] if tag.startswith("best/")}
            for metadata in events.summary_metadata.values():
                if metadata.plugin_data.plugin_name == "hparams":
                    start = HParamsPluginData.FromString(metadata.plugin_data.content).session_start_info
                    swept |= {key: value.number_value for key, value in start.hparams.items()}
        assert swept == {key: float(row[key]) for key in ("model.lr", "model.dropout")}
        assert set(best) == {"best/valid/loss", "best/valid/acc", "best/valid/f1"}
        assert best["best/valid/loss"] == pytest.approx(float(row["valid/loss"]))
        assert "hp_metric" not in str(best)


def test_trial__its_checkpoint_predicts_and_resumes(script: Script, grid: Grid) -> None:
    # Its path, with "=" and ",", is given without quotes.
    checkpoint = f"ckpt_path={grid.folder}/model.dropout=0.2,model.lr=0.01/checkpoints/best.ckpt"
    result = script("predict.py", checkpoint, f"source={grid.images}")
    assert result.status == 0, result.err
    result = script("train.py", checkpoint, "trainer.max_epochs=3")
    assert result.status == 0, result.err
    assert "epoch 3/3" in result.out


def test_rerun__in_another_place_does_nothing_again(script: Script, grid: Grid) -> None:
    sweep = Path(shutil.copytree(grid.folder, Path("logs", grid.folder.name), symlinks=True))
    before, test = times(sweep), next(sweep.glob("*=*/test/metrics.json")).stat().st_mtime_ns
    again = script("train.py", *grid.base, "-m", "model.dropout=0.2,0.4", "model.lr=0.01,0.001")
    assert again.status == 0, again.err
    assert again.out.count(SKIPPED) == 4
    assert list(sweep.parent.iterdir()) == [sweep]
    assert times(sweep) == before
    assert next(sweep.glob("*=*/test/metrics.json")).stat().st_mtime_ns == test


@pytest.mark.usefixtures("no_plot")
def test_rerun__runs_again_what_is_not_as_it_was(
    script: Script, base: tuple[str, ...], flat: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweep = (*base, "trainer.max_epochs=1", "model.weights=weights.pth", "-m", "model.lr=0.01", "hydra.sweep.dir=sweep")
    trial = RunFolder(Path("sweep/only"))

    def runs_again() -> str:
        """Runs the sweep, and returns the fingerprint of its data."""
        before = trial.path.stat().st_mtime_ns if trial.path.exists() else 0
        result = script("train.py", *sweep)
        assert result.status == 0, result.err
        assert SKIPPED not in result.out
        assert trial.path.stat().st_mtime_ns > before
        return str(read_json(trial.record)["data_fingerprint"])

    save_weights(1)
    fingerprint = runs_again()
    # Without its images it fails, but keeps what was learned from them.
    content = trial.best.read_bytes()
    flat.rename(flat.with_name("away"))
    failed = script("train.py", *sweep)
    assert failed.status == 1
    assert "1 trials, 1 of them failed" in failed.out
    assert "Traceback" not in failed.err
    assert best_in(Path("sweep")) is None
    assert trial.best.read_bytes() == content
    flat.with_name("away").rename(flat)
    assert runs_again() == fingerprint
    save_weights(2)
    assert runs_again() == fingerprint
    calls = count_calls(monkeypatch)
    draw_classes(flat, 1, first_seed=77)
    assert runs_again() != fingerprint
    trial.best.unlink()
    runs_again()
    # Each sweep prepared data and backbone, though it was run in the process of those before.
    assert calls == {"open_data": 2, "load_backbone": 2}
    assert not trial.last.exists()


def save_weights(seed: int) -> None:
    torch.manual_seed(seed)
    torch.save(get_model(ARCH).state_dict(), "weights.pth")


def test_failing__recorded_and_the_sweep_continues(
    script: Script, base: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def out_of_memory(recipe: Recipe, embedding_dim: int) -> nn.Module:
        if recipe.lr == 0.07:
            raise MemoryError("no more")
        return build_head(recipe, embedding_dim)

    monkeypatch.setattr(image_classifier, "build_head", out_of_memory)
    # What is in the place of the links to the best trial is somebody else's.
    folder = Path("sweep")
    mark(folder, SWEEP)
    (folder / "best").touch()
    # An invalid value, a loss that becomes NaN, no memory, no such key, and a trial that completes.
    sweep = ("-m", "model.lr=-1,1e30,0.07,${nosuch},0.01", "trainer.max_epochs=3", "hydra.sweep.dir=sweep")
    result = script("train.py", *base, *sweep)
    assert result.status == 1
    assert "warning: sweep/best could not be linked to the best trial: " in result.err
    rows = board(folder)
    reasons = {row["folder"]: row["reason"] for row in rows}
    assert [row["rank"] for row in rows] == ["1", "", "", "", ""]
    assert rows[0]["folder"] == "model.lr=0.01"
    assert reasons["model.lr=0.01"] == ""
    assert reasons["model.lr=0.07"] == "out of memory: no more"
    assert "model.lr=-1.0 is invalid" in reasons["model.lr=-1"]
    assert any("nosuch" in reason for reason in reasons.values())
    diverged = folder / "model.lr=1e+30"
    assert "the training loss became" in reasons[diverged.name]
    assert len((diverged / "output.txt").read_text().split("epoch ")) <= 3, "NaN ends a trial immediately"
    assert "5 trials, 4 of them failed" in result.out
    assert "MemoryError" in (folder / "model.lr=0.07" / "traceback.txt").read_text()
    # Failed trials are run again, the others are kept.
    (folder / "best").unlink()
    monkeypatch.setattr(image_classifier, "build_head", build_head)
    again = script("train.py", *base, *sweep)
    assert "5 trials, 3 of them failed" in again.out
    assert again.out.count(SKIPPED) == 1
    assert best_in(folder) == board(folder)[0]["folder"]
    assert not (folder / "model.lr=0.07" / "traceback.txt").exists()


def test_failing__every_trial(script: Script, base: tuple[str, ...]) -> None:
    result = script("train.py", *base, "-m", "sweep=optuna", "model.lr=-1", "hydra.sweeper.n_trials=2")
    assert result.status == 1
    assert "2 trials, 2 of them failed" in result.out
    assert "Traceback" not in result.err
    (folder,) = Path("logs").iterdir()
    assert not (folder / "best").exists()


@pytest.mark.usefixtures("no_plot")
def test_killed__the_same_command_continues_the_sweep(
    script: Script, forks: ForkServer, tmp_path: Path, grid: Grid
) -> None:
    command = (*grid.base, f"features.dir={tmp_path / 'features'}", *GRID)
    folder, completed = end_after(forks, 1, signal.SIGKILL, *command)
    assert {row["folder"] for row in board(folder)} <= set(completed)
    assert 1 <= len(completed) < 4
    again = script("train.py", *command)
    assert again.status == 0, again.err
    assert again.out.count(SKIPPED) == len(completed)
    assert times(folder) | completed == times(folder)
    assert without_seconds(folder) == without_seconds(grid.folder)


SEARCH = ("-m", "sweep=optuna", "hydra.sweeper.n_trials=3", "hydra.sweeper.sampler.n_startup_trials=2")


def test_optuna__interrupted_search_continues_exactly(
    script: Script, forks: ForkServer, tmp_path: Path, grid: Grid
) -> None:
    command = (*grid.base, *SEARCH, "sweep.objective=valid/acc")
    folder, completed = end_after(forks, 2, signal.SIGINT, *command)
    again = script("train.py", *command)
    assert again.status == 0, again.err
    assert again.out.count(SKIPPED) == len(completed)
    assert len(times(folder)) == 3
    rows = board(folder)
    assert all("data.batch_size" not in row for row in rows), "fixed on the command line"
    accuracies = [float(row["valid/acc"]) for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert json.loads((folder / "leaderboard.json").read_text())["order"] == "highest first"
    assert "best_value" in (folder / "optimization_results.yaml").read_text()
    script("train.py", *command, f"hydra.sweep.dir={tmp_path / 'whole'}")
    assert without_seconds(folder) == without_seconds(tmp_path / "whole")


@pytest.mark.usefixtures("no_plot")
def test_optuna__in_a_database_repeats_nothing(script: Script, forks: ForkServer, tmp_path: Path, grid: Grid) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    command = (*grid.base, "trainer.max_epochs=1", *SEARCH, f"hydra.sweeper.storage={storage}")
    folder, completed = end_after(forks, 2, signal.SIGKILL, *command)
    again = script("train.py", *command)
    assert again.status == 0, again.err
    # At most the one whose end is not in the database.
    assert again.out.count(SKIPPED) <= 1
    assert times(folder) | completed == times(folder)
    study = optuna.load_study(study_name=folder.name, storage=storage)
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert len(complete) == len(times(folder)) == 3
    assert len({json.dumps(trial.params, sort_keys=True) for trial in complete}) == 3
    assert study.best_value == pytest.approx(float(board(folder)[0]["valid/loss"]))
    assert script("train.py", *command).out.count("#") == 0, "nothing is left to do"
    assert len(study.get_trials()) == 4, "the three, and the one that was killed"
    # What the database has, but the folder does not, runs again.
    shutil.rmtree(folder)
    again = script("train.py", *command)
    assert again.status == 0, again.err
    assert {row["folder"] for row in board(folder)} == set(completed) | set(times(folder))
    assert len(times(folder)) == 3


def test_parallel__same_results_as_one_after_the_other(forks: ForkServer, tmp_path: Path, grid: Grid) -> None:
    # Both trials start with the same views, which are not in the store yet.
    sweep = (*grid.base, "-m", "model.lr=0.01,0.001", "model.dropout=0.4", f"features.dir={tmp_path / 'features'}")
    parallel = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={tmp_path / 'parallel'}")
    running = process(forks, *sweep, *parallel)
    _, err = running.communicate(timeout=180)
    assert running.returncode == 0, err
    views = list((tmp_path / "features").rglob("*.npy"))
    assert len(views) == 2 + 1 + 1, "two of the train split, one of valid, one of the best trial's test"
    found, in_turn = (
        {row["model.lr"]: float(row["valid/loss"]) for row in board(folder) if row.get("model.dropout") != "0.2"}
        for folder in (tmp_path / "parallel", grid.folder)
    )
    assert len(found) == 2
    assert found == pytest.approx(in_turn, abs=1e-6)


def test_cluster__with_the_local_executor(
    script: Script, forks: ForkServer, base: tuple[str, ...], tmp_path: Path
) -> None:
    # Its jobs, `python -u -m submitit.core._submit FOLDER`, start without the seconds that their imports take.
    job, python = tmp_path / "job.py", tmp_path / "python"
    job.write_text("from submitit.core.submission import submitit_main\n\nsubmitit_main()\n")
    python.write_text(f'#!/bin/sh\nexec {forks.python} {job} "$4"\n')
    python.chmod(0o755)
    launcher = ("hydra/launcher=submitit_local", f"+hydra.launcher.python={python}")
    running = process(forks, *base, "-m", "model.lr=0.01,-1", *launcher)
    out, err = running.communicate(timeout=240)
    assert running.returncode == 1, err
    assert "2 trials, 1 of them failed" in out, err
    (folder,) = Path("logs").iterdir()
    assert [row["folder"] for row in board(folder)] == ["model.lr=0.01", "model.lr=-1"]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("ckpt_path=x.ckpt", "ckpt_path cannot be combined with a sweep (-m)"),
        ("callbacks.checkpoint=null", "a sweep (-m) needs callbacks.checkpoint"),
        ("trainer.fast_dev_run=true", "no trainer.fast_dev_run"),
        ("sweep.objective=valid/loss,valid/acc", "sweep.objective cannot have several values"),
        ("hydra.sweep.subdir=x", "hydra.sweep.subdir cannot be set"),
        ("trainer.strategy=ddp", "trainer.strategy=ddp cannot be used in a sweep (-m), because each trial"),
        ("trainer.devices=2", "trainer.devices=2 cannot be used in a sweep (-m)"),
        ("task=test", "task=test cannot be swept"),
        ("sweep.objective=test/acc", "sweep.objective=test/acc is invalid"),
    ],
)
def test_rejected__before_the_first_trial(script: Script, base: tuple[str, ...], override: str, sentence: str) -> None:
    Path("x.ckpt").touch()
    result = script("train.py", *base, "-m", "model.lr=0.01,0.001", override)
    assert result.status == 1
    assert sentence in result.err
    assert result.err.count("\n") == 1
    assert result.out == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("hydra/launcher=slurm", "model.lr=0.01,0.001"), "are you indeed on a slurm cluster"),
        (("sweep=optuna", "model.lr=interval(2,1)"), "low"),
        (("model.lr=0.01,0.001", "--cfg", "job"), "Only one of"),
        (("sweep=optuna", "hydra.sweeper.storage=foo"), "hydra.sweeper.storage=foo cannot be used"),
        (("model.lr=range(3,1)",), "is there anything to sweep over"),
        (
            ("hydra/launcher=joblb", "model.lr=0.01,0.001"),
            "hydra/launcher=joblb is not available: did you mean joblib?",
        ),
        (("model.lrr=0.01,0.001",), "did you mean 'model.lr'"),
    ],
)
def test_rejected__in_one_sentence(
    script: Script, base: tuple[str, ...], arguments: tuple[str, ...], sentence: str
) -> None:
    result = script("train.py", *base, "-m", *arguments)
    assert result.status == 1
    assert sentence in result.err
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1


def test_rejected__search_without_the_flag(script: Script) -> None:
    assert script("train.py", "sweep=optuna").err == "error: sweep= chooses the trials of a sweep, and needs -m\n"


def test_rejected__folder_of_another_sweep(script: Script, grid: Grid) -> None:
    before = times(grid.folder)
    # The flag may be shortened.
    other = ("--multi", "model.lr=0.01,0.003", "model.dropout=0.6", f"hydra.sweep.dir={grid.folder}")
    result = script("train.py", *grid.base, *other)
    assert result.status == 1
    assert result.err == f"error: {grid.folder} holds another sweep: choose another hydra.sweep.dir\n"
    assert times(grid.folder) == before != {}


def test_rejected__plugin_that_is_not_installed() -> None:
    error = MissingConfigException("In 'train': Could not find 'hydra/sweeper/optuna'\nAvailable options: basic")
    assert 'pip install -e ".[sweep]"' in sentence_of(error, TrainSettings)


def test_rejected__second_process_running_the_same_sweep(script: Script, base: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    with exclusively(folder / "sweep"):
        result = script("train.py", *base, *GRID, f"hydra.sweep.dir={folder}")
    assert result.status == 1
    assert result.err == f"error: another process is running this sweep: {folder}\n"
