"""Predicting 10,000 images with MobileNetV2, as a whole process, and the rate at which its encoder alone has them.

python benchmarks/predict_many.py DATA
"""

import statistics
import tempfile
from pathlib import Path

from common import ROOT, brief_run, data_folder, empty_caches, inspected, run, save, train_features
from encode import view_rate

from headstart.backbones.backbone import Backbone
from headstart.backbones.provider import Choice
from headstart.backbones.torchvision import PROVIDER
from headstart.data.dataset import EvalTransform, ImageDataset
from headstart.data.preprocessing import Preprocessing
from headstart.features.encoder import Encoder

COUNT, ARCH, REPEATS = 10_000, "mobilenet_v2", 3


def encoder_rate(data: Path) -> float:
    """Images per second of decoding, resizing and encoding, without anything else; the code is compiled before."""
    sizes = Preprocessing(256, 224)
    backbone = Backbone(PROVIDER.load(Choice(ARCH, None), 0), sizes, ARCH, "default", 0, PROVIDER.find_stages)
    encoder = Encoder(backbone, precision="auto", compile=True)
    encoder.prepare(1)
    encoder.warm_up(sizes.image_size)
    dataset = ImageDataset(inspected(data).manifest.splits["train"], EvalTransform(sizes))
    rates = []
    for _ in range(REPEATS):
        with tempfile.TemporaryDirectory() as folder:
            rates.append(view_rate(train_features(dataset, encoder, folder), 0))
    return statistics.median(rates)


def main(data: Path) -> None:
    with empty_caches() as environment, tempfile.TemporaryDirectory() as folder:
        # As on any machine that has trained with the backbone before, it is compiled.
        backbone = f"model.arch={ARCH}", "model.weights=null", "features.compile=true"
        checkpoint = brief_run(data, folder, environment, *backbone)
        images, sources = Path(folder, "images"), sorted(data.glob("*/*.jpg"))
        images.mkdir()
        for number in range(COUNT):
            # Links to the same file count once.
            (images / f"{number:05}.jpg").hardlink_to(sources[number % len(sources)])
        before = encoder_rate(data)
        seconds, _ = run(str(ROOT / "predict.py"), f"ckpt_path={checkpoint}", f"source={images}", **environment)
        encoder = statistics.mean([before, encoder_rate(data)])
    save(
        "predict_many",
        images=COUNT,
        seconds=seconds,
        images_per_second={"encoder": encoder, "predict": COUNT / seconds},
        fraction=COUNT / seconds / encoder,
    )


if __name__ == "__main__":
    main(data_folder(__doc__))
