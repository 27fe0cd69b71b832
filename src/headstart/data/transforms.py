"""The recipe's transforms, from an RGB image to the uint8 square that the backbone takes."""

import threading
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from headstart.data.preprocessing import Preprocessing, resized_and_cropped, squared
from headstart.seeds import derive_seed

# The recipe's augmentation.
SCALE = (0.8, 1.0)  # of the image's area
RATIO = (3 / 4, 4 / 3)  # width by height
DEGREES = 15.0  # of rotation, in either direction
FLIP = 0.5  # probability


class Transform(Protocol):
    """(image, view, index) → uint8 (3, image_size, image_size); `spec` names everything that the result depends on."""

    spec: dict[str, Any]
    image_size: int

    def __call__(self, image: Image.Image, view: int, index: int) -> Tensor: ...


class EvalTransform:
    """Resize, CenterCrop; the same for every view."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self._preprocessing = preprocessing
        self.spec = {"name": "eval"} | preprocessing.as_dict()
        self.image_size = preprocessing.image_size

    def __call__(self, image: Image.Image, view: int, index: int) -> Tensor:
        return functional.pil_to_tensor(resized_and_cropped(image, self._preprocessing))


class TrainTransform:
    """The recipe's augmentation as a pure function of `(seed, view, index)`, in any process and thread.

    Unless images are cropped, it is of all of the image, padded or squashed to a square.
    """

    # torchvision draws from the random state that all threads share.
    _drawing = threading.Lock()

    def __init__(self, preprocessing: Preprocessing, seed: int) -> None:
        self._seed, self._preprocessing = seed, preprocessing
        augmentation = {"scale": list(SCALE), "ratio": list(RATIO), "degrees": DEGREES, "flip": FLIP}
        self.spec = {"name": "train", "seed": seed} | augmentation | preprocessing.as_dict()
        if preprocessing.resize_mode != "crop":
            self.spec["of"] = "square"
        self.image_size = preprocessing.image_size
        mode = InterpolationMode(preprocessing.interpolation)
        self._crop = v2.RandomResizedCrop(preprocessing.resize_size, SCALE, RATIO, mode)
        self._rotation = v2.RandomRotation(DEGREES)
        self._center = v2.CenterCrop(preprocessing.image_size)

    def __call__(self, image: Image.Image, view: int, index: int) -> Tensor:
        image = squared(image, self._preprocessing)
        crop, rotation, flipped = self._draw(image, derive_seed("augment", self._seed, view, index))
        image = self._rotation.transform(self._crop.transform(image, crop), rotation)
        image = self._center(functional.horizontal_flip(image) if flipped else image)
        return functional.pil_to_tensor(image)

    def _draw(self, image: Image.Image, seed: int) -> tuple[dict[str, Any], dict[str, Any], bool]:
        """The parameters of the three random transforms, drawn in the recipe's order."""
        generator = torch.default_generator
        with self._drawing:
            state = generator.get_state()
            try:
                generator.manual_seed(seed)
                crop, rotation = self._crop.make_params([image]), self._rotation.make_params([image])
                return crop, rotation, bool(torch.rand(1) < FLIP)
            finally:
                generator.set_state(state)


class EvalViewsTransform:
    """The views in which an image is evaluated: 0 is EvalTransform's, 1 its mirror image, and all others are augmented.

    What is drawn for a view does not depend on the index, so the same file has the same views wherever it stands.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self._plain = EvalTransform(preprocessing)
        self._augmented = TrainTransform(preprocessing, seed=0)
        self.spec = self._augmented.spec | {"name": "eval views"}
        self.image_size = preprocessing.image_size

    def __call__(self, image: Image.Image, view: int, index: int) -> Tensor:
        if view > 1:
            return self._augmented(image, view, 0)
        plain = self._plain(image, 0, index)
        return functional.horizontal_flip(plain) if view else plain
