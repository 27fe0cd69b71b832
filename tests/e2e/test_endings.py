"""How the scripts end in real processes: stopped by a signal or by a reader that wants no more, and with a command."""

import csv
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT, SMALL, Script, draw_classes
from fork_server import ForkServer

pytestmark = pytest.mark.slow

RULE = ("data.split.train=6", "data.split.valid=3")


def bash(command: str, folder: Path, forks: ForkServer | None = None) -> subprocess.CompletedProcess[str]:
    """Runs a command in which `python` is this one, or that of `forks`; its status is that of a pipe's first part."""
    path = f"{forks.folder if forks else Path(sys.executable).parent}:{os.environ['PATH']}"
    return subprocess.run(
        ["bash", "-c", f"{command}; exit ${{PIPESTATUS[0]}}"],
        capture_output=True,
        text=True,
        cwd=folder,
        env=os.environ | {"PATH": path, "HYDRA_FULL_ERROR": ""},
        check=False,
    )


def train(*arguments: str) -> str:
    return shlex.join(["python", str(ROOT / "train.py"), *SMALL, *RULE, *arguments])


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return draw_classes(tmp_path_factory.mktemp("many"), 60)


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129), (signal.SIGKILL, -9)]
)
def test_predict__stopped_keeps_the_rows(
    forks: ForkServer, trained: Path, many: Path, tmp_path: Path, number: signal.Signals, status: int
) -> None:
    arguments = [f"ckpt_path={trained}", f"source={many}", "output=out", "annotate=true", "data.batch_size=1"]
    process = forks.start(str(ROOT / "predict.py"), *arguments, folder=tmp_path)
    shown = [process.stdout.readline() for _ in range(3)]
    process.send_signal(number)
    rest, err = process.communicate(timeout=300)
    assert process.returncode == status, err
    assert "Traceback" not in err
    lines = len(shown) + len(rest.splitlines())
    assert lines < 180
    with (tmp_path / "out" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert lines <= len(rows) <= lines + 1
    assert len((tmp_path / "out" / "predictions.jsonl").read_text().splitlines()) in (len(rows), len(rows) - 1)
    if number != signal.SIGKILL:
        # The signal may come between a row and its count.
        counts = (len(rows), len(rows) - 1)
        assert any(f"stopped after {count} of 180 images, whose rows are in out" in err for count in counts), err
        assert not list(tmp_path.rglob("*.tmp"))


def test_train__whose_reader_wants_no_more_can_be_resumed(forks: ForkServer, flat: Path, tmp_path: Path) -> None:
    command = train(f"data.root={flat}", "trainer.max_epochs=300", "hydra.run.dir=run")
    done = bash(f"{command} | head -3", tmp_path, forks)
    assert done.returncode == 141, done.stderr
    assert "Traceback" not in done.stderr
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    assert done.stderr.endswith(f"to resume: python {ROOT / 'train.py'} ckpt_path={last}\n")
    assert not list((tmp_path / "run").rglob("*.tmp"))


def test_configuration__whose_reader_wants_no_more(tmp_path: Path) -> None:
    for script, flag in (("train.py", "--cfg job"), ("train.py", "--hydra-help"), ("predict.py", "--help")):
        done = bash(f"python {ROOT / script} {flag} | head -1", tmp_path)
        assert done.stderr == ""


def test_output__that_cannot_be_written(forks: ForkServer, trained: Path, tmp_path: Path) -> None:
    for command in (
        "train.py --help > /dev/full",
        f"predict.py ckpt_path={trained} source={trained.parent} > /dev/full",
    ):
        done = bash(f"python {ROOT / command}", tmp_path, forks)
        assert done.returncode == 1
        assert done.stderr == "error: the output could not be written: No space left on device\n"


def test_predict__on_a_full_disk_keeps_the_rows(forks: ForkServer, trained: Path, tmp_path: Path) -> None:
    arguments = f"ckpt_path={trained} source={trained.parent / 'images'} output=out data.batch_size=1"
    done = bash(f"ulimit -f 1; python {ROOT / 'predict.py'} {arguments}", tmp_path, forks)
    assert done.returncode == 1
    assert "error: out/predictions.jsonl could not be written: File too large\n" in done.stderr
    content = (tmp_path / "out" / "predictions.csv").read_text()
    assert content.endswith("\n")
    assert len(content.splitlines()) > 3


def test_finished_run__prints_a_command_that_can_be_pasted(
    script: Script, forks: ForkServer, flat: Path, tmp_path: Path
) -> None:
    run = tmp_path / "it's a [run], $1"
    arguments = (*SMALL, *RULE, "trainer.max_epochs=1", f"hydra.run.dir={run}")
    trained = script("train.py", f"data.root={flat}", *arguments)
    assert trained.status == 0, trained.err
    lines = trained.out.splitlines()
    assert f"best checkpoint: {run / 'checkpoints' / 'best.ckpt'}" in lines
    (command,) = (line.removeprefix("to predict: ") for line in lines if line.startswith("to predict: "))
    done = bash(command.replace("FILE_OR_FOLDER", str(flat / "red" / "0.jpg")), tmp_path, forks)
    assert done.returncode == 0, done.stderr
    assert "0.jpg" in done.stdout


def test_hint__can_be_pasted(forks: ForkServer, trained: Path, tmp_path: Path) -> None:
    source = tmp_path / "my, images"
    source.symlink_to(trained.parent / "images" / "red")
    checkpoint = trained / "checkpoints" / "best.ckpt"
    typed = ["python", str(ROOT / "predict.py"), str(checkpoint), str(source), "--topk", "1"]
    done = bash(shlex.join(typed), tmp_path, forks)
    assert done.returncode == 0, done.stderr
    said, *rows = done.stdout.splitlines()
    assert said.startswith("read as: ")
    again = bash(f"python {ROOT / 'predict.py'} {said.removeprefix('read as: ')}", tmp_path, forks)
    assert again.stdout.splitlines() == rows
    assert len(rows) == 12
