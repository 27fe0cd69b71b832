"""The first commands of a new user, in processes of their own and without a network."""

import csv
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from conftest import ROOT

# In sitecustomize.py, which Python imports when it starts.
NO_NETWORK = """
import socket

def reject(*arguments, **more):
    raise AssertionError("the network was used")

class Rejecting(socket.socket):
    connect = connect_ex = bind = sendto = reject

socket.socket = Rejecting
socket.create_connection = socket.getaddrinfo = socket.gethostbyname = reject
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """Of a machine without a network, and of a user without a cache."""
    (tmp_path / "closed").mkdir()
    (tmp_path / "closed" / "sitecustomize.py").write_text(NO_NETWORK)
    own = {"PYTHONPATH": str(tmp_path / "closed"), "XDG_CACHE_HOME": str(tmp_path / "cache"), "HOME": str(tmp_path)}
    return {**os.environ, **own}


def run(name: str, *arguments: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / name), *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)


def test_environment__has_no_network(environment: dict[str, str]) -> None:
    code = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "the network was used" in done.stderr


@pytest.mark.slow
def test_quickstart__learns_in_a_minute_and_predicts(tmp_path: Path, environment: dict[str, str]) -> None:
    start = time.perf_counter()
    done = run("train.py", "experiment=quickstart", folder=tmp_path, environment=environment)
    seconds = time.perf_counter() - start
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert seconds <= 60
    (metrics,) = tmp_path.glob("logs/*/*/metrics.json")
    assert json.loads(metrics.read_text())["test/acc"] >= 0.95
    assert (metrics.parent / "report" / "curves.png").is_file()
    assert json.loads((metrics.parent / "audit.json").read_text())["findings"] == []
    checkpoint = metrics.parent / "checkpoints" / "best.ckpt"
    done = run(
        "predict.py",
        f"ckpt_path={checkpoint}",
        "source=data/shapes/test",
        "output=predictions",
        folder=tmp_path,
        environment=environment,
    )
    assert done.returncode == 0, done.stderr
    with (tmp_path / "predictions" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    correct = sum(Path(row["path"]).parent.name == row["label_1"] for row in rows)
    assert correct / len(rows) == pytest.approx(json.loads(metrics.read_text())["test/acc"])


@pytest.mark.slow
def test_random_backbone__learns_nothing(tmp_path: Path, environment: dict[str, str]) -> None:
    options = ("model.weights=null", "trainer.max_epochs=5", "features.views=1")
    done = run("train.py", "experiment=quickstart", *options, folder=tmp_path, environment=environment)
    assert done.returncode == 0, done.stderr
    (metrics,) = tmp_path.glob("logs/*/*/metrics.json")
    assert json.loads(metrics.read_text())["test/acc"] < 0.3
