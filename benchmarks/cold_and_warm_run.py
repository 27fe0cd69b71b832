"""The time to a first result, and to the next ones: whole runs of 20 epochs without early stopping.

python benchmarks/cold_and_warm_run.py DATA

Beside them: the plain loop, the tuned one, and an expert's script. headstart's first run is measured on
a machine that has nothing, and on one that has compiled code; once more with a new view in every epoch; and warm, with
the cached features. ResNet50 has random weights.
"""

import json
import shutil
import statistics
import tempfile
from collections.abc import Callable
from pathlib import Path

from common import (
    HERE,
    data_folder,
    empty_caches,
    matrix_rate,
    plain_run_seconds,
    resnet50,
    run,
    save,
    seconds_of_passes,
    training,
)

from headstart.data.preprocessing import Preprocessing
from headstart.features.encoder import Encoder

TIMES = 3  # of measurements, whose median counts
NO_REPORT = "report=none"
EVERY_EPOCH = "features.views=null"


def median(measure: Callable[[], float]) -> float:
    return statistics.median(measure() for _ in range(TIMES))


class Runs:
    """Whole runs in new folders, which share caches that are empty at first."""

    def __init__(self, data: Path, folder: str, environment: dict[str, str]) -> None:
        self._data, self._folder, self._environment = data, Path(folder), environment
        self._count = 0

    def seconds(self, *overrides: str, is_first: bool = True) -> float:
        """The seconds of a run which, unless it `is_first`, finds the features of earlier ones."""
        if is_first:
            shutil.rmtree(Path(self._environment["XDG_CACHE_HOME"], "headstart", "features"), ignore_errors=True)
        self._count += 1
        return run(*training(self._data, str(self._latest), *overrides), **self._environment)[0]

    def report_seconds(self) -> float:
        """The seconds of the latest run's report."""
        return float(json.loads((self._latest / "run" / "run.json").read_text())["seconds"]["report"])

    @property
    def _latest(self) -> Path:
        return self._folder / str(self._count)


def main(data: Path) -> None:
    precision = Encoder(resnet50(Preprocessing(256, 224)), precision="auto", compile=False).precision
    imports = ["-c", "import torch, torchvision, pytorch_lightning"]
    plain, limits = [plain_run_seconds(data)], [seconds_of_passes(data, precision)]
    seconds = {
        "tuned": plain_run_seconds(data, "--tuned"),
        "expert": median(lambda: run(str(HERE / "expert_script.py"), str(data))[0]),
        "imports": median(lambda: run(*imports)[0]),
    }
    with empty_caches() as environment, tempfile.TemporaryDirectory() as folder:
        runs = Runs(data, folder, environment)
        every = {"cold": runs.seconds(EVERY_EPOCH), "report": runs.report_seconds()}
        every["cold again"] = runs.seconds(EVERY_EPOCH)
    with empty_caches() as environment, tempfile.TemporaryDirectory() as folder:
        runs = Runs(data, folder, environment)
        seconds["cold"] = runs.seconds()
        seconds["cold again"] = median(runs.seconds)
        seconds["cold again, no report"] = median(lambda: runs.seconds(NO_REPORT))
        seconds["warm"] = median(lambda: runs.seconds(is_first=False))
        seconds["warm, no report"] = median(lambda: runs.seconds(NO_REPORT, is_first=False))
    plain.append(plain_run_seconds(data))
    limits.append(seconds_of_passes(data, precision))
    seconds["plain"] = statistics.mean(plain)
    save(
        "cold_and_warm_run",
        seconds=seconds,
        seconds_of_a_view_per_epoch=every,
        plain_is="extrapolated from four timed epochs",
        precision=precision,
        matrix_rate=matrix_rate(precision),
        fraction_of_limit=statistics.mean(limits) / every["cold"],
        # The plain run makes no report either.
        fraction_of_limit_without_report=statistics.mean(limits) / (every["cold"] - every["report"]),
        cold_ratio=seconds["plain"] / seconds["cold"],
        warm_ratio=seconds["plain"] / seconds["warm"],
    )


if __name__ == "__main__":
    main(data_folder(__doc__))
