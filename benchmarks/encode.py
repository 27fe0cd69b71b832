"""Images per second from JPEG with training transforms, and the fraction of the bf16 matrix rate that this is.

python benchmarks/encode.py DATA
"""

import statistics
import tempfile
import time
from pathlib import Path

import torch
from common import data_folder, inspected, plain_loop, resnet50, save, train_features
from torch.utils.flop_counter import FlopCounterMode

from headstart.data.dataset import ImageDataset
from headstart.data.preprocessing import Preprocessing
from headstart.data.transforms import TrainTransform
from headstart.features.encode import SplitFeatures
from headstart.features.encoder import Encoder

SIZE = 2048  # of the square matrices


def matrix_rate() -> float:
    """The FLOP/s of a product of square bf16 matrices; the median of several."""
    a, b = (torch.randn(SIZE, SIZE, dtype=torch.bfloat16) for _ in range(2))
    rates = []
    for _ in range(12):
        start = time.perf_counter()
        a @ b
        rates.append(2 * SIZE**3 / (time.perf_counter() - start))
    return statistics.median(rates[2:])


def view_rate(features: SplitFeatures, view: int) -> float:
    """Images per second of one view, which is decoded, augmented, encoded and stored."""
    start = time.perf_counter()
    return len(features.encode_view(view)) / (time.perf_counter() - start)


def main(data: Path) -> None:
    sizes = Preprocessing(resize_size=256, image_size=224)
    backbone = resnet50(sizes)
    with FlopCounterMode(display=False) as counter:
        backbone(torch.zeros(1, 3, 224, 224, dtype=torch.uint8))
    flops = counter.get_total_flops()
    encoder = Encoder(backbone, precision="auto", compile=True)
    encoder.prepare(1)
    encoder.warm_up(sizes.image_size)
    dataset = ImageDataset(inspected(data).manifest.splits["train"], TrainTransform(sizes, seed=0))
    plain, tuned, ours, matrices = [], [], [], []
    with tempfile.TemporaryDirectory() as folder:
        features = train_features(dataset, encoder, folder)
        for view in range(9):
            if view % 3 == 0:
                plain += plain_loop(data)["images_per_second"]
                tuned += plain_loop(data, "--tuned")["images_per_second"]
            ours.append(view_rate(features, view))
            matrices.append(matrix_rate())
    rates = {name: statistics.median(values) for name, values in (("plain", plain), ("tuned", tuned), ("ours", ours))}
    matrix = statistics.median(matrices)
    save(
        "encode",
        precision=encoder.precision,
        images_per_second=rates,
        bf16_matrix_rate=matrix,
        flops_per_image=flops,
        ratio_to_plain=rates["ours"] / rates["plain"],
        ratio_to_tuned=rates["ours"] / rates["tuned"],
        fraction_of_matrix_rate=rates["ours"] * flops / matrix,
    )


if __name__ == "__main__":
    main(data_folder(__doc__))
