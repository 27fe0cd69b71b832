"""Seconds of one core that reading a JPEG of 12 megapixels takes, in full and, by data.max_pixels, at reduced size.

python benchmarks/large_photographs.py DATA: some of its images are enlarged, with noise as that of a camera.
"""

import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
from common import data_folder, save
from PIL import Image

from headstart.data.dataset import EvalTransform
from headstart.data.images import allowed_pixels, read_rgb
from headstart.data.preprocessing import Preprocessing

COUNT, SIZE, PIXELS, REPEATS = 8, (4032, 3024), 1_000_000, 5


def enlarge(data: Path, folder: Path) -> list[Path]:
    """Writes enlarged images as JPEG files and returns their paths."""
    sources, paths = sorted(data.rglob("*.jpg")), []
    for number in range(COUNT):
        with Image.open(sources[number * len(sources) // COUNT]) as image:
            pixels = np.asarray(image.convert("RGB").resize(SIZE, Image.Resampling.BICUBIC), np.float32)
        noise = np.random.default_rng(number).normal(0, 4, (*pixels.shape[:2], 1))
        paths.append(folder / f"{number}.jpg")
        Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(paths[-1], quality=92)
    return paths


def main(data: Path) -> None:
    transform = EvalTransform(Preprocessing(resize_size=256, image_size=224))
    seconds: dict[int | None, list[float]] = {None: [], PIXELS: []}
    seen: dict[int | None, list[np.ndarray]] = {}
    with tempfile.TemporaryDirectory() as folder:
        paths = enlarge(data, Path(folder))
        for _ in range(REPEATS):
            for most, of in seconds.items():
                with allowed_pixels(most):
                    start = time.process_time()
                    seen[most] = [np.asarray(transform(read_rgb(path), 0, 0), np.float32) for path in paths]
                    of.append((time.process_time() - start) / COUNT)
    full, reduced = (statistics.median(of) for of in seconds.values())
    change = np.mean([np.abs(a - b).mean() for a, b in zip(seen[None], seen[PIXELS], strict=True)])
    save(
        "large_photographs", seconds={"full": full, "reduced": reduced}, ratio=full / reduced, mean_change=float(change)
    )


if __name__ == "__main__":
    main(data_folder(__doc__))
