"""The largest difference, over all figures of all epochs, between one process and two with batches half as large, and
how long a job lives on after one of its processes is killed.

python benchmarks/several_processes.py
"""

import csv
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import ROOT, empty_caches, run, save

COMMON = ("experiment=quickstart", "trainer=cpu", "logger=none", "report=none", "features.precision=32")
COMMON += ("callbacks.early_stopping=null", "trainer.max_epochs=3")
ONE, TWO = ("data.batch_size=26",), ("data.batch_size=13", "trainer.strategy=ddp", "trainer.devices=2")
# BatchNorm's own statistics would be those of smaller batches.
WAYS = {
    "frozen": (),
    "gradual": ("finetune=gradual", "finetune.epochs=[1,2]"),
    "full": ("finetune=full", "finetune.batch_norm=false", "model.lr=1e-4"),
}


def history(folder: Path, *overrides: str, **environment: str) -> list[dict[str, str]]:
    run("train.py", *COMMON, *overrides, f"hydra.run.dir={folder}", **environment)
    return list(csv.DictReader((folder / "history.csv").open()))


def difference(folder: Path, data: str, way: tuple[str, ...], environment: dict[str, str]) -> float:
    one = history(folder / "one", data, *way, *ONE, **environment)
    two = history(folder / "two", data, *way, *TWO, **environment)
    return max(abs(float(a[key]) - float(b[key])) for a, b in zip(one, two, strict=True) for key in a)


def seconds_after_kill(folder: Path, data: str, environment: dict[str, str]) -> float:
    """Until the first process has ended, after the second was killed."""
    command = [sys.executable, "train.py", *COMMON, data, *TWO, "trainer.max_epochs=400", f"hydra.run.dir={folder}"]
    process = subprocess.Popen(command, cwd=ROOT, env=os.environ | environment, stderr=subprocess.DEVNULL)
    while not (folder / "history.csv").exists():
        time.sleep(0.1)
    found = subprocess.run(["pgrep", "-P", str(process.pid)], capture_output=True, text=True, check=True).stdout
    os.kill(int(found.split()[0]), signal.SIGKILL)
    start = time.perf_counter()
    process.wait()
    return time.perf_counter() - start


def main() -> None:
    with empty_caches() as environment, tempfile.TemporaryDirectory() as place:
        folder, data = Path(place), f"data.root={place}/shapes"
        differences = {name: difference(folder / name, data, way, environment) for name, way in WAYS.items()}
        killed = seconds_after_kill(folder / "killed", data, environment)
    save("several_processes", largest_difference=differences, seconds_after_kill=killed)


if __name__ == "__main__":
    main()
