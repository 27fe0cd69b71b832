"""Peak memory of a cold run, all processes together, and of a run with ten times the views (of fewer images).

python benchmarks/memory.py DATA
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

from common import ROOT, data_folder, empty_caches, save, training


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


class Megabytes(NamedTuple):
    """`whole` is the proportional set size: memory shared by several processes counts once.

    `own` is without mapped files, such as libraries and stored features, which the kernel drops where memory is short.
    """

    whole: float
    own: float


def megabytes(pid: int) -> Megabytes:
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return Megabytes(0.0, 0.0)
    sizes = {line.split()[0]: int(line.split()[1]) / 1e3 for line in lines[1:]}
    return Megabytes(sizes["Pss:"], sizes["Pss_Anon:"] + sizes["Pss_Shmem:"])


def peak(command: list[str], environment: dict[str, str]) -> Megabytes:
    """The highest of each, all processes together."""
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=os.environ | environment, stdout=subprocess.DEVNULL
    )
    whole = own = 0.0
    while process.poll() is None:
        try:
            found = [megabytes(pid) for pid in tree(process.pid)]
            whole, own = max(whole, sum(of.whole for of in found)), max(own, sum(of.own for of in found))
        except (FileNotFoundError, ProcessLookupError):
            continue  # a process has ended in the meantime
        time.sleep(0.2)
    if process.returncode:
        sys.exit(f"status {process.returncode}: {command}")
    return Megabytes(whole, own)


def measure(data: Path, *overrides: str) -> float:
    with empty_caches() as environment, tempfile.TemporaryDirectory() as folder:
        return peak(training(data, folder, *overrides), environment).whole


def main(data: Path) -> None:
    few = ("data.split.train=5", "features.compile=true")
    save(
        "memory",
        peak_megabytes={
            "cold run, 20 views of 500 images": measure(data),
            "20 views of 50 images": measure(data, *few),
            "200 views of 50 images": measure(data, *few, "trainer.max_epochs=200"),
        },
    )


if __name__ == "__main__":
    main(data_folder(__doc__))
