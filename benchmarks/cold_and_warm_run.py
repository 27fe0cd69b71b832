"""A whole run of 20 epochs without early stopping: first with empty caches, then again with the cached features.

python benchmarks/cold_and_warm_run.py DATA
"""

import statistics
import tempfile
from pathlib import Path

from common import (
    EPOCHS,
    data_folder,
    empty_caches,
    flops_per_image,
    inspected,
    matrix_rate,
    plain_run_seconds,
    resnet50,
    run,
    save,
    training,
)

from headstart.data.preprocessing import Preprocessing
from headstart.features.encoder import Encoder


def limit(data: Path, precision: str) -> float:
    """The seconds that a cold run would take if the forward passes ran at the rate of matrix products, alone."""
    splits = inspected(data).manifest.splits
    images = EPOCHS * len(splits["train"]) + len(splits["valid"]) + len(splits["test"])
    return images * flops_per_image(resnet50(Preprocessing(256, 224))) / matrix_rate(precision)


def main(data: Path) -> None:
    precision = Encoder(resnet50(Preprocessing(256, 224)), precision="auto", compile=False).precision
    plain, limits = [plain_run_seconds(data)], [limit(data, precision)]
    with empty_caches() as environment, tempfile.TemporaryDirectory() as folder:
        cold, _ = run(*training(data, f"{folder}/0"), **environment)
        warm = [run(*training(data, f"{folder}/{n}"), **environment)[0] for n in range(1, 4)]
    plain.append(plain_run_seconds(data))
    limits.append(limit(data, precision))
    seconds = {"plain": statistics.mean(plain), "cold": cold, "warm": statistics.median(warm)}
    save(
        "cold_and_warm_run",
        seconds=seconds,
        plain_is="extrapolated from four timed epochs",
        precision=precision,
        fraction_of_limit=statistics.mean(limits) / seconds["cold"],
        cold_ratio=seconds["plain"] / seconds["cold"],
        warm_ratio=seconds["plain"] / seconds["warm"],
    )


if __name__ == "__main__":
    main(data_folder(__doc__))
