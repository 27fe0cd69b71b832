"""How long an audit takes, compared with decoding every image once on all cores: python benchmarks/audit.py DATA."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from common import data_folder, inspected, save
from PIL import Image

from headstart.auditing.findings import find_problems
from headstart.data.images import read_rgb
from headstart.machine import core_count

IMAGES = 10_000
EDGE = 256  # pixels at most
ROUNDS = 3


def main() -> None:
    data = data_folder(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "images"
        paths = make_images(sorted(data.glob("*/*.jpg")), root)
        decode, first, again = [], [], []
        with ProcessPoolExecutor(core_count()) as pool:
            for number in range(ROUNDS):
                decode.append(seconds(lambda: list(pool.map(decode_one, paths, chunksize=100))))
                os.environ["XDG_CACHE_HOME"] = f"{folder}/cache{number}"
                first.append(seconds(lambda: whole_audit(root)))
                again.append(seconds(lambda: whole_audit(root)))
    medians = {name: statistics.median(v) for name, v in (("decode", decode), ("audit", first), ("again", again))}
    save("audit", images=IMAGES, seconds=medians, ratio=medians["audit"] / medians["decode"])


def make_images(sources: list[Path], root: Path) -> list[Path]:
    """Small JPEGs with different contents, in the class folders of `sources`."""
    paths = []
    for number in range(IMAGES):
        source = sources[number % len(sources)]
        image = Image.open(source).convert("RGB")
        image.thumbnail((EDGE, EDGE))
        repeat = number // len(sources)
        path = root / source.parent.name / f"{source.stem}-{repeat}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        # The quality makes each repeat a different file.
        image.save(path, quality=80 + repeat)
        paths.append(path)
    return paths


def decode_one(path: Path) -> None:
    read_rgb(path)


def whole_audit(root: Path) -> None:
    find_problems(inspected(root))


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
