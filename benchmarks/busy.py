"""How much longer runs take while other programs use the CPU: beside one and two PyTorch loops of two threads each.

python benchmarks/busy.py DATA

Writes results/busy.json. A fair share of the cores makes a run 2 × as long beside one such program, 3 × beside two.
"""

import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common import data_folder, empty_caches, run, save, training

REPEATS = 3
# Small operations meet at a barrier between threads thousands of times per second, large ones keep the cores busy.
COMPETITOR = """
import torch
torch.set_num_threads(2)
small, large = torch.rand(96, 96), torch.rand(1500, 1500)
while True:
    for _ in range(2000):
        small @ small
    large @ large
"""


@contextmanager
def competitors(count: int) -> Iterator[None]:
    """Runs `count` other programs for as long as the block runs."""
    # In the environment of a user who knows nothing of wait policies.
    environment = {"PATH": "/usr/bin:/bin"}
    started = [subprocess.Popen([sys.executable, "-c", COMPETITOR], env=environment) for _ in range(count)]
    try:
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def commands(data: Path, folder: Path) -> dict[str, list[str]]:
    """The runs to time, in an order in which the later ones find the features of the earlier ones."""
    model = ("model.arch=mobilenet_v2", "logger=none")
    cold = training(data, str(folder / "cold"), *model, "trainer.max_epochs=3")
    warm = training(data, str(folder / "warm"), *model, "trainer.max_epochs=3")
    sweep = training(data, str(folder), *model, "trainer.max_epochs=3", "-m", "model.lr=1e-2,3e-3,1e-3,3e-4")
    quickstart = [
        "train.py",
        "experiment=quickstart",
        f"data.root={folder}/shapes",
        f"hydra.run.dir={folder}/quickstart",
    ]
    return {"quickstart": quickstart, "cold run": cold, "warm run": warm, "sweep": sweep}


def measure(data: Path, count: int) -> dict[str, float]:
    """The wall seconds of each run beside `count` other programs."""
    with tempfile.TemporaryDirectory() as folder, empty_caches() as caches, competitors(count):
        return {name: run(*command, **caches)[0] for name, command in commands(data, Path(folder)).items()}


def main() -> None:
    data = data_folder(__doc__)
    seconds = {}
    for count in (0, 1, 2):
        measured = [measure(data, count) for _ in range(REPEATS)]
        seconds[count] = {name: statistics.median(of[name] for of in measured) for name in measured[0]}
        print(count, seconds[count], file=sys.stderr)
    ratios = {
        f"beside {count}": {name: round(value / seconds[0][name], 2) for name, value in seconds[count].items()}
        for count in (1, 2)
    }
    save("busy", seconds={str(count): of for count, of in seconds.items()}, ratios=ratios)


if __name__ == "__main__":
    main()
