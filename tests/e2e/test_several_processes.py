"""Trainings in several processes, which end as one process does with batches as large as theirs together."""

import csv
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import ROOT, SMALL, draw_classes
from fork_server import ForkServer, Process

from headstart.machine import VARIABLES
from headstart.run_folder import RunFolder

# 15 training and 9 validation images: in the last batch one process has fewer than the other, or none.
SETTINGS = (
    *(*SMALL, "data.split.train=5", "data.split.valid=3", "trainer=cpu", "features.precision=32", "report=none"),
    *("features.views=2", "trainer.max_epochs=4", "callbacks.early_stopping=null", "model.lr=1e-2"),
)
ONE, TWO = ("data.batch_size=8",), ("data.batch_size=4", "trainer.devices=2", "trainer.strategy=ddp")


class Job:
    """Runs trainings on one folder of images, with a cache of their own."""

    def __init__(self, folder: Path, forks: ForkServer) -> None:
        self.folder, self.forks = folder, forks
        self.images = draw_classes(folder / "images", 12)

    def command(self, run: str, *arguments: str) -> list[str]:
        where = () if run == "" else (f"hydra.run.dir={self.folder / run}",)
        return [str(ROOT / "train.py"), f"data.root={self.images}", *SETTINGS, *arguments, *where]

    def environment(self, cache: str = "cache", **more: str) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        return clean | {"HEADSTART_CACHE": str(self.folder / cache), "OMP_WAIT_POLICY": "passive"} | more

    def run(self, command: list[str], cache: str = "cache") -> "subprocess.CompletedProcess[str]":
        return self.forks.run(*command, folder=self.folder, environment=self.environment(cache))

    def train(self, run: str, *arguments: str, cache: str = "cache") -> RunFolder:
        done = self.run(self.command(run, *arguments), cache)
        assert done.returncode == 0, done.stderr
        return RunFolder(self.folder / run)


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory, forks: ForkServer) -> Job:
    return Job(tmp_path_factory.mktemp("job"), forks)


@pytest.fixture(scope="module")
def alone(job: Job) -> RunFolder:
    return job.train("alone", *ONE)


def history(run: RunFolder) -> np.ndarray:
    with run.history.open() as file:
        return np.array([[float(value) for value in row.values()] for row in csv.DictReader(file)])


def assert_same(found: RunFolder, expected: RunFolder) -> None:
    assert np.allclose(history(found), history(expected), atol=1e-4)
    metrics, others = (json.loads(run.metrics.read_text()) for run in (found, expected))
    assert metrics.keys() == others.keys()
    for name in metrics.keys() - {"seconds"}:
        assert metrics[name] == pytest.approx(others[name], abs=1e-4), name
    # Each step is of as many images, wherever they are.
    first, second = (torch.load(run.last, weights_only=True)["global_step"] for run in (found, expected))
    assert first == second > 0
    # Every sample once, in the same order.
    rows, others = (run.test_predictions.read_text().splitlines() for run in (found, expected))
    assert [row.split(",")[:3] for row in rows] == [row.split(",")[:3] for row in others]


def views_in(cache: Path) -> dict[str, bytes]:
    """The stored features, by the names of their files."""
    return {path.relative_to(cache).as_posix(): path.read_bytes() for path in sorted(cache.rglob("view-*.npy"))}


def test_two_processes__end_as_one(job: Job, alone: RunFolder) -> None:
    assert_same(job.train("two", *TWO, cache="two"), alone)
    views = views_in(job.folder / "two")
    assert len(views) == 4
    assert views == views_in(job.folder / "cache")
    assert len(list(job.folder.glob("two/**/events*"))) == len(list(job.folder.glob("alone/**/events*")))


def test_two_processes__finetuning(job: Job) -> None:
    how = ("finetune=gradual", "finetune.epochs=[1,2]")
    assert_same(job.train("tuned-two", *TWO, *how), job.train("tuned-alone", *ONE, *how))


def test_torchrun__one_folder(job: Job, alone: RunFolder) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--no-python"]
    place = job.folder / "torchrun"
    place.mkdir()
    command = [
        *torchrun,
        job.forks.python,
        *job.command("", "trainer=ddp", "trainer.accelerator=cpu", "data.batch_size=4"),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=job.environment(), cwd=place)
    assert done.returncode == 0, done.stderr
    (metrics,) = place.rglob("metrics.json")
    assert len(list(metrics.parent.parent.iterdir())) == 1
    assert_same(RunFolder(metrics.parent), alone)
    assert (metrics.parent / ".hydra" / "overrides.yaml").is_file()


