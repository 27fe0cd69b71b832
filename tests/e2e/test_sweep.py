"""Sweeps as a user runs them."""

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import optuna
import pytest
import torch
from conftest import ARCH, ROOT, SMALL, Script, draw_classes
from hydra.errors import MissingConfigException
from optuna.trial import TrialState
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

from headstart.cli import _sentence
from headstart.files import lock_for
from headstart.model import classifier
from headstart.model.backbone import build_network
from headstart.settings import TrainSettings

TINY = (*SMALL, "data.split.train=6", "data.split.valid=3", "trainer.max_epochs=2")
GRID = ("-m", "model.lr=0.01,0.001", "model.dropout=0.2,0.4")


@pytest.fixture
def base(flat: Path, tmp_path: Path) -> tuple[str, ...]:
    return (f"data.root={flat}", *TINY, f"features.dir={tmp_path / 'features'}")


def board(folder: Path) -> tuple[list[str], list[dict[str, str]]]:
    """The comment lines and the rows of a leaderboard."""
    lines = (folder / "leaderboard.csv").read_text().splitlines()
    comments = [line for line in lines if line.startswith("#")]
    return comments, list(csv.DictReader(lines[len(comments) :]))


def times(folder: Path) -> dict[str, int]:
    """When each trial was over."""
    return {path.parent.name: path.stat().st_mtime_ns for path in folder.glob("*=*/trial.json")}


