"""Proves a refactoring: trains the same runs in two checkouts and compares every number they leave.

python benchmarks/same_numbers.py record FOLDER DATA WEIGHTS   in each checkout; MobileNetV2 weights, flat class folders
python benchmarks/same_numbers.py compare FOLDER FOLDER

Version 0.1 counted epochs from 0. Its recordings are compared as if it had counted them from 1, as later versions do.
"""

import argparse
import csv
import json
import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMON = ("features.precision=32", "features.compile=false")
# Metrics are computed once per epoch from all predictions, in another order of summation than a mean over batches.
TOLERANCE = 2e-7
# Seconds and machine-dependent fields are not results.
IGNORED = ("seconds",)


def record(folder: Path, data: Path, weights: Path) -> None:
    """Trains every run below `folder`, and predicts each one's test images with its best checkpoint."""
    zoo = (
        *("data=folder", f"data.root={data}", "data.split.train=50", "data.split.valid=8"),
        *("data.resize_size=256", "data.image_size=224", "model.arch=mobilenet_v2", f"model.weights={weights}"),
    )
    runs = {
        "quickstart": ("experiment=quickstart", f"data.root={folder}/shapes"),
        "frozen": (*zoo, "trainer.max_epochs=4"),
        "uncached": (*zoo, "trainer.max_epochs=2", "features.cache=false"),
        "gradual": (*zoo, "finetune=gradual", "finetune.epochs=[2,3]", "trainer.max_epochs=4"),
        "interrupted": (*zoo, "trainer.max_epochs=2"),
        "resumed": (f"ckpt_path={folder}/interrupted/checkpoints/last.ckpt", "trainer.max_epochs=4"),
    }
    for name, overrides in runs.items():
        train(folder, *overrides, f"hydra.run.dir={folder}/{name}")
        predict(folder, name, folder / "shapes" / "test" if name == "quickstart" else data)
    sweep = ("-m", "model.lr=1e-2,1e-3", "model.dropout=0.2,0.4", "trainer.max_epochs=3")
    train(folder, *zoo, *sweep, f"hydra.sweep.dir={folder}/sweep")


def train(folder: Path, *overrides: str) -> None:
    run("train.py", *overrides, *COMMON, f"features.dir={folder}/features")


def predict(folder: Path, name: str, source: Path) -> None:
    checkpoint = folder / name / "checkpoints" / "best.ckpt"
    outputs = (f"output={folder}/{name}/predicted", "topk=10")
    run("predict.py", f"ckpt_path={checkpoint}", f"source={source}", *outputs, *COMMON)


def run(script: str, *arguments: str) -> None:
    command = [sys.executable, str(ROOT / script), *arguments]
    print("$", *command[1:], flush=True)
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=ROOT, env={"PYTHONPATH": "src", **os.environ})


def numbers(folder: Path) -> dict[str, str]:
    """Every number that the runs below `folder` left, by where it stands."""
    found: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_symlink() or any(parent.is_symlink() for parent in path.parents):
            continue
        place = path.relative_to(folder).as_posix()
        if path.name == "history.csv":
            found |= {f"{place}:{where}": value for where, value in of_history(path)}
        elif path.name == "predictions.csv":
            found |= {f"{place}:{where}": value for where, value in of_predictions(path)}
        elif path.name == "metrics.json":
            metrics = json.loads(path.read_text())
            if "best_epoch" in metrics:
                metrics["best_epoch"] += first_epoch_is_0(path.with_name("history.csv"))
            found |= {f"{place}:{name}": repr(value) for name, value in metrics.items() if name not in IGNORED}
    return found


def of_history(path: Path) -> Iterator[tuple[str, str]]:
    offset = first_epoch_is_0(path)
    for row in rows_of(path):
        epoch = int(row.pop("epoch")) + offset
        yield from ((f"{epoch}:{name}", value) for name, value in row.items())


def of_predictions(path: Path) -> Iterator[tuple[str, str]]:
    for row in rows_of(path):
        # Not the whole path of an image, which begins with the recording's folder.
        image = "/".join(Path(row.pop("path")).parts[-3:])
        yield from ((f"{image}:{name}", value) for name, value in row.items())


def first_epoch_is_0(history: Path) -> bool:
    """Whether a history is of version 0.1."""
    return next(iter(rows_of(history)))["epoch"] == "0"


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def compare(before: Path, after: Path) -> bool:
    """Prints every number that differs by more than the tolerance, and how many are equal. Returns whether all are."""
    old, new = numbers(before), numbers(after)
    equal = sum(old[key] == new[key] for key in old.keys() & new.keys())
    near, apart = [], []
    for key in sorted(old.keys() & new.keys()):
        if old[key] != new[key]:
            (near if is_near(old[key], new[key]) else apart).append(key)
    for key in apart:
        print(f"differs  {key}: {old[key]} → {new[key]}")
    for key in sorted(old.keys() - new.keys()):
        print(f"missing  {key}: {old[key]}")
    print(f"{equal} numbers equal to the last digit, {len(near)} within {TOLERANCE:g}, {len(apart)} differ")
    print(f"{len(old.keys() - new.keys())} missing, {len(new.keys() - old.keys())} new")
    return not apart and not old.keys() - new.keys()


def is_near(old: str, new: str) -> bool:
    try:
        return math.isclose(float(old), float(new), rel_tol=TOLERANCE, abs_tol=TOLERANCE)
    except ValueError:
        return False


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, arguments in (("record", ("folder", "data", "weights")), ("compare", ("before", "after"))):
        command = commands.add_parser(name)
        for argument in arguments:
            command.add_argument(argument, type=lambda text: Path(text).resolve())
    given = vars(parser.parse_args())
    if given.pop("command") == "record":
        record(**given)
    elif not compare(**given):
        sys.exit(1)


if __name__ == "__main__":
    main()
