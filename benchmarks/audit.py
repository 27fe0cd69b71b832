"""How long an audit takes, against decoding every picture once, on all cores: python benchmarks/audit.py DATA."""

import os
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

from common import data_folder, save
from PIL import Image

from headstart.data.audit import audit
from headstart.data.images import read_rgb
from headstart.data.inspection import inspect_all
from headstart.data.listing import read_listing
from headstart.data.workers import core_count
from headstart.settings import SplitSettings

PICTURES = 10_000
EDGE = 256  # pixels at most
ROUNDS = 3


def main() -> None:
    data = data_folder(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder) / "pictures"
        paths = make_pictures(sorted(data.glob("*/*.jpg")), root)
        decode, first, again = [], [], []
        with ProcessPoolExecutor(core_count()) as pool:
            for number in range(ROUNDS):
                decode.append(seconds(lambda: list(pool.map(decode_one, paths, chunksize=100))))
                os.environ["XDG_CACHE_HOME"] = f"{folder}/cache{number}"
                first.append(seconds(lambda: whole_audit(root)))
                again.append(seconds(lambda: whole_audit(root)))
    medians = {name: statistics.median(v) for name, v in (("decode", decode), ("audit", first), ("again", again))}
    save("audit", pictures=PICTURES, seconds=medians, ratio=medians["audit"] / medians["decode"])


def make_pictures(sources: list[Path], root: Path) -> list[Path]:
    """Small JPEGs, no two of the same content, in the class folders of `sources`."""
    paths = []
    for number in range(PICTURES):
        source = sources[number % len(sources)]
        image = Image.open(source).convert("RGB")
        image.thumbnail((EDGE, EDGE))
        turn = number // len(sources)
        path = root / source.parent.name / f"{source.stem}-{turn}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        # Of another quality, and so another file, each time round.
        image.save(path, quality=80 + turn)
        paths.append(path)
    return paths


def decode_one(path: Path) -> None:
    read_rgb(path)


def whole_audit(root: Path) -> None:
    listing = read_listing(root, SplitSettings(50, 8), seed=0)
    audit(listing, inspect_all(root, [path for _, _, path in listing.samples()]))


def seconds(function: Callable[[], Any]) -> float:
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


if __name__ == "__main__":
    main()
