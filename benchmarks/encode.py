"""Images per second from JPEG with training transforms, and the fraction of the rate of matrix products that this is.

python benchmarks/encode.py DATA
"""

import statistics
import tempfile
import time
from pathlib import Path

from common import data_folder, flops_per_image, inspected, matrix_rate, plain_loop, resnet50, save, train_features

from headstart.data.dataset import ImageDataset, TrainTransform
from headstart.data.preprocessing import Preprocessing
from headstart.features.encoder import Encoder
from headstart.features.source import SplitFeatures


def view_rate(features: SplitFeatures, view: int) -> float:
    """Images per second of one view, which is decoded, augmented, encoded and stored."""
    start = time.perf_counter()
    return len(features.encode_view(view)) / (time.perf_counter() - start)


def main(data: Path) -> None:
    sizes = Preprocessing(resize_size=256, image_size=224)
    backbone = resnet50(sizes)
    flops = flops_per_image(backbone)
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
            matrices.append(matrix_rate(encoder.precision))
    rates = {name: statistics.median(values) for name, values in (("plain", plain), ("tuned", tuned), ("ours", ours))}
    matrix = statistics.median(matrices)
    save(
        "encode",
        precision=encoder.precision,
        images_per_second=rates,
        matrix_rate=matrix,
        flops_per_image=flops,
        ratio_to_plain=rates["ours"] / rates["plain"],
        ratio_to_tuned=rates["ours"] / rates["tuned"],
        fraction_of_matrix_rate=rates["ours"] * flops / matrix,
    )


if __name__ == "__main__":
    main(data_folder(__doc__))
