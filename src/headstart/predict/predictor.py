"""Probabilities of the classes for picture files, in batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from headstart.data.images import read_rgb
from headstart.data.transforms import EvalTransform, Preprocessing
from headstart.data.workers import map_pictures, worker_count
from headstart.errors import HeadstartError, UnreadableImage
from headstart.model.classifier import Classifier


@dataclass(frozen=True)
class Prediction:
    """The classes of one picture with their probabilities, most probable first; or why it could not be read."""

    path: Path
    classes: tuple[str, ...] = ()
    probabilities: tuple[float, ...] = ()
    error: str | None = None


class _Files(Dataset[Tensor | str]):
    """`files[i]` is the i-th picture as the validation split would see it, or the reason why it cannot be read."""

    def __init__(self, paths: list[Path], preprocessing: Preprocessing) -> None:
        self._paths = paths
        self._transform = EvalTransform(preprocessing)

    def __len__(self) -> int:
        return len(self._paths)

    def __getitems__(self, indices: list[int]) -> list[Tensor | str]:
        return map_pictures(self.__getitem__, indices)

    def __getitem__(self, index: int) -> Tensor | str:
        try:
            return self._transform(read_rgb(self._paths[index]), 0, index)
        except UnreadableImage as error:
            return str(error)


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
    classifier.backbone.prepare(len(paths))
    topk = min(topk, len(classifier.recipe.classes))
    loader = DataLoader(
        _Files(paths, classifier.recipe.preprocessing),
        batch_size=batch_size,
        num_workers=worker_count(num_workers, device),
        collate_fn=list,
    )
    remaining = iter(paths)
    for batch in loader:
        pictures = [item for item in batch if isinstance(item, Tensor)]
        ranked = iter(_rank(classifier, pictures, topk, device) if pictures else [])
        for item in batch:
            path = next(remaining)
            if isinstance(item, Tensor):
                classes, probabilities = next(ranked)
                yield Prediction(path, classes, probabilities)
            else:
                yield Prediction(path, error=item)


def _rank(
    classifier: Classifier, pictures: list[Tensor], topk: int, device: torch.device
) -> list[tuple[tuple[str, ...], tuple[float, ...]]]:
    images = torch.stack(pictures)
    with torch.inference_mode():
        values, indices = classifier(images).exp().topk(topk)
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
    there = {"cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available(), "cpu": True}
    if accelerator == "auto":
        return torch.device(next(name for name, is_there in there.items() if is_there))
    if not there[accelerator]:
        raise HeadstartError(f"accelerator={accelerator} cannot work: this machine has none, or PyTorch cannot use it")
    return torch.device(accelerator)
