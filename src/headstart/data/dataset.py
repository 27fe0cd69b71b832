"""The images of a split as a Dataset, their transforms, and augmentation as a pure function of seed, view and index."""

import inspect
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Protocol

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset, Sampler, get_worker_info
from torchvision.transforms import InterpolationMode, v2
from torchvision.transforms.v2 import functional

from headstart.config.model import RECIPE
from headstart.data.manifest import Split
from headstart.data.preprocessing import Preprocessing, resized_and_cropped, squared
from headstart.data.splits import derive_seed
from headstart.errors import HeadstartError
from headstart.files import ForkSafeLock
from headstart.processes import thread_map

# Transforms that draw all they need before they touch the pixels, so that threads do the work side by side.
DRAW_FIRST = (
    *(v2.RandomResizedCrop, v2.RandomCrop, v2.RandomRotation, v2.RandomAffine, v2.RandomPerspective),
    *(v2.RandomHorizontalFlip, v2.RandomVerticalFlip, v2.ElasticTransform, v2.ColorJitter, v2.RandomGrayscale),
    *(v2.RandomInvert, v2.RandomSolarize, v2.RandomPosterize, v2.RandomAdjustSharpness, v2.RandomAutocontrast),
    *(v2.RandomEqualize, v2.RandomChannelPermutation, v2.GaussianBlur, v2.RandomErasing),
    *(v2.JPEG, v2.Resize, v2.CenterCrop, v2.Pad, v2.Grayscale, v2.ToImage, v2.PILToTensor),
)


class Augmentation:
    """Applies `transforms`, entries of conf/augment, one after the other.

    Raises:
        HeadstartError: there is no such transform, or it rejects its arguments.
    """

    def __init__(self, transforms: Sequence[Any], preprocessing: Preprocessing) -> None:
        self._transforms = [_built(entry, preprocessing) for entry in transforms]
        self._size = preprocessing.image_size

    def __call__(self, image: Image.Image, seed: int) -> Tensor:
        """Returns the augmented image as uint8 (3, image_size, image_size).

        Raises:
            HeadstartError: a transform fails, or the result is something else.
        """
        augmented: Any = image
        random = _Random(seed)
        for transform in self._transforms:
            try:
                augmented = random.applied(transform, augmented)
            except Exception as error:
                raise HeadstartError(
                    f"augment.transforms: {type(transform).__name__} failed on an image: {_reason(error)}"
                ) from error
        return self._checked(augmented)

    def _checked(self, image: Any) -> Tensor:
        if isinstance(image, Image.Image):
            image = functional.pil_to_tensor(image)
        wanted = (3, self._size, self._size)
        if not isinstance(image, Tensor) or image.dtype != torch.uint8 or tuple(image.shape) != wanted:
            what = f"{image.dtype} {tuple(image.shape)}" if isinstance(image, Tensor) else type(image).__name__
            raise HeadstartError(
                f"augment.transforms must give uint8 {wanted}, the size of the network's images, not {what}: end them "
                "with torchvision.transforms.v2.CenterCrop, size: image_size"
            )
        return image.as_subclass(Tensor)


class _Random:
    """A random state of its own; torchvision draws from the one that all threads share, so they take turns."""

    _turn = ForkSafeLock()

    def __init__(self, seed: int) -> None:
        self._state = torch.Generator().manual_seed(seed).get_state()

    def applied(self, transform: v2.Transform, image: Any) -> Any:
        """Returns what `transform(image)` would be, had the shared state been this one."""
        if type(transform) not in DRAW_FIRST:
            with self._shared():
                return transform(image)
        with self._shared():
            transform.check_inputs([image])
            if hasattr(transform, "p") and torch.rand(1) >= transform.p:
                return image
            parameters = transform.make_params([image])
        return transform.transform(image, parameters)

    @contextmanager
    def _shared(self) -> Iterator[None]:
        generator = torch.default_generator
        with self._turn:
            before = generator.get_state()
            try:
                generator.set_state(self._state)
                yield
                self._state = generator.get_state()
            finally:
                generator.set_state(before)


def _built(entry: Any, preprocessing: Preprocessing) -> v2.Transform:
    name = entry["_target_"].rpartition(".")[2]
    kind = getattr(v2, name, None)
    if not inspect.isclass(kind) or not issubclass(kind, v2.Transform):
        raise HeadstartError(f"augment.transforms: torchvision has no v2 transform {name}")
    arguments = {key: _value(key, value, preprocessing) for key, value in entry.items() if key != "_target_"}
    try:
        return kind(**arguments)
    except Exception as error:
        raise HeadstartError(f"augment.transforms: {name} rejects its arguments: {_reason(error)}") from None


def _value(key: str, value: Any, preprocessing: Preprocessing) -> Any:
    """An argument, with words in place of the preprocessing's values, and transforms in place of entries."""
    if isinstance(value, list):
        return [_value(key, item, preprocessing) for item in value]
    if isinstance(value, dict):
        return _built(value, preprocessing)
    if value in ("image_size", "resize_size", "interpolation"):
        value = getattr(preprocessing, value)
    if key == "interpolation" and value in {mode.value for mode in InterpolationMode}:
        return InterpolationMode(value)
    return value


