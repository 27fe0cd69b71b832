"""Runs that are stopped by a signal, in processes of their own."""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from conftest import ROOT, SMALL, Script
from fork_server import ForkServer, Process

ARGUMENTS = (
    "data.split.train=6",
    "data.split.valid=3",
    *SMALL,
    "trainer.max_epochs=400",
    "callbacks.early_stopping=null",
)


def start(forks: ForkServer, flat: Path, run: Path, *overrides: str) -> Process:
    arguments = (f"data.root={flat}", *ARGUMENTS, f"hydra.run.dir={run}", *overrides)
    return forks.start(str(ROOT / "train.py"), *arguments, environment=os.environ | {"PYTHONUNBUFFERED": "1"})


def wait_for_epochs(process: Process, count: int) -> None:
    for line in process.stdout:
        if line.startswith("epoch "):
            count -= 1
        if count <= 0:
            return
    pytest.fail(process.stderr.read())


@pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, {143}), (signal.SIGINT, {130}), (signal.SIGKILL, {-9})]
)
def test_stopped__a_usable_checkpoint_and_an_exact_resume(
    script: Script, forks: ForkServer, flat: Path, tmp_path: Path, number: signal.Signals, status: set[int]
) -> None:
    process = start(forks, flat, tmp_path / "part")
    wait_for_epochs(process, 3)
    time.sleep(random.uniform(0, 0.1))
    process.send_signal(number)
    # Beside other programs, some kernels take most of a minute to unmap the memory of a process that has ended.
    _, err = process.communicate(timeout=300)
    assert process.returncode in status
    last = tmp_path / "part" / "checkpoints" / "last.ckpt"
    assert torch.load(last, weights_only=True)["epoch"] >= 1, "an epoch is logged before its checkpoint is written"
    assert not list((tmp_path / "part").rglob("*.tmp")) or number == signal.SIGKILL
    if number != signal.SIGKILL:
        assert f"warning: stopped; to resume: python {ROOT / 'train.py'} ckpt_path={last}\n" in err
        assert "Traceback" not in err
    epochs = "trainer.max_epochs=" + str(torch.load(last, weights_only=True)["epoch"] + 4)
    for run, more in (("resumed", [f"ckpt_path={last}"]), ("whole", [])):
        arguments = (f"data.root={flat}", *ARGUMENTS, f"hydra.run.dir={tmp_path / run}", epochs, *more)
        result = script("train.py", *arguments)
        assert result.status == 0, result.err
    resumed, whole = ((tmp_path / run / "history.csv").read_text() for run in ("resumed", "whole"))
    assert resumed == whole
    resumed, whole = (json.loads((tmp_path / run / "metrics.json").read_text()) for run in ("resumed", "whole"))
    assert resumed | {"seconds": 0} == whole | {"seconds": 0}


def test_stopped__in_the_first_epoch(forks: ForkServer, flat: Path, tmp_path: Path) -> None:
    # With batches of one image and a large backbone, the first epoch takes long enough.
    process = start(forks, flat, tmp_path / "run", "data.batch_size=1", "model.arch=resnet50", "data.image_size=40")
    last = tmp_path / "run" / "checkpoints" / "last.ckpt"
    while not last.exists():
        assert process.poll() is None
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    assert process.returncode == 143
    assert torch.load(last, weights_only=True)["global_step"] == 0
