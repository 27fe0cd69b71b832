"""What the audit finds of faults put into a copy of a dataset on purpose, and what cleanvision finds, if installed.

python benchmarks/planted_faults.py DATA WEIGHTS FOREIGN: flat class folders, MobileNetV2's weights, and a folder of
images of none of the classes.
"""

import argparse
import contextlib
import importlib.util
import io
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from common import ROOT, save
from PIL import Image, ImageEnhance, ImageFilter

from headstart.files import read_json

COUNT = 12
EDGE = 224
OURS = {
    "blurry": ("blurry",),
    "dark": ("dark",),
    "overexposed": ("overexposed", "placeholder"),
    "cropped copy": (
        "near duplicates within a split",
        "near duplicates across splits",
        "near duplicates with conflicting labels",
    ),
    "of no class": ("outlier",),
}
THEIRS = {
    "blurry": "is_blurry_issue",
    "dark": "is_dark_issue",
    "overexposed": "is_light_issue",
    "cropped copy": "is_near_duplicates_issue",
}


def blurred(image: Image.Image) -> Image.Image:
    return image.filter(ImageFilter.GaussianBlur(3 * min(image.size) / EDGE))


def cropped(image: Image.Image) -> Image.Image:
    x, y = image.width // 20, image.height // 20
    return image.crop((x, y, image.width - x, image.height - y))


CHANGES: dict[str, Callable[[Image.Image], Image.Image]] = {
    "blurry": blurred,
    "dark": lambda image: ImageEnhance.Brightness(image).enhance(0.12),
    "overexposed": lambda image: image.point(lambda value: 228 + value * 27 // 255),
    "cropped copy": cropped,
}


def plant(data: Path, foreign: Path, root: Path) -> dict[str, set[str]]:
    """Copies `data` to `root` with faults, and returns the paths of the faulty images by their faults."""
    shutil.copytree(data, root)
    images = sorted(root.glob("*/*.jpg"))
    random.Random(0).shuffle(images)
    planted: dict[str, set[str]] = {name: set() for name in OURS}
    for fault, change in CHANGES.items():
        for _ in range(COUNT):
            path = images.pop()
            with Image.open(path) as image:
                changed = change(image.convert("RGB"))
            target = path.with_name(f"{fault.replace(' ', '_')}_{path.name}")
            changed.save(target, quality=90)
            if fault != "cropped copy":
                path.unlink()
            planted[fault].add(str(target.relative_to(root)))
    folders = sorted(path for path in root.iterdir() if path.is_dir())
    for number, path in enumerate(sorted(foreign.rglob("*.jpg"))[:COUNT]):
        target = folders[number % len(folders)] / f"of_no_class_{number}.jpg"
        shutil.copy(path, target)
        planted["of no class"].add(str(target.relative_to(root)))
    return planted


def ours(root: Path, weights: Path, folder: str) -> dict[str, set[str]]:
    """The paths that `task=audit` finds, by fault."""
    command = ["task=audit", "data=folder", f"data.root={root}", "model.arch=mobilenet_v2", f"model.weights={weights}"]
    command += ["data.near_duplicates=true", f"hydra.run.dir={folder}/run"]
    # Its status is 1, because there are errors.
    subprocess.run([sys.executable, str(ROOT / "train.py"), *command], cwd=ROOT, check=False, capture_output=True)
    findings = read_json(Path(folder, "run", "audit.json"))["findings"]
    return {
        fault: {path for finding in findings if finding["kind"] in kinds for path in finding["paths"]}
        for fault, kinds in OURS.items()
    }


def theirs(root: Path) -> dict[str, set[str]]:
    """The paths that cleanvision finds, by fault."""
    from cleanvision import Imagelab  # type: ignore[import-not-found]

    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        lab = Imagelab(data_path=str(root))
        lab.find_issues()
    table = lab.issues
    return {
        fault: {str(Path(path).relative_to(root)) for path in table.index[table[column]]}
        for fault, column in THEIRS.items()
    }


def main(data: Path, weights: Path, foreign: Path) -> None:
    """Prints and saves, for each kind of fault, how many were found and how many other images were."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder).resolve() / "planted"
        planted = plant(data, foreign, root)
        tools = {"headstart": ours(root, weights, folder)}
        if importlib.util.find_spec("cleanvision"):
            tools["cleanvision"] = theirs(root)
    result: dict[str, Any] = {}
    for fault, paths in planted.items():
        result[fault] = {"planted": len(paths)}
        for tool, found in tools.items():
            if fault in found:
                hit = len(found[fault] & paths)
                originals = {path.replace("cropped_copy_", "") for path in paths}
                result[fault][tool] = {"found": hit, "others": len(found[fault] - paths - originals)}
    save("planted_faults", faults=result)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("data", "weights", "foreign"):
        parser.add_argument(name, type=Path)
    main(**{name: path.resolve() for name, path in vars(parser.parse_args()).items()})