def process(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
        # A shell starts its background jobs, maybe these tests, with SIGINT ignored, and that is inherited.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


def end_after(trials: int, number: signal.Signals, *arguments: str) -> tuple[Path, dict[str, int]]:
    """Runs a sweep as a process that gets a signal when so many trials are over; returns its folder and those."""
    running = process(*arguments)
    assert running.stdout is not None
    for line in running.stdout:
        trials -= line.startswith("#")
        if not trials:
            break
    running.send_signal(number)
    _, err = running.communicate(timeout=60)
    assert running.returncode != 0
    assert ("the same command goes on" in err) == (number != signal.SIGKILL)
    (folder,) = Path("logs").iterdir()
    return folder, times(folder)


def test_grid__which_was_best_and_where(script: Script, base: tuple[str, ...]) -> None:
    result = script("train.py", *base, *GRID)
    assert result.status == 0, result.err
    assert result.err == ""
    (folder,) = Path("logs").iterdir()
    comments, rows = board(folder)
    assert len(rows) == 4
    assert [row["rank"] for row in rows] == ["1", "2", "3", "4"]
    losses = [float(row["valid/loss"]) for row in rows]
    assert losses == sorted(losses)
    for row in rows:
        trial = folder / f"model.dropout={row['model.dropout']},model.lr={row['model.lr']}"
        assert row["folder"] == trial.name
        metrics = json.loads((trial / "metrics.json").read_text())
        assert metrics["valid/loss"] == float(row["valid/loss"])
        assert metrics["best_epoch"] == int(row["best_epoch"])
        assert not any(name.startswith("test/") for name in metrics)
        assert "epoch 2/2" in (trial / "output.txt").read_text()
    # The best one alone is tested.
    assert (folder / "best").readlink() == Path(rows[0]["folder"])
    (test,) = folder.glob("*=*/test/metrics.json")
    assert test.parent.parent.name == rows[0]["folder"]
    accuracy = json.loads(test.read_text())["test/acc"]
    assert f"test/acc {accuracy:.4f}" in comments[1]
    assert f"test/acc {accuracy:.4f}" in result.out
    assert (folder / "sweep.png").read_bytes().startswith(b"\x89PNG")
    assert "4 trials, 0 of them failed" in result.out


def test_trial__is_the_run_of_its_overrides(script: Script, base: tuple[str, ...], tmp_path: Path) -> None:
    assert script("train.py", *base, "-m", "model.lr=0.01,0.002").status == 0
    assert script("train.py", *base, "model.lr=0.002", f"hydra.run.dir={tmp_path / 'run'}").status == 0
    (trial,) = Path("logs").glob("*/model.lr=0.002")
    assert (trial / "history.csv").read_text() == (tmp_path / "run" / "history.csv").read_text()


def test_again__nothing_is_done_twice(script: Script, base: tuple[str, ...]) -> None:
    script("train.py", *base, *GRID)
    (folder,) = Path("logs").iterdir()
    before, test = times(folder), next(folder.glob("*=*/test/metrics.json")).stat().st_mtime_ns
    again = script("train.py", *base, "-m", "model.dropout=0.2,0.4", "model.lr=0.01,0.001")
    assert again.status == 0, again.err
    assert again.out.count("there already") == 4
    assert list(Path("logs").iterdir()) == [folder]
    assert times(folder) == before
    assert next(folder.glob("*=*/test/metrics.json")).stat().st_mtime_ns == test


def test_again__with_other_pictures_is_another_trial(script: Script, base: tuple[str, ...], flat: Path) -> None:
    sweep = ("-m", "model.lr=0.01,0.001")
    script("train.py", *base, *sweep)
    (folder,) = Path("logs").iterdir()
    before = times(folder)
    draw_classes(flat, 1, first_seed=77)
    again = script("train.py", *base, *sweep)
    assert "there already" not in again.out
    assert all(after > before[name] for name, after in times(folder).items())
    assert not list(folder.glob("*=*/checkpoints/last.ckpt"))


def test_again__elsewhere(script: Script, base: tuple[str, ...], monkeypatch: pytest.MonkeyPatch) -> None:
    sweep = ("-m", "model.lr=0.01,0.001", "hydra.sweep.dir=sweep")
    script("train.py", *base, *sweep)
    moved = Path.cwd().rename(Path.cwd().with_name("moved"))
    monkeypatch.chdir(moved)
    assert script("train.py", *base, *sweep).out.count("there already") == 2


def test_again__without_its_pictures_loses_nothing(script: Script, base: tuple[str, ...], flat: Path) -> None:
    sweep = ("-m", "model.lr=0.01,0.001", "hydra.sweep.dir=sweep")
    script("train.py", *base, *sweep)
    kept = list(Path("sweep").glob("*=*/checkpoints/best.ckpt"))
    flat.rename(flat.with_name("away"))
    result = script("train.py", *base, *sweep)
    assert result.status == 1
    assert "2 trials, 2 of them failed" in result.out
    assert not Path("sweep/best").is_symlink()
    assert list(Path("sweep").glob("*=*/checkpoints/best.ckpt")) == kept != []
    flat.with_name("away").rename(flat)
    assert script("train.py", *base, *sweep).status == 0


def test_again__with_other_weights_or_without_its_checkpoint(script: Script, base: tuple[str, ...]) -> None:
    sweep = ("-m", "model.lr=0.01,0.001", "hydra.sweep.dir=sweep", "model.weights=weights.pth")
    for seed in (1, 2):
        torch.save(build_network(ARCH, seed).state_dict(), "weights.pth")
        result = script("train.py", *base, *sweep)
        assert result.status == 0, result.err
        assert "there already" not in result.out
    next(Path("sweep").glob("*=*/checkpoints/best.ckpt")).unlink()
    assert script("train.py", *base, *sweep).out.count("there already") == 1


def test_path_of_a_trial__can_be_given_as_it_is(script: Script, base: tuple[str, ...], flat: Path) -> None:
    script("train.py", *base, *GRID, "hydra.sweep.dir=sweep")
    checkpoint = "ckpt_path=sweep/model.dropout=0.2,model.lr=0.01/checkpoints/best.ckpt"
    result = script("predict.py", checkpoint, f"source={flat}")
    assert result.status == 0, result.err
    result = script("train.py", checkpoint, "trainer.max_epochs=3")
    assert result.status == 0, result.err
    assert "epoch 3/3" in result.out


def test_broken__one_trial_or_the_link(script: Script, base: tuple[str, ...]) -> None:
    Path("sweep/best").mkdir(parents=True)
    result = script("train.py", *base, "-m", "model.lr=0.01,${nosuch}", "hydra.sweep.dir=sweep")
    assert result.status == 1
    assert "2 trials, 1 of them failed" in result.out
    assert "warning: sweep/best cannot be made to point at the best trial" in result.err
    assert "nosuch" in board(Path("sweep"))[1][1]["reason"]
    assert board(Path("sweep"))[1][0]["folder"] == "model.lr=0.01"


def test_killed__the_same_command_goes_on(script: Script, tmp_path: Path, base: tuple[str, ...]) -> None:
    command = (*base, "-m", "model.lr=0.01,0.003,0.001,0.0003", "trainer.max_epochs=8")
    folder, done = end_after(2, signal.SIGKILL, *command)
    assert {row["folder"] for row in board(folder)[1]} <= set(done)
    assert 2 <= len(done) < 4
    again = script("train.py", *command)
    assert again.status == 0, again.err
    assert again.out.count("there already") == len(done)
    assert times(folder) | done == times(folder)
    script("train.py", *command, f"hydra.sweep.dir={tmp_path / 'whole'}")
    assert without_seconds(folder) == without_seconds(tmp_path / "whole")


def without_seconds(folder: Path) -> list[dict[str, str]]:
    return [row | {"seconds": ""} for row in board(folder)[1]]


SEARCH = ("-m", "sweep=optuna", "hydra.sweeper.n_trials=4", "hydra.sweeper.sampler.n_startup_trials=2")


def test_optuna__interrupted_goes_on_exactly(script: Script, tmp_path: Path, base: tuple[str, ...]) -> None:
    folder, done = end_after(2, signal.SIGINT, *base, *SEARCH)
    again = script("train.py", *base, *SEARCH)
    assert again.status == 0, again.err
    assert again.out.count("there already") == len(done)
    assert len(times(folder)) == 4
    assert all("data.batch_size" not in row for row in board(folder)[1]), "what the command line fixes is not swept"
    script("train.py", *base, *SEARCH, f"hydra.sweep.dir={tmp_path / 'whole'}")
    assert without_seconds(folder) == without_seconds(tmp_path / "whole")


def test_optuna__in_a_database_repeats_nothing(script: Script, tmp_path: Path, base: tuple[str, ...]) -> None:
    storage = f"sqlite:///{tmp_path}/study.db"
    command = (*base, *SEARCH, f"hydra.sweeper.storage={storage}")
    folder, done = end_after(2, signal.SIGKILL, *command)
    again = script("train.py", *command)
    assert again.status == 0, again.err
    # At most the one that the database did not hear the end of.
    assert again.out.count("there already") <= 1
    assert times(folder) | done == times(folder)
    study = optuna.load_study(study_name=folder.name, storage=storage)
    complete = study.get_trials(states=(TrialState.COMPLETE,))
    assert len(complete) == len(times(folder)) == 4
    assert len({json.dumps(trial.params, sort_keys=True) for trial in complete}) == 4
    assert study.best_value == pytest.approx(float(board(folder)[1][0]["valid/loss"]))
    assert script("train.py", *command).out.count("#") == 0, "there is nothing left to do"
    assert len(study.get_trials()) == 5, "the four, and the one that was killed"
    # What the database has, and the folder has not, is done again.
    shutil.rmtree(folder)
    again = script("train.py", *command)
    assert again.status == 0, again.err
    assert {row["folder"] for row in board(folder)[1]} == set(done) | set(times(folder))
    assert len(times(folder)) == 4


def test_objective__accuracy_goes_up(script: Script, base: tuple[str, ...]) -> None:
    options = ("hydra.sweeper.n_trials=3", "sweep.objective=valid/acc", "model.lr=choice(0.01,1e-7)")
    result = script("train.py", *base, "-m", "sweep=optuna", *options)
    assert result.status == 0, result.err
    (folder,) = Path("logs").iterdir()
    comments, rows = board(folder)
    accuracies = [float(row["valid/acc"]) for row in rows]
    assert accuracies == sorted(accuracies, reverse=True)
    assert "by valid/acc, the highest first" in comments[0]
    assert "best_value" in (folder / "optimization_results.yaml").read_text()


def test_failing__is_recorded_and_the_sweep_goes_on(
    script: Script, base: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def exhausted(dim: int, hidden: int, classes: int, dropout: float) -> None:
        if hidden == 77:
            raise MemoryError("no more")
        return build(dim, hidden, classes, dropout)

    build = classifier.build_head
    monkeypatch.setattr(classifier, "build_head", exhausted)
    # A bad value, a loss that is no number, no memory, and one that works.
    result = script("train.py", *base, "-m", "model.lr=-1,1e30,0.01", "model.hidden_dim=77,8", "trainer.max_epochs=5")
    assert result.status == 1
    (folder,) = Path("logs").iterdir()
    _, rows = board(folder)
    reasons = {row["folder"]: row["reason"] for row in rows}
    assert [row["rank"] for row in rows] == ["1", "", "", "", "", ""]
    assert reasons["model.hidden_dim=8,model.lr=0.01"] == ""
    assert reasons["model.hidden_dim=77,model.lr=0.01"] == "out of memory: no more"
    assert "model.lr=-1.0 cannot work" in reasons["model.hidden_dim=8,model.lr=-1"]
    diverged = folder / "model.hidden_dim=8,model.lr=1e+30"
    assert "the training loss became" in reasons[diverged.name]
    assert len((diverged / "output.txt").read_text().split("epoch ")) <= 3, "a loss that is no number ends it at once"
    assert (folder / "best").readlink() == Path("model.hidden_dim=8,model.lr=0.01")
    assert "6 trials, 5 of them failed" in result.out
    assert "MemoryError" in (folder / "model.hidden_dim=77,model.lr=0.01" / "traceback.txt").read_text()
    # What failed is tried again, what has not is kept.
    monkeypatch.setattr(classifier, "build_head", build)
    again = script("train.py", *base, "-m", "model.lr=-1,1e30,0.01", "model.hidden_dim=77,8", "trainer.max_epochs=5")
    assert "6 trials, 4 of them failed" in again.out
    assert again.out.count("there already") == 1


@pytest.mark.parametrize("sweep", [("model.lr=-1,-2",), ("sweep=optuna", "model.lr=-1", "hydra.sweeper.n_trials=2")])
def test_failing__all_of_them(script: Script, base: tuple[str, ...], sweep: tuple[str, ...]) -> None:
    result = script("train.py", *base, "-m", *sweep)
    assert result.status == 1
    assert "2 trials, 2 of them failed" in result.out
    assert "Traceback" not in result.err
    (folder,) = Path("logs").iterdir()
    assert not (folder / "best").exists()


def test_hparams__the_swept_keys_and_no_more(script: Script, base: tuple[str, ...]) -> None:
    script("train.py", *base, *GRID)
    (folder,) = Path("logs").iterdir()
    for row in board(folder)[1]:
        swept, best = {}, {}
        for file in (folder / row["folder"]).glob("events*"):
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


def test_at_once__as_one_after_the_other(script: Script, tmp_path: Path, base: tuple[str, ...]) -> None:
    # The two begin with the same views, which are not there yet.
    sweep = (*base, "-m", "model.lr=0.01,0.001", "features.precision=32")
    at_once = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2", f"hydra.sweep.dir={tmp_path / 'at_once'}")
    running = process(*sweep, *at_once)
    _, err = running.communicate(timeout=180)
    assert running.returncode == 0, err
    views = list((tmp_path / "features").rglob("*.npy"))
    assert len(views) == 2 + 1 + 1, "two of the train split, one of valid, one of the best trial's test"
    in_turn = (f"hydra.sweep.dir={tmp_path / 'in_turn'}", f"features.dir={tmp_path / 'cold'}")
    assert script("train.py", *sweep, *in_turn).status == 0
    for one, other in zip(*(board(tmp_path / name)[1] for name in ("at_once", "in_turn")), strict=True):
        assert one["folder"] == other["folder"]
        assert float(one["valid/loss"]) == pytest.approx(float(other["valid/loss"]), abs=1e-6)


def test_cluster__by_the_local_executor(script: Script, base: tuple[str, ...]) -> None:
    running = process(*base, "-m", "model.lr=0.01,-1", "hydra/launcher=submitit_local")
    out, err = running.communicate(timeout=240)
    assert running.returncode == 1, err
    assert "2 trials, 1 of them failed" in out
    (folder,) = Path("logs").iterdir()
    assert [row["folder"] for row in board(folder)[1]] == ["model.lr=0.01", "model.lr=-1"]


@pytest.mark.parametrize(
    ("override", "sentence"),
    [
        ("ckpt_path=x.ckpt", "ckpt_path cannot be given to a sweep"),
        ("callbacks.checkpoint=null", "a sweep (-m) needs callbacks.checkpoint"),
        ("trainer.fast_dev_run=true", "no trainer.fast_dev_run"),
        ("sweep.objective=valid/loss,valid/acc", "sweep.objective cannot have several values"),
        ("hydra.sweep.subdir=x", "hydra.sweep.subdir cannot be given"),
        ("trainer.strategy=ddp", "trainer.strategy=ddp cannot work in a sweep (-m): each process"),
        ("trainer.devices=2", "trainer.devices=2 cannot work in a sweep (-m)"),
        ("task=test", "task=test cannot be swept"),
        ("sweep.objective=test/acc", "sweep.objective=test/acc cannot work"),
    ],
)
def test_refused__before_the_first_trial(script: Script, base: tuple[str, ...], override: str, sentence: str) -> None:
    result = script("train.py", *base, "-m", "model.lr=0.01,0.001", override)
    assert result.status == 1
    assert sentence in result.err
    assert result.err.count("\n") == 1
    assert result.out == ""


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("hydra/launcher=submitit_slurm", "model.lr=0.01,0.001"), "are you indeed on a slurm cluster"),
        (("sweep=optuna", "model.lr=interval(2,1)"), "low"),
        (("model.lr=0.01,0.001", "--cfg", "job"), "Only one of"),
        (("sweep=optuna", "hydra.sweeper.storage=foo"), "hydra.sweeper.storage=foo cannot be used"),
        (("model.lr=range(3,1)",), "is there anything to sweep over"),
        (("hydra/launcher=joblb", "model.lr=0.01,0.001"), "Could not find 'hydra/launcher/joblb'"),
        (("model.lrr=0.01,0.001",), "did you mean 'model.lr'"),
    ],
)
def test_refused__in_one_sentence(
    script: Script, base: tuple[str, ...], arguments: tuple[str, ...], sentence: str
) -> None:
    result = script("train.py", *base, "-m", *arguments)
    assert result.status == 1
    assert sentence in result.err
    assert result.err.startswith("error: ")
    assert result.err.count("\n") == 1