def _reason(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__


# From an RGB image to the uint8 square that the backbone takes, in training and in evaluation.

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


class PlainFirstTransform:
    """View 0 is that of `plain`, all others are those of `augmented`."""

    def __init__(self, plain: EvalTransform, augmented: TrainTransform) -> None:
        self._plain, self._augmented = plain, augmented
        self.spec = augmented.spec | {"first": plain.spec}
        self.image_size, self.depth = plain.image_size, plain.depth

    def __call__(self, image: Image.Image, view: int, index: int) -> Tensor:
        return self.of_view(view)(image, view, index)

    def of_view(self, view: int) -> Transform:
        """Returns the one of the two that makes this view, so that its features are shared with all that use it."""
        return self._augmented if view else self._plain


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


BYTES_PER_PIXEL = 4  # of Pillow's RGB images


class DecodedImages:
    """The first images that were read and fit into `max_bytes`; among worker processes, each has its share of it.

    Later ones do not replace them: when all are read in turn, each would be replaced before it is needed again.
    """

    _turn = ForkSafeLock()

    def __init__(self, max_bytes: int) -> None:
        self.max_bytes = max_bytes
        self._images: dict[int, Image.Image] = {}
        self._size = 0

    def get(self, index: int, read: Callable[[], Image.Image]) -> Image.Image:
        """Returns the image `index`, read at most once if it is kept."""
        image = self._images.get(index)
        if image is None:
            image = read()
            self._keep(index, image)
        return image

    def _keep(self, index: int, image: Image.Image) -> None:
        worker = get_worker_info()
        size = image.width * image.height * BYTES_PER_PIXEL
        with self._turn:
            if self._size + size <= self.max_bytes // (worker.num_workers if worker else 1):
                self._size += size
                self._images[index] = image


# The index of no sample, with which the last batches of several processes become equally long, and its label, which
# PyTorch's losses ignore.
PADDING = -1
IGNORED = -100


class ViewSampler(Sampler[tuple[int, int]]):
    """Yields `(view, index)` of every sample once per epoch; balanced, equally many of each class, as many in total.

    Args:
        length: the number of samples.
        seed: of the order; None keeps the order of the samples.
        balanced: the label of each sample, to draw equally many of each class: another part of a large class in each
            epoch, every sample of a small one several times.
        view_of: the view of an epoch; None: view e in epoch e.
        rank, world_size: this process takes every `world_size`-th sample, starting at `rank`, so that the batches of
            all processes together are those of one with batches `world_size` times as large. Every process gets the
            same number: at the end some get PADDING.
    """

    def __init__(
        self,
        length: int,
        *,
        seed: int | None,
        balanced: Sequence[int] | None = None,
        view_of: Callable[[int], int] | None = None,
        rank: int = 0,
        world_size: int = 1,
    ) -> None:
        self._length = length
        self._seed = seed
        self._balanced = balanced
        self._epoch = 0
        self._view_of = view_of or int
        self._rank = rank
        self._world_size = world_size

    def set_epoch(self, epoch: int) -> None:
        """Sets the epoch whose order comes next; Lightning calls this before each epoch."""
        self._epoch = epoch

    def __len__(self) -> int:
        return -(-self._length // self._world_size)

    def __iter__(self) -> Iterator[tuple[int, int]]:
        view = self._view_of(self._epoch)
        order = self._order()
        padded = order + [PADDING] * (len(self) * self._world_size - self._length)
        return iter([(view, index) for index in padded[self._rank :: self._world_size]])

    def _order(self) -> list[int]:
        if self._seed is None:
            return list(range(self._length))
        generator = torch.Generator().manual_seed(derive_seed("order", self._seed, self._epoch))
        drawn = torch.arange(self._length) if self._balanced is None else self._draw_equally(generator)
        return drawn[torch.randperm(self._length, generator=generator)].tolist()

    def _draw_equally(self, generator: torch.Generator) -> Tensor:
        """`length` indices, as many of each class, give or take one; a sample repeats only after all of its class."""
        labels = torch.tensor(self._balanced)
        classes = labels.unique()
        share, left = divmod(self._length, len(classes))
        # Which classes get one more is random too.
        more = set(torch.randperm(len(classes), generator=generator)[:left].tolist())
        drawn = []
        for position, label in enumerate(classes):
            members = (labels == label).nonzero().squeeze(1)
            count = share + (position in more)
            rounds = [
                members[torch.randperm(len(members), generator=generator)] for _ in range(-(-count // len(members)))
            ]
            drawn.append(torch.cat(rounds)[:count])
        return torch.cat(drawn)


class ImageDataset(Dataset[tuple[Tensor, int]]):
    """`dataset[view, index]` is a uint8 image (3, image_size, image_size) and its label: IGNORED for PADDING.

    In all folds, an image has the same views: those of its index in their pool. Decoded images are kept up to a size of
    `keep_bytes`, for other views.
    """

    def __init__(self, split: Split, transform: Transform, keep_bytes: int = 0) -> None:
        self.split = split
        self.transform = transform
        self._decoded = DecodedImages(keep_bytes)

    def __len__(self) -> int:
        return len(self.split)

    def __getitems__(self, keys: list[tuple[int, int]]) -> list[tuple[Tensor, int]]:
        """A batch, as a DataLoader asks for it."""
        return thread_map(self.__getitem__, keys)

    def __getitem__(self, key: tuple[int, int] | int) -> tuple[Tensor, int]:
        # The Trainer's `overfit_batches` replaces our sampler by one of plain indices.
        view, index = (0, key) if isinstance(key, int) else key
        image = self._decoded.get(index, partial(self._read, index))
        label = IGNORED if index == PADDING else self.split.labels[index]
        return self.transform(image, view, self.split.place(index)), label

    def of_stored(self) -> list["ImageDataset"]:
        """Returns a dataset for each pool of images whose features are stored together; the split has some of them."""
        if not self.split.pools:
            return [self]
        return [ImageDataset(pool, self.transform, self._decoded.max_bytes) for pool in self.split.pools]

    def _read(self, index: int) -> Image.Image:
        return self.split.read(index, self.transform.depth)
