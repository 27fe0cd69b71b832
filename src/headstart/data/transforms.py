"""From an RGB image to the uint8 square that the backbone takes, in training and in evaluation."""

from collections.abc import Sequence
from typing import Any, Protocol

from PIL import Image
from torch import Tensor
from torchvision.transforms.v2 import functional

from headstart.config.augment import RECIPE
from headstart.data.augmentation import Augmentation
from headstart.data.preprocessing import Preprocessing, resized_and_cropped, squared
from headstart.seeds import derive_seed

# The recipe's augmentation, in keys of stored features.
RECIPE_SPEC = {"scale": [0.8, 1.0], "ratio": [3 / 4, 4 / 3], "degrees": 15.0, "flip": 0.5}


class Transform(Protocol):
    """(image, view, index) → uint8 (3, image_size, image_size); `spec` names everything that the result depends on.

    The image is to be read with `depth`.
    """

    spec: dict[str, Any]
    image_size: int
    depth: int

    def __call__(self, image: Image.Image, view: int, index: int) -> Tensor: ...


class EvalTransform:
    """Resize, CenterCrop; the same for every view."""

    def __init__(self, preprocessing: Preprocessing) -> None:
        self._preprocessing = preprocessing
        self.spec = {"name": "eval"} | preprocessing.as_dict()
        self.image_size, self.depth = preprocessing.image_size, preprocessing.depth

    def __call__(self, image: Image.Image, view: int, index: int) -> Tensor:
        return functional.pil_to_tensor(resized_and_cropped(image, self._preprocessing))


class TrainTransform:
    """An augmentation as a pure function of `(seed, view, index)`, in any process and thread.

    Unless images are cropped, it is of all of the image, padded or squashed to a square.

    Args:
        transforms: entries of conf/augment; by default, the recipe's.

    Raises:
        HeadstartError: one of them is invalid.
    """

    def __init__(self, preprocessing: Preprocessing, seed: int, transforms: Sequence[Any] = RECIPE) -> None:
        self._seed, self._preprocessing = seed, preprocessing
        self._augmentation = Augmentation(transforms, preprocessing)
        of_transforms = RECIPE_SPEC if transforms == RECIPE else {"transforms": list(transforms)}
        self.spec = {"name": "train", "seed": seed} | of_transforms | preprocessing.as_dict()
        if preprocessing.resize_mode != "crop":
            self.spec["of"] = "square"
        self.image_size, self.depth = preprocessing.image_size, preprocessing.depth

    def __call__(self, image: Image.Image, view: int, index: int) -> Tensor:
        seed = derive_seed("augment", self._seed, view, index)
        return self._augmentation(squared(image, self._preprocessing), seed)


class EvalViewsTransform:
    """The views in which an image is evaluated: 0 is EvalTransform's, 1 its mirror image, and all others are augmented
    as in the recipe.

    What is drawn for a view does not depend on the index, so the same file has the same views wherever it stands.
    """

    def __init__(self, preprocessing: Preprocessing) -> None:
        self._plain = EvalTransform(preprocessing)
        self._augmented = TrainTransform(preprocessing, seed=0)
        self.spec = self._augmented.spec | {"name": "eval views"}
        self.image_size, self.depth = preprocessing.image_size, preprocessing.depth

    def __call__(self, image: Image.Image, view: int, index: int) -> Tensor:
        if view > 1:
            return self._augmented(image, view, 0)
        plain = self._plain(image, 0, index)
        return functional.horizontal_flip(plain) if view else plain
