"""The wheel and the command it installs, from a folder that has nothing to do with the repository."""

import os
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ROOT
from fork_server import ForkServer

pytest.importorskip("hatchling")
pytestmark = pytest.mark.slow
CONF = {path.relative_to(ROOT).as_posix() for path in (ROOT / "conf").rglob("*.yaml")}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheel and the sdist."""
    folder = tmp_path_factory.mktemp("built")
    command = [sys.executable, "-m", "hatchling", "build", "-d", str(folder)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the wheel is installed, without its dependencies, which the tests' environment has."""
    target = tmp_path_factory.mktemp("installed")
    (wheel,) = built.glob("*.whl")
    command = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", str(target)]
    subprocess.run([*command, str(wheel)], check=True, capture_output=True)
    return target


@pytest.fixture(scope="module")
def forks(installed: Path) -> Iterator[ForkServer]:
    """Starts processes of what is installed without the seconds that its imports take."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", str(installed))
        server = ForkServer()
    yield server
    server.close()


def headstart(
    installed: Path, folder: Path, *arguments: str, forks: ForkServer | None = None
) -> subprocess.CompletedProcess[str]:
    """Runs the installed command in `folder`."""
    environment = os.environ | {"PYTHONPATH": str(installed)}
    command = [str(installed / "bin" / "headstart"), *arguments]
    if forks:
        return forks.run(*command, folder=folder, environment=environment)
    command = [sys.executable, *command]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_archives__hold_what_is_needed(built: Path) -> None:
    (wheel,), (sdist,) = built.glob("*.whl"), built.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {f"headstart/{name}" for name in CONF} <= names
    assert {"headstart/report/page.html.jinja", "headstart/py.typed"} <= names
    assert not [name for name in names if name.startswith(("tests", "conf", "src"))]
    with tarfile.open(sdist) as archive:
        inside = {name.partition("/")[2] for name in archive.getnames()}
    assert {*CONF, "train.py", "predict.py", "pyproject.toml", "README.md"} <= inside


def test_command__trains_predicts_and_embeds(installed: Path, forks: ForkServer, tmp_path: Path) -> None:
    few = ("data.per_class=12", "data.split.train=5", "data.split.valid=5", "trainer.max_epochs=1", "report=none")
    done = headstart(installed, tmp_path, "train", "experiment=quickstart", *few, forks=forks)
    assert done.returncode == 0, done.stderr
    (best,) = tmp_path.glob("logs/*/*/checkpoints/best.ckpt")
    assert f"to predict: headstart predict ckpt_path={best.parents[1].relative_to(tmp_path)} " in done.stdout
    images = "data/shapes/test/dotted_star"
    arguments = (f"ckpt_path={best}", f"source={images}", "output=out")
    done = headstart(installed, tmp_path, "predict", *arguments, forks=forks)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "out" / "predictions.csv").read_text().splitlines()) == 3
    arguments = (f"ckpt_path={best}", "source=data/shapes/test", "output=out")
    done = headstart(installed, tmp_path, "embed", *arguments, forks=forks)
    assert done.returncode == 0, done.stderr
    assert "20 images, 1024 features each (20 images from the feature cache)" in done.stdout


def test_command__says_what_it_reads_arguments_as(installed: Path, forks: ForkServer, tmp_path: Path) -> None:
    done = headstart(installed, tmp_path, "train", "epochs=3", "data=folder", "data.root=nowhere", forks=forks)
    assert done.returncode == 1
    assert "read as: trainer.max_epochs=3" in done.stdout + done.stderr
    assert "Traceback" not in done.stderr


def test_command__takes_the_users_own_configuration(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "own" / "experiment").mkdir(parents=True)
    (tmp_path / "own" / "experiment" / "mine.yaml").write_text("# @package _global_\nmodel:\n  lr: 0.123\n")
    arguments = ("--config-dir", "own", "experiment=mine", "data=shapes", "--cfg", "job")
    done = headstart(installed, tmp_path, "train", *arguments)
    assert "lr: 0.123" in done.stdout, done.stderr


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        ((), 0, "headstart embed"),
        (("--version",), 0, "headstart 0.1.0"),
        (("tran",), 1, "error: headstart tran is not a command: did you mean train?"),
        (("embed", "source=x"), 1, "error: ckpt_path is missing: set ckpt_path=RUN, the folder of a run"),
    ],
)
def test_command__explains_itself(
    installed: Path, tmp_path: Path, arguments: tuple[str, ...], status: int, says: str
) -> None:
    done = headstart(installed, tmp_path, *arguments)
    assert done.returncode == status
    assert says in done.stdout + done.stderr
    assert "Traceback" not in done.stderr
