"""What each of a hundred warm trials costs: seconds, memory and disk space, and how much faster two at once are.

python benchmarks/trials.py DATA [OVERRIDE ...]
"""

import itertools
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from common import ROOT, empty_caches, save, seconds_of_steps, training

RATES = "range(1e-4,11e-4,1e-4)"
DROPOUTS = "range(0.05,0.55,0.05)"
# The first ones are cold: each process imports PyTorch, and the first one encodes the views.
COLD = 10
REPEATS, CLASSES = 5, 10
TWO_AT_ONCE = ("hydra/launcher=joblib", "hydra.launcher.n_jobs=2")


def resident_megabytes(pid: int) -> float:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("VmRSS:")) / 1e3


def sweep(command: list[str], environment: dict[str, str]) -> tuple[list[float], list[float]]:
    """When each trial ended, in seconds, and the memory of the process that started the sweep after each."""
    times, memory = [], []
    with subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, env=os.environ | environment, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("#"):
                times.append(time.perf_counter())
                memory.append(resident_megabytes(process.pid))
    if process.returncode:
        sys.exit(f"status {process.returncode}: {command}")
    return times, memory


def per_second(ends: list[float]) -> float:
    """Warm trials."""
    return (len(ends) - COLD) / (ends[-1] - ends[COLD - 1])


def main(data: Path, *overrides: str) -> None:
    swept = ("-m", f"model.lr={RATES}", f"model.dropout={DROPOUTS}")
    with empty_caches() as environment, tempfile.TemporaryDirectory() as folder:
        ends, memory = sweep(training(data, folder, *overrides, *swept), environment)
        trials = [path.parent for path in Path(folder).glob("sweep/*=*/trial.json")]
        sizes = [sum(file.stat().st_size for file in trial.rglob("*") if file.is_file()) for trial in trials]
        views = Path(environment["XDG_CACHE_HOME"]).rglob("*-train-*/view-0000.npy")
        images, features = np.load(next(views), mmap_mode="r").shape
        together, _ = sweep(training(data, f"{folder}/parallel", *overrides, *TWO_AT_ONCE, *swept), environment)
    # The first trial is cold and does not count.
    seconds = [later - earlier for earlier, later in itertools.pairwise(ends)]
    one, two = per_second(ends), per_second(together)
    steps = statistics.median(seconds_of_steps(features, images, CLASSES) for _ in range(REPEATS))
    save(
        "trials",
        trials=len(trials),
        overrides=[override for override in overrides if "weights=" not in override],
        seconds={"median": statistics.median(seconds), "longest": max(seconds), "steps by themselves": steps},
        resident_megabytes={"after 10": memory[COLD - 1], "after 100": memory[-1]},
        largest_folder_megabytes=max(sizes) / 1e6,
        trials_per_second={"one at a time": one, "two at once": two, "ratio": two / one},
    )


if __name__ == "__main__":
    main(Path(sys.argv[1]).resolve(), *sys.argv[2:])
