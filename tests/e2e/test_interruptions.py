"""What goes wrong while files are written: a closed pipe, a full disk, one bad image."""

import csv
import os
import subprocess
from pathlib import Path

from conftest import ROOT, SMALL, draw_classes
from fork_server import ForkServer


def bash(command: str, folder: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", command], capture_output=True, text=True, cwd=folder, env=dict(os.environ), check=False
    )


def predict(forks: ForkServer, trained: Path, source: Path) -> str:
    best = trained / "checkpoints" / "best.ckpt"
    return f"{forks.python} {ROOT / 'predict.py'} ckpt_path={best} source={source} output=out data.batch_size=4"


def test_closed_pipe__keeps_the_rows_already_made(forks: ForkServer, trained: Path, tmp_path: Path) -> None:
    done = bash(f"{predict(forks, trained, trained.parent / 'images')} | head -2", tmp_path)
    assert len(done.stdout.splitlines()) == 2
    assert done.stderr == ""
    with (tmp_path / "out" / "predictions.csv").open() as file:
        assert len(list(csv.DictReader(file))) >= 2
    assert not list(tmp_path.rglob("*.tmp"))


def test_full_disk__one_sentence_and_nothing_half_written(forks: ForkServer, tmp_path: Path) -> None:
    root = draw_classes(tmp_path / "images", 12)
    arguments = " ".join(["data.split.train=6", "data.split.valid=3", *SMALL])
    # No file may be larger than 20 kB.
    command = f"ulimit -f 20; {forks.python} {ROOT / 'train.py'} data.root={root} {arguments} hydra.run.dir=run"
    done = bash(command, tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1, done.stderr
    assert "File too large" in done.stderr or "disk is full" in done.stderr
    assert not list(tmp_path.rglob("*.tmp"))
