"""run.json: what a run was made of, and where its time went."""

import platform
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from headstart.files import RUN_RECORD, write_json

PACKAGES = ("headstart", "torch", "torchvision", "pytorch-lightning", "torchmetrics", "hydra-core")


class RunRecord:
    """The record of the run in `folder`; written when the run begins, and completed when it ends."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._path = folder / RUN_RECORD
        self._start = time.perf_counter()
        self._stages: dict[str, float] = {}
        self._values: dict[str, Any] = {"started": datetime.now(UTC).isoformat(timespec="seconds")}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time in the block to the seconds of the stage `name`."""
        start = time.perf_counter()
        try:
            yield
        finally:
            self._stages[name] = self._stages.get(name, 0.0) + time.perf_counter() - start

    def seconds(self) -> float:
        """Since the record was made."""
        return round(time.perf_counter() - self._start, 3)

    def begin(self, device: torch.device, **values: Any) -> None:
        """Writes run.json with `values` and what is known of the program and the machine; `device` trains."""
        self._values |= values | {
            "command": sys.argv,
            "git": git_state(Path(__file__).parent),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in PACKAGES},
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
            "platform": platform.platform(),
        }
        write_json(self._path, self._values)

    def end(self) -> None:
        """Writes run.json again, with the seconds by stage."""
        stages = {name: round(seconds, 3) for name, seconds in self._stages.items()}
        write_json(self._path, self._values | {"seconds": stages | {"all": self.seconds()}})


def processor_name() -> str:
    """The processor's model, where the system tells it."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor() or platform.machine())


def git_state(folder: Path) -> dict[str, Any] | None:
    """The commit of the repository around `folder` and whether files differ from it; None outside of one."""
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git(folder, "status", "--porcelain"))}
    except (OSError, subprocess.CalledProcessError):
        return None


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    return done.stdout.strip()
