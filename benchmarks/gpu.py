"""What a GPU makes of the recipe: images per second by stage, and whole runs against the plain loop on the same GPU.

python benchmarks/gpu.py DATA   flat class folders with 160 JPEGs each
"""

import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch
from common import (
    data_folder,
    empty_caches,
    inspected,
    plain_loop,
    plain_run_seconds,
    resnet50,
    run,
    save,
    train_features,
    training,
)
from torch.utils.data import DataLoader

from headstart.data.dataset import ImageDataset, TrainTransform, ViewSampler
from headstart.data.preprocessing import Preprocessing
from headstart.features.encoder import Encoder
from headstart.features.source import ENCODING_BATCH
from headstart.processes import loader_options, worker_count

SIZES = Preprocessing(resize_size=256, image_size=224)
BATCHES = 50
TRAIN, VALID = 140, 10
Rate = Callable[[], float]


def median_of(rate: Rate, count: int = 3) -> float:
    return statistics.median(rate() for _ in range(count))


def encoder_rate(encoder: Encoder) -> float:
    """Images per second of images that are on the GPU already."""
    images = torch.randint(0, 256, (ENCODING_BATCH, 3, 224, 224), dtype=torch.uint8, device=encoder.device)
    encoder(images)
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(BATCHES):
        encoder(images)
    torch.cuda.synchronize()
    return BATCHES * len(images) / (time.perf_counter() - start)


def decoding_rate(dataset: ImageDataset, device: torch.device) -> float:
    """Images per second that the workers decode and augment, once they run."""
    pixels = ENCODING_BATCH * SIZES.image_size**2
    loader = DataLoader(
        dataset,
        batch_size=ENCODING_BATCH,
        sampler=ViewSampler(len(dataset), seed=None),
        pin_memory=True,
        **loader_options("auto", device, pixels=pixels, kept=True),
    )
    list(loader)
    start = time.perf_counter()
    return sum(len(labels) for _, labels in loader) / (time.perf_counter() - start)


def main(data: Path) -> None:
    if not torch.cuda.is_available():
        sys.exit("error: there is no GPU")
    device, split = torch.device("cuda"), ("--train", str(TRAIN), "--valid", str(VALID))
    counts = (f"data.split.train={TRAIN}", f"data.split.valid={VALID}")
    encoder = Encoder(resnet50(SIZES), precision="auto", compile="auto").to(device)
    dataset = ImageDataset(inspected(data, TRAIN, VALID).manifest.splits["train"], TrainTransform(SIZES, seed=0))
    with tempfile.TemporaryDirectory() as folder:
        features = train_features(dataset, encoder, folder)
        views = iter(range(10))

        def view_rate() -> float:
            start = time.perf_counter()
            return len(features.encode_view(next(views))) / (time.perf_counter() - start)

        view_rate()
        rates = {
            "plain": statistics.median(plain_loop(data, *split, "--epochs", "3")["images_per_second"]),
            "plain, tuned": statistics.median(
                plain_loop(data, *split, "--tuned", "--epochs", "3")["images_per_second"]
            ),
            "decode and augment": median_of(lambda: decoding_rate(dataset, device)),
            "encode": median_of(lambda: encoder_rate(encoder)),
            "view": median_of(view_rate),
        }
        features.close()
    plain = plain_run_seconds(data, *split)
    with empty_caches() as environment, tempfile.TemporaryDirectory() as folder:
        cold, _ = run(*training(data, f"{folder}/0", *counts), **environment)
        warm = [run(*training(data, f"{folder}/{n}", *counts), **environment)[0] for n in range(1, 4)]
    seconds = {"plain": plain, "cold": cold, "warm": statistics.median(warm)}
    save(
        "gpu",
        gpu=torch.cuda.get_device_name(device),
        torch=torch.__version__,
        workers=worker_count("auto", device),
        precision=encoder.precision,
        train_images=len(dataset),
        images_per_second=rates,
        seconds=seconds,
        plain_is="extrapolated from two timed epochs",
        cold_ratio=plain / cold,
        warm_ratio=plain / seconds["warm"],
    )


if __name__ == "__main__":
    main(data_folder(__doc__))