def assert_same_on_two_machines(job: Job, alone: RunFolder, name: str, variables: list[dict[str, str]]) -> None:
    """Runs a process with each of `variables`, among which is its cache, and checks both caches and the only run."""
    place = job.folder / name
    place.mkdir()
    arguments = job.command("", "trainer=ddp", "trainer.accelerator=cpu", "data.batch_size=4")
    command = [*arguments, f"hydra.run.dir={place}/${{unique_name:}}"]
    environments = [job.environment(**of_one) for of_one in variables]
    processes = [job.forks.start(*command, folder=job.folder, environment=of_one) for of_one in environments]
    for number, process in enumerate(processes):
        out, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
        assert bool(out) == (number == 0), "only the first process reports"
    (metrics,) = place.rglob("metrics.json")
    assert_same(RunFolder(metrics.parent), alone)
    for of_one in variables:
        assert views_in(job.folder / of_one["cache"]) == views_in(job.folder / "cache")


def test_two_machines__that_share_a_store(job: Job, alone: RunFolder) -> None:
    shared = {"cache": "shared", "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29610 + os.getpid() % 300)}
    variables = [shared | {"RANK": number, "NODE_RANK": number} for number in ("0", "1")]
    assert_same_on_two_machines(job, alone, "machines", variables)


def test_slurm__two_machines_with_stores_of_their_own(job: Job, alone: RunFolder) -> None:
    # As far as SLURM's variables tell; there is no SLURM here.
    shared = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "localhost"}
    shared |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "1", "SLURM_NNODES": "2"}
    shared |= {"SLURM_STEP_NUM_TASKS": "2", "SLURM_STEP_NUM_NODES": "2", "SLURM_LOCALID": "0"}
    variables = [shared | {"cache": f"own-{n}", "SLURM_PROCID": n, "SLURM_NODEID": n} for n in ("0", "1")]
    assert_same_on_two_machines(job, alone, "slurm", variables)


def others_of(process: Process) -> list[int]:
    """The processes that a process has started as further ones of its job."""
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False).stdout
    return [int(number) for number in found.split()]


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


def killed(job: Job, name: str, number: signal.Signals, second: bool) -> tuple[RunFolder, Process, str]:
    """A run of two processes of which one got a signal after some epochs, when both have ended; and their errors."""
    run = RunFolder(job.folder / name)
    command = job.command(name, *TWO, "trainer.max_epochs=400")
    process = job.forks.start(*command, folder=job.folder, environment=job.environment())
    while not run.history.is_file() or len(run.history.read_text().splitlines()) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    (other,) = others_of(process)
    os.kill(other if second else process.pid, number)
    end = time.monotonic() + 30
    _, err = process.communicate(timeout=30)
    while is_alive(other):
        assert time.monotonic() < end
        time.sleep(0.1)
    return run, process, err


@pytest.mark.parametrize(("number", "status"), [(signal.SIGKILL, -9), (signal.SIGTERM, 143)])
def test_killed__first_process(job: Job, number: signal.Signals, status: int) -> None:
    _, process, err = killed(job, f"killed-{number}", number, second=False)
    assert process.returncode == status
    assert "Traceback" not in err


def test_killed__another_process_and_resumed_by_one(job: Job) -> None:
    run, process, err = killed(job, "killed-second", signal.SIGKILL, second=True)
    assert process.returncode == 1
    assert err.splitlines()[-1] == "error: process 2 of 2 was killed by signal 9"
    assert "Traceback" not in err
    length = f"trainer.max_epochs={len(history(run)) + 2}"
    resumed = job.train("resumed", f"ckpt_path={run.last}", "trainer.devices=1", *ONE, length)
    assert_same(resumed, job.train("uninterrupted", *ONE, length))


def test_error__of_all_processes_is_told_once(job: Job) -> None:
    done = job.run(job.command("diverged", *TWO, "model.lr=1e30"))
    assert done.returncode == 1
    assert done.stderr.count("error:") == 1
    assert "the training loss became" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (job.folder / "diverged").exists()


def test_other_tasks__run_in_one_process(job: Job, alone: RunFolder) -> None:
    done = job.run(job.command("", "task=test", f"ckpt_path={alone.best}", *TWO))
    assert done.returncode == 0, done.stderr
