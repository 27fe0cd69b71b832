"""What people type: it is done where it is certain, and paths may have any name."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SMALL, Script, draw_classes

from headstart import __main__ as entry
from headstart.cli import main as programs

# Each runs whole trainings.
pytestmark = pytest.mark.slow


def test_train__does_what_was_meant(script: Script, flat: Path) -> None:
    more = [word for word in SMALL if not word.startswith(("data=", "trainer.max_epochs="))]
    result = script("train.py", str(flat), "--epochs", "1", "lr=1e-2", *more, "hydra.run.dir=run")
    assert result.status == 0, result.err
    said = f"read as: data=folder data.root={flat} trainer.max_epochs=1 model.lr=1e-2\n"
    assert result.out.startswith(said)
    assert "  lr: 0.01\n" in Path("run/config.yaml").read_text()


def test_train__what_is_not_certain_leaves_nothing_behind(script: Script) -> None:
    result = script("train.py", "name=mine", "epochs=3")
    assert result.status == 1
    assert result.err == "error: name=mine is not a setting: did you mean hydra.run.dir=mine?\n"
    assert not list(Path.cwd().iterdir())


def test_predict__a_checkpoint_and_images_in_any_order(script: Script, trained: Path) -> None:
    red = trained.parent / "images" / "red"
    for arguments in ([trained, red], [red / "0.jpg", red / "1.jpg", trained / "checkpoints" / "best.ckpt"]):
        result = script("predict.py", *map(str, arguments))
        assert result.status == 0, result.err
        assert result.out.startswith("read as: ")
        assert "1.jpg" in result.out


def test_headstart__a_task_on_the_newest_run(script: Script, trained: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(trained, "logs/a/b")
    written = set(Path("logs").rglob("metrics.json"))
    monkeypatch.setattr(sys, "argv", ["headstart", "test", "last"])
    entry.main()
    assert set(Path("logs").rglob("metrics.json")) > written
    monkeypatch.setattr(programs, "start", lambda program: started.append((program, *sys.argv[1:])))
    started: list[tuple[object, ...]] = []
    for command in ("report", "export"):
        monkeypatch.setattr(sys, "argv", ["headstart", command, "last"])
        entry.main()
    assert started == [(programs.TRAIN, "task=report", "last"), (programs.TRAIN, "task=export", "last")]


def test_predict__takes_the_best_checkpoint_of_a_run_folder(script: Script, trained: Path) -> None:
    result = script("predict.py", f"ckpt_path={trained}", f"source={trained.parent / 'images' / 'red'}")
    assert result.status == 0, result.err
    assert len(result.out.splitlines()) == 12


NAMES = ("Müller", "two words", "a,b", "x=1", "[1]", "{2}", "it's", "50%", "$HOME", "名前")


def test_names__any_that_the_file_system_allows(script: Script, trained: Path, tmp_path: Path) -> None:
    for name in NAMES:
        root, run = draw_classes(tmp_path / name / "images", 6), tmp_path / name / "run"
        result = script("train.py", "task=audit", f"data.root={root}", *SMALL, f"hydra.run.dir={run}")
        assert result.status == 0, (name, result.err)
        output = tmp_path / name / "new"
        result = script("predict.py", f"ckpt_path={trained}", f"source={root / 'red' / '0.jpg'}", f"output={output}")
        assert result.status == 0, (name, result.err)
        assert len((output / "predictions.csv").read_text().splitlines()) == 2, name


def test_names__of_a_run_and_its_images(script: Script, tmp_path: Path) -> None:
    folder = Path(tmp_path, *NAMES)
    root, run = draw_classes(folder / "images", 12), folder / "run"
    result = script("train.py", f"data.root={root}", *SMALL, "trainer.max_epochs=1", f"hydra.run.dir={run}")
    assert result.status == 0, result.err
    best = run / "checkpoints" / "best.ckpt"
    result = script("predict.py", f"ckpt_path={best}", f"source={root / 'red'}", f"output={folder / 'new'}")
    assert result.status == 0, result.err
    assert (folder / "new" / "predictions.csv").is_file()


def test_missing__checkpoint_architecture_or_weights_before_any_data(script: Script) -> None:
    for argument, sentence in (
        ("ckpt_path=none.ckpt", "none.ckpt does not exist"),
        ("model.arch=resnet51", "model.arch=resnet51"),
        ("model.weights=none.pth", "none.pth"),
    ):
        # The default data would have to be downloaded.
        result = script("train.py", argument, "data.url=http://127.0.0.1:1/archive.tar")
        assert result.status == 1
        assert sentence in result.err
        assert "download" not in result.out + result.err


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    # Random weights differ between the levels of instructions that PyTorch may be told to use.
    kept = ("PATH", "PYTHONPATH", "ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA")
    given = {name: os.environ[name] for name in kept if name in os.environ} | environment
    return subprocess.run(["bash", "-c", " ".join(command)], capture_output=True, text=True, env=given, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("script_name", ["train.py", "predict.py"])
def test_closed_pipe_and_version__end_in_silence(script_name: str) -> None:
    python = f"{sys.executable} {ROOT / script_name}"
    done = run(f"{python} --help | head -1")
    assert (done.stderr, len(done.stdout.splitlines())) == ("", 1)
    assert "headstart" in run(f"{python} --version").stdout


def test_no_home__a_prediction_works(trained: Path, tmp_path: Path) -> None:
    best, image = trained / "checkpoints" / "best.ckpt", trained.parent / "images" / "red" / "0.jpg"
    command = f"{sys.executable} {ROOT / 'predict.py'} ckpt_path={best} source={image}"
    done = run(command, HEADSTART_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert "0.jpg" in done.stdout
