"""Trainings in several processes, which end as one process does with batches as large as theirs together."""

import csv
import json
import os
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from conftest import ROOT, SMALL, draw_classes

from headstart.launchers import VARIABLES
from headstart.run_folder import RunFolder

pytestmark = pytest.mark.slow

# 17 training images: the last batch of two processes has one image, and one of them none.
SETTINGS = (*SMALL, "data.split.train=6", "data.split.valid=3", "trainer=cpu", "features.precision=32", "report=none")
SETTINGS += ("trainer.max_epochs=4", "callbacks.early_stopping=null", "model.lr=1e-2")
ONE, TWO = ("data.batch_size=8",), ("data.batch_size=4", "trainer.devices=2", "trainer.strategy=ddp")


class Job:
    """Runs trainings on one folder of images, with a cache of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.images = draw_classes(folder / "images", 12)
        next(iter(sorted(self.images.rglob("*.png")))).unlink()

    def command(self, run: str, *arguments: str) -> list[str]:
        where = () if run == "" else (f"hydra.run.dir={self.folder / run}",)
        return [str(ROOT / "train.py"), f"data.root={self.images}", *SETTINGS, *arguments, *where]

    def environment(self, cache: str = "cache", **more: str) -> dict[str, str]:
        clean = {name: value for name, value in os.environ.items() if name not in VARIABLES}
        return clean | {"HEADSTART_CACHE": str(self.folder / cache), "OMP_WAIT_POLICY": "passive"} | more

    def train(self, run: str, *arguments: str, cache: str = "cache") -> RunFolder:
        command = [sys.executable, *self.command(run, *arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=240, check=False, env=self.environment(cache)
        )
        assert done.returncode == 0, done.stderr
        return RunFolder(self.folder / run)

    def start(self, command: list[str], **environment: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env=self.environment(**environment),
            cwd=self.folder,
            start_new_session=True,
        )


@pytest.fixture(scope="module")
def job(tmp_path_factory: pytest.TempPathFactory) -> Job:
    return Job(tmp_path_factory.mktemp("job"))


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
    # Every sample once, in the same order.
    paths = [
        [line.split(",")[0] for line in run.test_predictions.read_text().splitlines()] for run in (found, expected)
    ]
    assert paths[0] == paths[1]


def views_in(cache: Path) -> dict[str, bytes]:
    """The stored features, by the names of their files."""
    return {path.relative_to(cache).as_posix(): path.read_bytes() for path in sorted(cache.rglob("view-*.npy"))}


def test_two_processes__end_as_one(job: Job, alone: RunFolder) -> None:
    assert_same(job.train("two", *TWO, cache="two"), alone)
    views = views_in(job.folder / "two")
    assert len(views) == 6
    assert views == views_in(job.folder / "cache")
    assert len(list(job.folder.glob("two/**/events*"))) == len(list(job.folder.glob("alone/**/events*")))


@pytest.mark.parametrize("finetune", ["gradual", "full"])
def test_two_processes__finetuning(job: Job, finetune: str) -> None:
    how = {
        "gradual": ("finetune=gradual", "finetune.epochs=[1,2]"),
        # The statistics of batches would be those of smaller ones.
        "full": ("finetune=full", "finetune.batch_norm=false", "model.lr=1e-4"),
    }[finetune]
    expected = job.train(f"{finetune}-alone", *ONE, *how)
    assert_same(job.train(f"{finetune}-two", *TWO, *how), expected)


def test_torchrun__one_folder(job: Job, alone: RunFolder) -> None:
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
    place = job.folder / "torchrun"
    place.mkdir()
    command = [*torchrun, *job.command("", "trainer=ddp", "trainer.accelerator=cpu", "data.batch_size=4")]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=job.environment(), cwd=place)
    assert done.returncode == 0, done.stderr
    (metrics,) = place.rglob("metrics.json")
    assert len(list(metrics.parent.parent.iterdir())) == 1
    assert_same(RunFolder(metrics.parent), alone)
    assert (metrics.parent / ".hydra" / "overrides.yaml").is_file()


def on_two_machines(job: Job, run: str, *caches: str) -> Iterator["subprocess.Popen[str]"]:
    """The processes of two machines, as far as variables and caches tell."""
    arguments = job.command(run, "trainer=ddp", "trainer.accelerator=cpu", "data.batch_size=4")
    for number, cache in enumerate(caches):
        variables = {"RANK": str(number), "LOCAL_RANK": "0", "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "1"}
        address = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(29610 + os.getpid() % 300), "NODE_RANK": str(number)}
        yield job.start([sys.executable, *arguments], cache=cache, **variables, **address)


@pytest.mark.parametrize("caches", [("own-0", "own-1"), ("shared", "shared")], ids=["own stores", "shared store"])
def test_two_machines__both_have_every_view(job: Job, alone: RunFolder, caches: tuple[str, str]) -> None:
    processes = list(on_two_machines(job, f"machines-{caches[0]}", *caches))
    for process in processes:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    assert_same(RunFolder(job.folder / f"machines-{caches[0]}"), alone)
    for cache in caches:
        assert views_in(job.folder / cache) == views_in(job.folder / "cache")


def test_slurm__is_recognized_by_its_variables(job: Job, alone: RunFolder) -> None:
    shared = {"SLURM_JOB_ID": str(os.getpid()), "SLURM_JOB_NAME": "train", "SLURM_NODELIST": "localhost"}
    shared |= {"SLURM_NTASKS": "2", "SLURM_NTASKS_PER_NODE": "2", "SLURM_STEP_NUM_TASKS": "2", "SLURM_NODEID": "0"}
    command = [sys.executable, *job.command("", "trainer=ddp", "trainer.accelerator=cpu", "data.batch_size=4")]
    place = job.folder / "slurm"
    place.mkdir()
    command += [f"hydra.run.dir={place}/${{unique_name:}}"]
    processes = [
        job.start(command, **shared, SLURM_PROCID=str(number), SLURM_LOCALID=str(number)) for number in range(2)
    ]
    for process in processes:
        _, err = process.communicate(timeout=240)
        assert process.returncode == 0, err
    (metrics,) = place.rglob("metrics.json")
    assert_same(RunFolder(metrics.parent), alone)


def others_of(process: "subprocess.Popen[str]") -> list[int]:
    """The processes that a process has started as further ones of its job."""
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=False).stdout
    return [int(number) for number in found.split()]


def is_alive(pid: int) -> bool:
    status = Path(f"/proc/{pid}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@pytest.mark.parametrize("killed", ["first", "second"])
def test_killed__the_job_ends_and_is_resumed_by_one_process(job: Job, alone: RunFolder, killed: str) -> None:
    run = RunFolder(job.folder / f"killed-{killed}")
    process = job.start([sys.executable, *job.command(run.path.name, *TWO, "trainer.max_epochs=400")])
    while not run.history.is_file() or len(run.history.read_text().splitlines()) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    (other,) = others_of(process)
    os.kill(process.pid if killed == "first" else other, signal.SIGKILL)
    start = time.monotonic()
    _, err = process.communicate(timeout=30)
    while is_alive(other):
        assert time.monotonic() - start < 30
        time.sleep(0.1)
    if killed == "second":
        assert process.returncode == 1, err
        assert err.splitlines()[-1] == "error: process 2 of 2 was killed by signal 9"
        assert "Traceback" not in err
    resumed = job.train(
        f"resumed-{killed}", f"ckpt_path={run.last}", "trainer.devices=1", *ONE, "trainer.max_epochs=4", cache="cache"
    )
    assert np.allclose(history(resumed)[:4], history(alone), atol=1e-4) or len(history(resumed)) > 4


def test_error__of_all_processes_is_told_once(job: Job) -> None:
    command = [sys.executable, *job.command("diverged", *TWO, "model.lr=1e30")]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=job.environment(), cwd=job.folder
    )
    assert done.returncode == 1
    assert done.stderr.count("error:") == 1
    assert "the training loss became" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (job.folder / "diverged").exists()


@pytest.mark.parametrize("task", ["test", "audit"])
def test_other_tasks__run_in_one_process(job: Job, alone: RunFolder, task: str) -> None:
    command = [sys.executable, *job.command("", f"task={task}", f"ckpt_path={alone.best}", *TWO)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=120, check=False, env=job.environment(), cwd=job.folder
    )
    assert done.returncode == 0, shlex.join(command) + done.stderr
