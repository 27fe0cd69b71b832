"""The recipe's transforms, from an RGB image to the uint8 square that the backbone takes."""

import threading
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from headstart.seeds import derive_seed

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)

# The recipe's augmentation.
SCALE = (0.8, 1.0)  # of the picture's area
RATIO = (3 / 4, 4 / 3)  # width by height
DEGREES = 15.0  # of rotation, to either side
FLIP = 0.5  # the probability of a mirror image


class Transform(Protocol):
    """(image, view, index) → uint8 (3, image_size, image_size); `spec` tells all that the result depends on."""

    spec: dict[str, Any]
    image_size: int

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
        self.image_size = sizes.image_size

    def __call__(self, image: Image.Image, view: int, index: int) -> Tensor:
        return self._steps(image)


class TrainTransform:
    """The recipe's augmentation as a pure function of `(seed, view, index)`, wherever and in whatever thread."""

    # torchvision draws from the one random state that all threads share.
    _drawing = threading.Lock()

    def __init__(self, sizes: Preprocessing, seed: int) -> None:
        self._seed = seed
        augmentation = {"scale": list(SCALE), "ratio": list(RATIO), "degrees": DEGREES, "flip": FLIP}
        self.spec = {"name": "train", "seed": seed} | augmentation | sizes.as_dict()
        self.image_size = sizes.image_size
        self._crop = v2.RandomResizedCrop(sizes.resize_size, scale=SCALE, ratio=RATIO)
        self._rotation = v2.RandomRotation(DEGREES)
        self._centre = v2.CenterCrop(sizes.image_size)

    def __call__(self, image: Image.Image, view: int, index: int) -> Tensor:
        crop, rotation, flipped = self._draw(image, derive_seed("augment", self._seed, view, index))
        image = self._rotation.transform(self._crop.transform(image, crop), rotation)
        image = self._centre(functional.horizontal_flip(image) if flipped else image)
        return functional.pil_to_tensor(image)

    def _draw(self, image: Image.Image, seed: int) -> tuple[dict[str, Any], dict[str, Any], bool]:
        """The parameters of the three random transforms, drawn in the order in which the recipe draws them."""
        generator = torch.default_generator
        with self._drawing:
            state = generator.get_state()
            try:
                generator.manual_seed(seed)
                crop, rotation = self._crop.make_params([image]), self._rotation.make_params([image])
                return crop, rotation, bool(torch.rand(1) < FLIP)
            finally:
                generator.set_state(state)
