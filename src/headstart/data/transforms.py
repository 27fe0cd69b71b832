"""The recipe's transforms, from an RGB image to the uint8 square that the backbone takes."""

from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2

from headstart.seeds import derive_seed

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# The recipe's augmentation.
SCALE = (0.8, 1.0)  # of the picture's area
RATIO = (3 / 4, 4 / 3)  # width by height
DEGREES = 15.0  # of rotation, to either side


class Transform(Protocol):
    """(image, view, index) → uint8 (3, image_size, image_size); `spec` tells all that the result depends on."""

    spec: dict[str, Any]

    def __call__(self, image: Image.Image, view: int, index: int) -> Tensor: ...


@dataclass(frozen=True)
class Preprocessing:
    """The evaluation transform as plain values, as a checkpoint holds it: pixels, and the normalisation's numbers."""

    resize_size: int
    image_size: int
    mean: tuple[float, float, float] = IMAGENET_MEAN
    std: tuple[float, float, float] = IMAGENET_STD

    def as_dict(self) -> dict[str, Any]:
        """As numbers and lists, so that a checkpoint loads with `weights_only=True`."""
        return {key: list(v) if isinstance(v, tuple) else v for key, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> "Preprocessing":
        return cls(**values | {"mean": tuple(values["mean"]), "std": tuple(values["std"])})


class EvalTransform:
    """Resize, CenterCrop; the same for every view."""

    def __init__(self, sizes: Preprocessing) -> None:
        self._steps = v2.Compose([v2.Resize(sizes.resize_size), v2.CenterCrop(sizes.image_size), v2.PILToTensor()])

        self.spec = {"name": "eval"} | sizes.as_dict()

    def __call__(self, image: Image.Image, view: int, index: int) -> Tensor:
        return self._steps(image)


class TrainTransform:
    """The recipe's augmentation as a pure function of `(seed, view, index)`, wherever and whenever it is called."""

    def __init__(self, sizes: Preprocessing, seed: int) -> None:
        self._seed = seed
        augmentation = {"scale": list(SCALE), "ratio": list(RATIO), "degrees": DEGREES, "flip": 0.5}
        self.spec = {"name": "train", "seed": seed} | augmentation | sizes.as_dict()
        self._steps = v2.Compose(
            [
                v2.RandomResizedCrop(sizes.resize_size, scale=SCALE, ratio=RATIO),
                v2.RandomRotation(DEGREES),
                v2.RandomHorizontalFlip(),
                v2.CenterCrop(sizes.image_size),
                v2.PILToTensor(),
            ]
        )

    def __call__(self, image: Image.Image, view: int, index: int) -> Tensor:
        generator = torch.default_generator
        state = generator.get_state()
        try:
            generator.manual_seed(derive_seed("augment", self._seed, view, index))
            return self._steps(image)
        finally:
            generator.set_state(state)