def test_refused__a_search_without_the_flag(script: Script) -> None:
    assert script("train.py", "sweep=optuna").err == "error: sweep= chooses the trials of a sweep, and needs -m\n"


def test_refused__the_folder_of_another_sweep(script: Script, base: tuple[str, ...]) -> None:
    assert script("train.py", *base, "--multi", "model.lr=0.01,0.001", "hydra.sweep.dir=shared").status == 0
    before = times(Path("shared"))
    result = script("train.py", *base, "-m", "model.lr=0.01,0.003", "model.dropout=0.6", "hydra.sweep.dir=shared")
    assert result.status == 1
    assert result.err == "error: shared holds another sweep: choose another hydra.sweep.dir\n"
    assert times(Path("shared")) == before != {}


def test_refused__a_plugin_that_is_not_installed() -> None:
    error = MissingConfigException("In 'train': Could not find 'hydra/sweeper/optuna'\nAvailable options: basic")
    assert 'pip install -e ".[sweep]"' in _sentence(error, TrainSettings)


def test_refused__a_second_process_at_the_same_sweep(script: Script, base: tuple[str, ...], tmp_path: Path) -> None:
    folder = tmp_path / "sweep"
    with lock_for(folder / "sweep"):
        result = script("train.py", *base, *GRID, f"hydra.sweep.dir={folder}")
    assert result.status == 1
    assert "another process is at this sweep" in result.err
