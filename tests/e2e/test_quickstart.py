"""The first commands of a new user, in a process of their own and without a network."""

import csv
import json
import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
from conftest import ROOT
from fork_server import ForkServer

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
# Runs one script after the other: the imports take as long as a third of what these do.
IN_TURN = """
import json, runpy, sys

for sys.argv in json.loads(sys.argv[1]):
    try:
        runpy.run_path(sys.argv[0], run_name="__main__")
    except SystemExit as stop:
        if stop.code:
            raise
"""
# Less than half of the images; `.ci/run` trains on all.
FEWER = ("data.per_class=30", "data.split.train=16", "data.split.valid=4")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder in which a new user works; the images are drawn once."""
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def environment(home: Path) -> dict[str, str]:
    """Of a machine without a network, and of a user without a cache."""
    (home / "closed").mkdir()
    (home / "closed" / "sitecustomize.py").write_text(NO_NETWORK)
    places = [str(home / "closed"), *filter(None, [os.environ.get("PYTHONPATH")])]
    own = {"PYTHONPATH": os.pathsep.join(places), "XDG_CACHE_HOME": str(home / "cache"), "HOME": str(home)}
    return {**os.environ, **own}


def test_environment__has_no_network(environment: dict[str, str]) -> None:
    code = "import urllib.request; urllib.request.urlopen('http://127.0.0.1:9')"
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert "the network was used" in done.stderr


def cpu_seconds() -> float:
    """The CPU time of the processes that this one has started and that have ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@pytest.mark.slow
def test_quickstart__learns_quickly_and_predicts(home: Path, environment: dict[str, str]) -> None:
    before = cpu_seconds()
    train = [str(ROOT / "train.py"), "experiment=quickstart", *FEWER]
    predict = [str(ROOT / "predict.py"), "ckpt_path=last", "source=data/shapes/test", "output=predictions"]
    command = [sys.executable, "-c", IN_TURN, json.dumps([train, predict])]
    done = subprocess.run(command, cwd=home, env=environment, capture_output=True, text=True, check=False)
    seconds = cpu_seconds() - before
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    # Without the CPU's fast instructions it takes as long as it takes.
    limit = 60 if "ATEN_CPU_CAPABILITY" not in os.environ else 300
    assert seconds <= limit, "half a minute of two cores, however busy they are with other programs"
    (metrics,) = home.glob("logs/*/*/metrics.json")
    accuracy = json.loads(metrics.read_text())["test/acc"]
    assert accuracy >= 0.95
    assert f"test: accuracy {accuracy:.3f} (95 % interval " in done.stdout
    assert (metrics.parent / "report" / "curves.png").is_file()
    assert json.loads((metrics.parent / "audit.json").read_text())["findings"] == []
    with (home / "predictions" / "predictions.csv").open() as file:
        rows = list(csv.DictReader(file))
    correct = sum(Path(row["path"]).parent.name == row["label_1"] for row in rows)
    assert correct / len(rows) == pytest.approx(accuracy)


def test_random_backbone__learns_nothing(forks: ForkServer, home: Path, environment: dict[str, str]) -> None:
    options = ("model.weights=null", "trainer.max_epochs=5", "features.views=1", "report=none", "hydra.run.dir=random")
    command = (str(ROOT / "train.py"), "experiment=quickstart", *FEWER, *options)
    done = forks.run(*command, folder=home, environment=environment)
    assert done.returncode == 0, done.stderr
    assert json.loads((home / "random" / "metrics.json").read_text())["test/acc"] < 0.3
