"""A whole run of 20 epochs without early stopping: first with empty caches, then again with the cached features.

python benchmarks/cold_and_warm_run.py DATA
"""

import statistics
import tempfile
from pathlib import Path

from common import data_folder, empty_caches, plain_run_seconds, run, save, training


def main(data: Path) -> None:
    plain = [plain_run_seconds(data)]
    with empty_caches() as environment, tempfile.TemporaryDirectory() as folder:
        cold, _ = run(*training(data, f"{folder}/0"), **environment)
        warm = [run(*training(data, f"{folder}/{n}"), **environment)[0] for n in range(1, 4)]
    plain.append(plain_run_seconds(data))
    seconds = {"plain": statistics.mean(plain), "cold": cold, "warm": statistics.median(warm)}
    save(
        "cold_and_warm_run",
        seconds=seconds,
        plain_is="extrapolated from four timed epochs",
        cold_ratio=seconds["plain"] / seconds["cold"],
        warm_ratio=seconds["plain"] / seconds["warm"],
    )


if __name__ == "__main__":
    main(data_folder(__doc__))
