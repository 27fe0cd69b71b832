"""Class probabilities of image files, in batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from headstart.data.images import read_rgb
from headstart.data.transforms import EvalTransform, Preprocessing
from headstart.data.workers import loader_options, thread_map
from headstart.errors import HeadstartError, UnreadableImage
from headstart.model.classifier import Classifier


@dataclass(frozen=True)
class Prediction:
    """The classes of one image with their probabilities, most probable first.

    `error` says why there are none, or why the annotated image is missing.
    """

    path: Path
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None


# The images of a batch that could be read, stacked, and for each item of the batch the reason why not, or None.
_Batch = tuple[Tensor | None, list[str | None]]


class _Files(Dataset[Tensor | str]):
    """`files[i]` is the i-th image, preprocessed as the validation split, or the reason why it cannot be read."""

    def __init__(self, paths: list[Path], preprocessing: Preprocessing) -> None:
        self._paths = paths
        self._resize_size = preprocessing.resize_size
        self._transform = EvalTransform(preprocessing)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitems__(self, indices: list[int]) -> list[Tensor | str]:
        return thread_map(self.__getitem__, indices)

    def __getitem__(self, index: int) -> Tensor | str:
        path = self._paths[index]
        try:
            image = read_rgb(path)
            resized = self._resize_size**2 * max(image.size) / min(image.size)
            if Image.MAX_IMAGE_PIXELS is not None and resized > Image.MAX_IMAGE_PIXELS:
                return f"{path} cannot be resized: {image.width} × {image.height} pixels are too elongated"
            return self._transform(image, 0, index)
        except UnreadableImage as error:
            return str(error)
        # Whatever is wrong with one image, the others are predicted all the same.
        except Exception as error:
            return f"{path} cannot be processed: {str(error) or type(error).__name__}"


def predict_files(
    classifier: Classifier,
    paths: list[Path],
    *,
    topk: int,
    batch_size: int,
    num_workers: int | str,
    device: torch.device,
) -> Iterator[Prediction]:
    """Yields a prediction for each of `paths`, in their order."""
    classifier = classifier.to(device).eval()
    classifier.encoder.prepare(len(paths))
    topk = min(topk, len(classifier.recipe.classes))
    preprocessing = classifier.recipe.preprocessing
    loader = DataLoader(
        _Files(paths, preprocessing),
        batch_size=batch_size,
        collate_fn=_collate,
        **loader_options(num_workers, device, pixels=batch_size * preprocessing.image_size**2, kept=False),
    )
    remaining = iter(paths)
    for images, errors in loader:
        ranked = iter(_rank(classifier, images, topk) if images is not None else [])
        for error in errors:
            classes, probabilities = next(ranked) if error is None else ((), ())
            yield Prediction(next(remaining), classes, probabilities, error)


def _collate(items: list[Tensor | str]) -> _Batch:
    """Stacked where they were read: a worker hands over one tensor, not one for each image."""
    images = [item for item in items if isinstance(item, Tensor)]
    return torch.stack(images) if images else None, [item if isinstance(item, str) else None for item in items]


def _rank(classifier: Classifier, images: Tensor, topk: int) -> list[tuple[tuple[str, ...], tuple[float, ...]]]:
    with torch.inference_mode():
        values, indices = classifier.predict_proba(images).topk(topk)
    names = classifier.recipe.classes
    return [
        (tuple(names[i] for i in row), tuple(probabilities))
        for row, probabilities in zip(indices.tolist(), values.tolist(), strict=True)
    ]


def choose_device(accelerator: str) -> torch.device:
    """The device that `accelerator` (auto, cpu, cuda, mps) stands for.

    Raises:
        HeadstartError: the machine does not have it.
    """
    available = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        return torch.device(next(name for name, is_available in available.items() if is_available))
    if not available[accelerator]:
        raise HeadstartError(
            f"accelerator={accelerator} is not available: this machine has none, or PyTorch cannot use it"
        )
    return torch.device(accelerator)
