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

from common import HERE, data_folder, empty_caches, plain_run_seconds, resnet50, run, save, seconds_of_passes, training

from headstart.data.preprocessing import Preprocessing
from headstart.features.encoder import Encoder

TIMES = 3
NO_REPORT = "report=none"
EVERY_EPOCH = "features.views=null"


def median(measure: Callable[[int], float]) -> float:
    """The median of TIMES measurements, which are given their number."""
    return statistics.median(measure(number) for number in range(TIMES))


def first_runs(data: Path, *overrides: str) -> dict[str, float]:
    """The seconds of first runs on a machine with nothing and with compiled code, and of warm runs."""
    with empty_caches() as environment, tempfile.TemporaryDirectory() as folder:

        def seconds(number: int, *more: str, keeps: bool) -> float:
            if not keeps:
                shutil.rmtree(Path(environment["XDG_CACHE_HOME"], "headstart", "features"), ignore_errors=True)
            return run(*training(data, f"{folder}/{number}", *overrides, *more), **environment)[0]

        found = {"cold": seconds(0, keeps=False)}
        found["report"] = json.loads(Path(folder, "0", "run", "run.json").read_text())["seconds"]["report"]
        found["cold again"] = median(lambda number: seconds(number + 1, keeps=False))
        found["cold again, no report"] = median(lambda number: seconds(number + 10, NO_REPORT, keeps=False))
        found["warm"] = median(lambda number: seconds(number + 20, keeps=True))
        found["warm, no report"] = median(lambda number: seconds(number + 30, NO_REPORT, keeps=True))
    return found


def main(data: Path) -> None:
    precision = Encoder(resnet50(Preprocessing(256, 224)), precision="auto", compile=False).precision
    imports = ["-c", "import torch, torchvision, pytorch_lightning"]
    plain, limits = [plain_run_seconds(data)], [seconds_of_passes(data, precision)]
    seconds = {
        "tuned": plain_run_seconds(data, "--tuned"),
        "expert": median(lambda _: run(str(HERE / "expert_script.py"), str(data))[0]),
        "imports": median(lambda _: run(*imports)[0]),
    }
    few, every = first_runs(data), first_runs(data, EVERY_EPOCH)
    plain.append(plain_run_seconds(data))
    limits.append(seconds_of_passes(data, precision))
    seconds |= {"plain": statistics.mean(plain)} | few
    save(
        "cold_and_warm_run",
        seconds=seconds,
        seconds_of_a_view_per_epoch=every,
        plain_is="extrapolated from four timed epochs",
        precision=precision,
        fraction_of_limit=statistics.mean(limits) / every["cold"],
        # The plain run makes no report either.
        fraction_of_limit_without_report=statistics.mean(limits) / (every["cold"] - every["report"]),
        cold_ratio=seconds["plain"] / seconds["cold"],
        warm_ratio=seconds["plain"] / seconds["warm"],
    )


if __name__ == "__main__":
    main(data_folder(__doc__))
