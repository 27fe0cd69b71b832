"""Pictures a second from JPEG with training transforms, and what part of the bf16 matrix rate that is.

python benchmarks/encode.py DATA
"""

import statistics
import time
from pathlib import Path

import torch
from common import data_folder, plain_loop, save
from torch.utils.flop_counter import FlopCounterMode

from headstart.data.cached import ENCODING_BATCH
from headstart.data.dataset import ImageDataset
from headstart.data.inspection import inspect_all
from headstart.data.listing import read_listing
from headstart.data.manifest import build_manifest
from headstart.data.sampler import ViewSampler
from headstart.data.transforms import Preprocessing, TrainTransform
from headstart.features.encoder import CPU_CHUNK, Encoder
from headstart.model.weights import load_backbone
from headstart.settings import SplitSettings

SIZE = 2048  # of the square matrices


def matrix_rate() -> float:
    """bf16 multiply-adds as FLOP/s, of one product of square matrices; the median of several."""
    a, b = (torch.randn(SIZE, SIZE, dtype=torch.bfloat16) for _ in range(2))
    rates = []
    for _ in range(12):
        start = time.perf_counter()
        a @ b
        rates.append(2 * SIZE**3 / (time.perf_counter() - start))
    return statistics.median(rates[2:])


def view_rate(encoder: Encoder, data: torch.utils.data.DataLoader) -> float:
    start = time.perf_counter()
    count = sum(len(features) for features in encoder.encode(images for images, _ in data))
    return count / (time.perf_counter() - start)


def main(data: Path) -> None:
    sizes = Preprocessing(resize_size=256, image_size=224)
    backbone, _ = load_backbone("resnet50", None, seed=0, preprocessing=sizes)
    with FlopCounterMode(display=False) as counter:
        backbone(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))
    flops = counter.get_total_flops()
    encoder = Encoder(backbone, precision="auto", compile=True)
    encoder.prepare(1)
    encoder(torch.zeros(CPU_CHUNK, 3, 224, 224, dtype=torch.uint8))
    listing = read_listing(data, SplitSettings(50, 8), seed=0)
    manifest = build_manifest(listing, inspect_all(listing.root, [path for _, _, path in listing.samples()]))
    dataset = ImageDataset(manifest.splits["train"], TrainTransform(sizes, seed=0))
    sampler = ViewSampler(len(dataset), seed=None)
    loader = torch.utils.data.DataLoader(dataset, batch_size=ENCODING_BATCH, sampler=sampler)
    plain, tuned, ours, matrices = [], [], [], []
    for _ in range(3):
        plain += plain_loop(data)["pictures_per_second"]
        tuned += plain_loop(data, "--tuned")["pictures_per_second"]
        for _ in range(3):
            ours.append(view_rate(encoder, loader))
            matrices.append(matrix_rate())
    rates = {name: statistics.median(values) for name, values in (("plain", plain), ("tuned", tuned), ("ours", ours))}
    matrix = statistics.median(matrices)
    save(
        "encode",
        precision=encoder.precision,
        pictures_per_second=rates,
        bf16_matrix_rate=matrix,
        flops_per_picture=flops,
        ratio_to_plain=rates["ours"] / rates["plain"],
        ratio_to_tuned=rates["ours"] / rates["tuned"],
        fraction_of_matrix_rate=rates["ours"] * flops / matrix,
    )


if __name__ == "__main__":
    main(data_folder(__doc__))
