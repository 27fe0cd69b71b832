"""Proves a refactoring: runs the same commands in two checkouts and compares every number and image they leave.

python benchmarks/same_numbers.py record FOLDER   in each checkout; images are drawn, weights are the bundled ones
python benchmarks/same_numbers.py compare FOLDER FOLDER

A second recording of another checkout into a copy of the first one's `features/` shows that stored features are still
used: `encoded` counts the views that each run encoded.
"""

import argparse
import csv
import hashlib
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
# Format, precision and input of exported models.
KINDS = ("onnx float32 model", "onnx float16 model", "onnx int8 model", "onnx float32 any", "pt2 float32 model")
COMMON = ("features.precision=32", "features.compile=false")
# They differ between two runs of the same code.
IGNORED = ("run.json", "config.yaml", "audit.json", "info.json", "ensemble.json", "sweep.json")
VARYING = ("seconds", "created", "command")
READ = {".json", ".csv", ".png", ".jpg", ".txt"}


def record(folder: Path) -> None:
    """Trains, sweeps, exports and predicts below `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    shapes = folder / "shapes"
    quick = ("experiment=quickstart", f"data.root={shapes}", "trainer.max_epochs=4")
    train(folder, "quickstart", "experiment=quickstart", f"data.root={shapes}")
    train(folder, "uncached", *quick, "features.cache=false")
    train(folder, "gradual", *quick, "finetune=gradual", "finetune.epochs=[2,3]")
    train(folder, "interrupted", *quick, "trainer.max_epochs=2")
    train(folder, "resumed", f"ckpt_path={folder}/interrupted/checkpoints/last.ckpt", "trainer.max_epochs=4")
    for head in ("linear", "ridge", "knn"):
        train(folder, head, *quick, f"model.head={head}")
    own = ("model=mobilenet_v3_small", "model.weights=bundled", "data.image_size=64", "data.resize_size=64")
    archive = shutil.make_archive(str(folder / "archive"), "zip", shapes, "train")
    train(folder, "archive", *own, "data=folder", f"data.root={archive}", "trainer.max_epochs=3")
    table = write_table(shapes, folder / "labels.csv")
    labels = (*own, "data=csv", f"data.root={shapes}", f"data.csv={table}", "data.group=patient", "data.folds=3")
    train(folder, "groups", *labels, "data.fold=1", "trainer.max_epochs=3")
    sweep(folder, "folds", *labels, "data.fold=0,1,2", "trainer.max_epochs=2")
    sweep(folder, "rates", *quick, "model.lr=1e-2,1e-3", "model.dropout=0.2,0.4", "sweep.ensemble=2")
    vit = ("model.arch=timm/vit_tiny_patch16_224", "model.weights=null", "data.image_size=32", "data.resize_size=32")
    sweep(folder, "pooling", *quick, *vit, "model.pooling=cls,avg,cls+avg", "trainer.max_epochs=2")
    predict_and_export(folder, folder / "quickstart" / "checkpoints" / "best.ckpt", shapes / "test")


def predict_and_export(folder: Path, checkpoint: Path, images: Path) -> None:
    """Predicts with every option of predict.py, and with every kind of exported model."""
    for name, options in {
        "plain": ["topk=10"],
        "views": ["views=3"],
        "explained": ["explain=true", "annotate=true"],
        "labelled": ["labelled=true", "min_confidence=0.9", "rows=true"],
    }.items():
        predict(folder, f"predicted-{name}", f"ckpt_path={checkpoint}", f"source={images}", *options, *COMMON)
    for kind in (
        "onnx float32 model",
        "onnx float16 model",
        "onnx int8 model",
        "onnx float32 any",
        "pt2 float32 model",
    ):
        name = "-".join(kind.split())
        keys = dict(zip(("format", "precision", "input"), kind.split(), strict=True))
        model = folder / "exported" / f"{name}.{keys['format']}"
        chosen = [f"export.{key}={value}" for key, value in keys.items()]
        run(
            folder,
            f"export-{name}",
            "train.py",
            "task=export",
            f"ckpt_path={checkpoint}",
            f"export.path={model}",
            *chosen,
        )
        predict(folder, f"predicted-{name}", f"model={model}", f"source={images}")


def write_table(shapes: Path, table: Path) -> Path:
    """A table of the training images, five of each patient."""
    paths = sorted((shapes / "train").glob("*/*"))
    rows = [(path.relative_to(shapes).as_posix(), path.parent.name, f"p{i // 5}") for i, path in enumerate(paths)]
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("path", "label", "patient"), *rows])
    return table


def train(folder: Path, name: str, *overrides: str) -> None:
    stored = f"features.dir={folder}/features"
    run(folder, name, "train.py", *overrides, *COMMON, stored, f"hydra.run.dir={folder}/{name}")


def sweep(folder: Path, name: str, *overrides: str) -> None:
    stored = f"features.dir={folder}/features"
    run(folder, name, "train.py", "-m", *overrides, *COMMON, stored, f"hydra.sweep.dir={folder}/{name}")


def predict(folder: Path, name: str, *overrides: str) -> None:
    run(folder, name, "predict.py", *overrides, f"output={folder}/{name}")


def run(folder: Path, name: str, script: str, *arguments: str) -> None:
    """Runs a command; what it prints is kept in `folder`/stdout."""
    print("$", script, *arguments, flush=True)
    command = [sys.executable, str(ROOT / script), *arguments]
    environment = {**os.environ, "PYTHONPATH": str(ROOT / "src"), "HEADSTART_CACHE": str(folder / "cache")}
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, cwd=folder, env=environment)
    (folder / "stdout").mkdir(exist_ok=True)
    (folder / "stdout" / f"{name}.txt").write_text(done.stdout, encoding="utf-8")
    if done.returncode != 0:
        sys.exit(f"{name} failed")


def contents(folder: Path) -> dict[str, str]:
    """Returns every number, text and image that the commands left below `folder`, by where it stands."""
    values: dict[str, str] = {}
    for path in sorted(folder.rglob("*")):
        place = path.relative_to(folder)
        aside = place.parts[0] in ("shapes", "features", "cache", "archive.zip") or path.name in IGNORED
        if aside or path.suffix not in READ or any(p.is_symlink() for p in (path, *path.parents)):
            continue
        values |= {f"{place}:{where}": value.replace(str(folder), "FOLDER") for where, value in of_file(path)}
    return values


def of_file(path: Path) -> Iterator[tuple[str, str]]:
    if path.suffix == ".json":
        yield from of_json("", json.loads(path.read_text(encoding="utf-8")))
    elif path.suffix == ".csv":
        with path.open(newline="", encoding="utf-8") as file:
            for number, row in enumerate(csv.DictReader(file)):
                yield from ((f"{number}:{name}", str(value)) for name, value in row.items() if name not in VARYING)
    elif path.suffix == ".txt":
        # Lines without seconds, which are those of epochs and of the end.
        lines = path.read_text(encoding="utf-8").splitlines()
        yield from ((str(n), line) for n, line in enumerate(lines) if " s" not in line)
    else:
        yield "sha256", hashlib.sha256(path.read_bytes()).hexdigest()


def of_json(where: str, value: Any) -> Iterator[tuple[str, str]]:
    """The leaves of a JSON document, by their keys."""
    if isinstance(value, dict | list):
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        for key, entry in entries:
            if key not in VARYING:
                yield from of_json(f"{where}/{key}", entry)
    else:
        yield where, repr(value)


def compare(before: Path, after: Path) -> bool:
    """Prints what differs, and how much is equal. Returns whether all is."""
    old, new = contents(before), contents(after)
    differing = [key for key in sorted(old.keys() & new.keys()) if old[key] != new[key]]
    for key in differing:
        print(f"differs  {key}: {old[key]} → {new[key]}")
    for key in sorted(old.keys() ^ new.keys()):
        print(f"{'missing' if key in old else 'new'}  {key}")
    print(f"{len(old.keys() & new.keys()) - len(differing)} values equal to the last digit, {len(differing)} differ")
    return not differing and old.keys() == new.keys()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    for name, arguments in (("record", ("folder",)), ("compare", ("before", "after"))):
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
