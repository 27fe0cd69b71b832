"""Class probabilities of image files, in batches."""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from headstart.data.images import read_rgb
from headstart.data.transforms import EvalTransform, Preprocessing
from headstart.data.workers import loader_options, thread_map
from headstart.errors import HeadstartError, UnreadableImage
from headstart.model.image_classifier import ImageClassifier
from headstart.model.saliency import saliency_maps


@dataclass(frozen=True)
class Prediction:
    """The classes of one image with their probabilities, most probable first.

    `error` says why there are none, or why an image drawn from it is missing. `familiarity` is the score of
    headstart.model.familiarity, None for old checkpoints; `doubt` says why the first class should not be believed.
    `saliency` (h, w) is from 0 to 1, of `seen` (uint8, 3×H×W): what the network saw.
    """

    path: Path
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None
    familiarity: float | None = None
    doubt: str | None = None
    seen: Tensor | None = None
    saliency: Tensor | None = None


UNFAMILIAR, UNSURE = "unlike anything trained on", "unsure"


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
    classifier: ImageClassifier,
    paths: list[Path],
    *,
    topk: int,
    batch_size: int,
    num_workers: int | str,
    device: torch.device,
    min_confidence: float = 0.0,
    explain: bool = False,
) -> Iterator[Prediction]:
    """Yields a prediction for each of `paths`, in their order.

    Below the probability `min_confidence` it is doubted. `explain` adds what the network saw and the saliency.
    """
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
        predictions = iter(_predict(classifier, images, topk, min_confidence, explain) if images is not None else [])
        for error in errors:
            path = next(remaining)
            yield replace(next(predictions), path=path) if error is None else Prediction(path, error=error)


def _collate(items: list[Tensor | str]) -> _Batch:
    """Stacked where they were read: a worker hands over one tensor, not one for each image."""
    images = [item for item in items if isinstance(item, Tensor)]
    return torch.stack(images) if images else None, [item if isinstance(item, str) else None for item in items]


def _predict(
    classifier: ImageClassifier, images: Tensor, topk: int, min_confidence: float, explain: bool
) -> list[Prediction]:
    """Predictions of preprocessed images, without their paths."""
    with torch.inference_mode():
        features = classifier.embed(images)
        values, indices = classifier.predict_proba(features).topk(topk)
        scores = classifier.familiarity(features)
    found, names, threshold = [], classifier.recipe.classes, float(classifier.familiarity.threshold)
    maps = saliency_maps(classifier, images, indices[:, 0].clone()).cpu() if explain else None
    for place, (row, probabilities, score) in enumerate(
        zip(indices.tolist(), values.tolist(), scores.tolist(), strict=True)
    ):
        doubt = UNFAMILIAR if score < threshold else UNSURE if probabilities[0] < min_confidence else None
        found.append(
            Prediction(
                Path(),
                tuple(names[i] for i in row),
                tuple(probabilities),
                familiarity=score if math.isfinite(threshold) else None,
                doubt=doubt,
                seen=images[place] if explain else None,
                saliency=maps[place] if maps is not None else None,
            )
        )
    return found


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
