"""A whole run of 20 epochs without early stopping: first with empty caches, then again with the cached features.

python benchmarks/cold_and_warm_run.py DATA
"""

import json
import statistics
import tempfile
from pathlib import Path

from common import data_folder, empty_caches, plain_run_seconds, resnet50, run, save, seconds_of_passes, training

from headstart.data.preprocessing import Preprocessing
from headstart.features.encoder import Encoder


def main(data: Path) -> None:
    precision = Encoder(resnet50(Preprocessing(256, 224)), precision="auto", compile=False).precision
    plain, limits = [plain_run_seconds(data)], [seconds_of_passes(data, precision)]
    with empty_caches() as environment, tempfile.TemporaryDirectory() as folder:
        cold, _ = run(*training(data, f"{folder}/0"), **environment)
        report = json.loads(Path(folder, "0", "run", "run.json").read_text())["seconds"]["report"]
        warm = [run(*training(data, f"{folder}/{n}"), **environment)[0] for n in range(1, 4)]
    plain.append(plain_run_seconds(data))
    limits.append(seconds_of_passes(data, precision))
    seconds = {"plain": statistics.mean(plain), "cold": cold, "report": report, "warm": statistics.median(warm)}
    save(
        "cold_and_warm_run",
        seconds=seconds,
        plain_is="extrapolated from four timed epochs",
        precision=precision,
        fraction_of_limit=statistics.mean(limits) / cold,
        # The plain run makes no report either.
        fraction_of_limit_without_report=statistics.mean(limits) / (cold - report),
        cold_ratio=seconds["plain"] / seconds["cold"],
        warm_ratio=seconds["plain"] / seconds["warm"],
    )


if __name__ == "__main__":
    main(data_folder(__doc__))
