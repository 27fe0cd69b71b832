"""What the report's answers are worth, and what they cost: swapped labels, unfamiliar images, calibration, seconds.

python benchmarks/answers.py DATA WEIGHTS UNKNOWN: flat class folders, MobileNetV2's weights, and a folder of images of
none of the classes.
"""

import argparse
import csv
import json
import random
import shutil
import statistics
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from common import ROOT, empty_caches, run, save, training
from sklearn.metrics import roc_auc_score  # type: ignore[import-untyped]

from headstart.files import read_json

SWAPPED, SEEDS, REPEATS = 0.05, range(5), 3


def main(data: Path, weights: Path, unknown: Path) -> None:
    """Trains MobileNetV2's head on `data`; the images in `unknown` are of none of its classes."""
    model = ("model.arch=mobilenet_v2", f"model.weights={weights}", "data.num_workers=0")
    with empty_caches() as environment, tempfile.TemporaryDirectory() as folder:
        run(*training(data, folder, *model), **environment)
        found = Path(folder) / "run"
        report, record = read_json(found / "report" / "report.json"), read_json(found / "run.json")
        save(
            "answers",
            accuracy={"head": report["accuracy"], **{b["name"]: b["accuracy"] for b in report["baselines"]}},
            log_loss={name: report[name]["log_loss"] for name in ("uncalibrated", "calibrated")},
            calibration_error={name: report[name]["ece"] for name in ("uncalibrated", "calibrated")},
            swapped_labels_in_first_tenth=swapped_labels(data, folder, environment, model),
            unfamiliar=unfamiliar(found, unknown, environment),
            report_seconds={
                "cold": record["seconds"]["report"],
                "warm": warm_seconds(data, folder, environment, model),
            },
        )


def warm_seconds(data: Path, folder: str, environment: dict[str, str], model: tuple[str, ...]) -> float:
    """Of the report of a run whose features are cached; the median of REPEATS."""
    seconds = []
    for repeat in range(REPEATS):
        again = f"{folder}/warm{repeat}"
        run(*training(data, again, *model), **environment)
        seconds.append(read_json(Path(again, "run", "run.json"))["seconds"]["report"])
    return statistics.median(seconds)


def swapped_labels(data: Path, folder: str, environment: dict[str, str], model: tuple[str, ...]) -> list[float]:
    """The share of swapped labels that are in the first tenth of suspicious.csv, for each of SEEDS."""
    shares = []
    for seed in SEEDS:
        root = Path(folder, f"swapped{seed}")
        shutil.copytree(data, root)
        generator, images = random.Random(seed), sorted(root.glob("*/*.jpg"))
        classes, moved = sorted(path for path in root.iterdir() if path.is_dir()), set()
        for path in generator.sample(images, round(SWAPPED * len(images))):
            other = generator.choice([name for name in classes if name != path.parent])
            target = other / f"from_{path.parent.name}_{path.name}"
            path.rename(target)
            moved.add(str(target.relative_to(root)))
        fractions = ("data.split.train=0.7", "data.split.valid=0.15")
        run(*training(root, f"{root}-run", *model, *fractions), **environment)
        with Path(f"{root}-run", "run", "report", "suspicious.csv").open() as file:
            listed = [row["path"] for row in csv.DictReader(file)]
        shares.append(len(moved & set(listed[: len(listed) // 10])) / len(moved))
    return shares


def unfamiliar(found: Path, unknown: Path, environment: dict[str, str]) -> dict[str, Any]:
    """How well familiarity and the highest probability tell unknown images from those of the test split."""
    root = read_json(found / "audit.json")["root"]
    known = [
        str(Path(root, line.split(",")[0])) for line in (found / "test_predictions.csv").read_text().splitlines()[1:]
    ]
    rows = []
    for source in (root, str(unknown)):
        output = found / f"predicted{len(rows)}"
        predict = [str(ROOT / "predict.py"), f"ckpt_path={found}", f"source={source}", f"output={output}"]
        run(*predict, **environment)
        lines = (output / "predictions.jsonl").read_text().splitlines()
        rows.append([row for row in map(json.loads, lines) if row["error"] is None])
    tested = [row for row in rows[0] if row["path"] in set(known)]
    labels = [1] * len(tested) + [0] * len(rows[1])
    both = tested + rows[1]
    flagged = [[row["doubt"] is not None for row in part] for part in (tested, rows[1])]
    return {
        "images": {"test": len(tested), "unknown": len(rows[1])},
        "auroc": {
            "familiarity": roc_auc_score(labels, [row["familiar"] for row in both]),
            "probability": roc_auc_score(labels, [row["predictions"][0]["prob"] for row in both]),
        },
        "marked_as_unfamiliar": {name: float(np.mean(f)) for name, f in zip(("test", "unknown"), flagged, strict=True)},
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("data", "weights", "unknown"):
        parser.add_argument(name, type=Path)
    main(**{name: path.resolve() for name, path in vars(parser.parse_args()).items()})
