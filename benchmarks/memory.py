"""Peak memory of a cold run, all processes together, and of a run with ten times the views (of fewer images).

python benchmarks/memory.py DATA
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, data_folder, empty_caches, save, training


def tree(pid: int) -> list[int]:
    """A process and all its descendants."""
    found = [pid]
    for parent in found:
        for task in Path(f"/proc/{parent}/task").glob("*/children"):
            found += [int(child) for child in task.read_text().split()]
    return found


def megabytes(pid: int) -> float:
    """The proportional set size: memory shared by several processes counts once."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return sum(int(line.split()[1]) for line in lines if line.startswith("Pss:")) / 1e3


def peak(command: list[str], environment: dict[str, str]) -> float:
    process = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=os.environ | environment, stdout=subprocess.DEVNULL
    )
    highest = 0.0
    while process.poll() is None:
        try:
            highest = max(highest, sum(megabytes(pid) for pid in tree(process.pid)))
        except (FileNotFoundError, ProcessLookupError):
            continue  # a process has ended in the meantime
        time.sleep(0.2)
    if process.returncode:
        sys.exit(f"status {process.returncode}: {command}")
    return highest


def measure(data: Path, *overrides: str) -> float:
    with empty_caches() as environment, tempfile.TemporaryDirectory() as folder:
        return peak(training(data, folder, *overrides), environment)


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
