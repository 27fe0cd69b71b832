"""A classifier so small that exporting it takes a second, fitted to random images."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from headstart.backbones.backbone import Backbone
from headstart.backbones.provider import Network, find_stages
from headstart.config.model import EncoderSettings, FinetuneSettings
from headstart.data.preprocessing import Preprocessing
from headstart.model.closed_form import ClosedForm
from headstart.model.image_classifier import ImageClassifier, MlpAndRidge
from headstart.model.recipe import Recipe

SIZES = Preprocessing(resize_size=24, image_size=16, mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))
FROZEN = FinetuneSettings(epochs=[], lr_factors=[], rest=None, batch_norm=False, mixup=0.0, cutmix=0.0)
CLASSES = ("ant", "bee", "cat")


class Tiny(nn.Module):
    """Two convolutions, one of them depthwise, BatchNorm and the mean over the pixels."""

    def __init__(self) -> None:
        super().__init__()
        layers = (nn.Conv2d(3, 8, 3, 2), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=8), nn.Conv2d(8, 6, 1))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self.layers(images)
        return features.mean((2, 3))


def images(count: int, seed: int = 0, size: int = 16) -> Tensor:
    """Random images of the network's size."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, size, size), dtype=torch.uint8, generator=generator)


def tiny_classifier(head: str = "mlp", sizes: Preprocessing = SIZES) -> ImageClassifier:
    """Of a tiny backbone, fitted as `fitted` says."""
    return fitted(tiny_backbone(sizes), head)


def tiny_backbone(sizes: Preprocessing = SIZES) -> Backbone:
    """The same random weights each time; its features tell colours apart."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = Network(Tiny(), 6, "fc", None, "none 1", sizes, None)
    return Backbone(network, sizes, "tiny", "default", 0, find_stages)


def fitted(backbone: Backbone, head: str = "mlp") -> ImageClassifier:
    """With a fitted head, or a random one if it is trained in steps, a temperature, and fitted familiarity."""
    recipe = Recipe(
        *(CLASSES, backbone.source, backbone.preprocessing, head, 16, 0.4, 1e-3, 0.0, 3, "fingerprint", "32", "none"),
        *((4, 4, 4), 0.0, "constant", 0.0, FROZEN),
    )
    classifier = ImageClassifier(backbone, recipe, EncoderSettings(precision="32", compile=False)).eval()
    labels = torch.arange(12) % 3
    darkness = torch.tensor([1, 2, 3])[labels][:, None, None, None]
    features = classifier.embed(images(12, size=backbone.preprocessing.image_size) // darkness)
    layer = classifier.head[0]
    if isinstance(part := layer.ridge if isinstance(layer, MlpAndRidge) else layer, ClosedForm):
        part.fit(features, labels)
    classifier.temperature.fill_(0.7)
    classifier.familiarity.observe(features, labels)
    classifier.familiarity.fit_means(*classifier.familiarity.observed)
    # Of fewer images, there is no threshold.
    classifier.familiarity.fit_threshold(classifier.familiarity(features).repeat(2))
    return classifier


def squashed() -> Preprocessing:
    """SIZES, bicubic and whatever the image's shape."""
    return replace(SIZES, resize_mode="squash", interpolation="bicubic")


def padded() -> Preprocessing:
    """SIZES, with margins in place of what would be cropped."""
    return replace(SIZES, resize_mode="pad", resize_size=16)
