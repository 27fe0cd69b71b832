"""What people type: each gets the right command, and paths may have any name."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SMALL, Script, draw_classes

# Each runs whole trainings.
pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("epochs=3",), "trainer.max_epochs=3"),
        (("lr=1e-3",), "model.lr=1e-3"),
        (("batch_size=16",), "data.batch_size=16"),
        (("num_workers=2",), "data.num_workers=2"),
        (("arch=resnet18",), "model.arch=resnet18"),
        (("model=resnet18",), "model.arch=resnet18"),
        (("--lr", "1e-3"), "model.lr=1e-3"),
        (("--epochs", "3"), "trainer.max_epochs=3"),
        (("--batch-size=8",), "data.batch_size=8"),
    ],
)
def test_train__names_the_key_that_was_meant(script: Script, arguments: tuple[str, ...], sentence: str) -> None:
    result = script("train.py", *arguments)
    assert result.status != 0
    assert sentence in result.err
    assert "Traceback" not in result.err
    assert "usage:" not in result.err
    assert not list(Path.cwd().iterdir())


@pytest.mark.parametrize("how", [("{}",), ("--data", "{}"), ("--data={}",), ("data={}",), ("data.root", "{}")])
def test_train__a_folder_gets_the_command_for_it(script: Script, flat: Path, how: tuple[str, ...]) -> None:
    result = script("train.py", *(part.format(flat) for part in how))
    assert result.status != 0
    assert f"data.root={flat}" in result.err
    assert "Traceback" not in result.err


def test_predict__a_checkpoint_and_a_folder_get_the_command_for_them(script: Script, trained: Path) -> None:
    images = trained.parent / "images"
    result = script("predict.py", str(trained / "checkpoints" / "best.ckpt"), str(images))
    assert result.status != 0
    assert "ckpt_path=" in result.err
    assert f"source={images}" in result.err


def test_predict__takes_the_best_checkpoint_of_a_run_folder(script: Script, trained: Path) -> None:
    result = script("predict.py", f"ckpt_path={trained}", f"source={trained.parent / 'images' / 'red'}")
    assert result.status == 0, result.err
    assert len(result.out.splitlines()) == 12


@pytest.mark.parametrize("name", ["Müller", "two words", "a,b", "x=1", "[1]", "{2}", "it's", "50%", "$HOME", "名前"])
def test_names__any_that_the_file_system_allows(script: Script, tmp_path: Path, name: str) -> None:
    root = draw_classes(tmp_path / name / "images", 12)
    run = f"hydra.run.dir={tmp_path / 'run'}"
    result = script("train.py", f"data.root={root}", *SMALL, "trainer.max_epochs=1", run)
    assert result.status == 0, result.err
    best = tmp_path / "run" / "checkpoints" / "best.ckpt"
    output = tmp_path / name / "new"
    result = script("predict.py", f"ckpt_path={best}", f"source={root / 'red'}", f"output={output}")
    assert result.status == 0, result.err
    assert (output / "predictions.csv").is_file()


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
    given = {"PATH": os.environ["PATH"], **environment}
    return subprocess.run(["bash", "-c", " ".join(command)], capture_output=True, text=True, env=given, check=False)


@pytest.mark.slow
@pytest.mark.parametrize("script_name", ["train.py", "predict.py"])
def test_closed_pipe_and_version__end_in_silence(script_name: str) -> None:
    python = f"{sys.executable} {ROOT / script_name}"
    done = run(f"{python} --help | head -1")
    assert (done.stderr, len(done.stdout.splitlines())) == ("", 1)
    assert "headstart" in run(f"{python} --version").stdout


@pytest.mark.slow
def test_no_home__a_prediction_works(trained: Path, tmp_path: Path) -> None:
    best, image = trained / "checkpoints" / "best.ckpt", trained.parent / "images" / "red" / "0.jpg"
    command = f"{sys.executable} {ROOT / 'predict.py'} ckpt_path={best} source={image}"
    done = run(command, HEADSTART_CACHE=str(tmp_path / "cache"))
    assert done.returncode == 0, done.stderr
    assert "0.jpg" in done.stdout
