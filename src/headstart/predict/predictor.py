"""Predictions from Python: a checkpoint, images in, probabilities out."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from headstart.config.model import EncoderSettings
from headstart.data.images import Note
from headstart.data.preprocessing import Preprocessing
from headstart.data.transforms import EvalViewsTransform
from headstart.data.workers import loader_options, thread_imap, thread_map, use_one_thread_after_fork, worker_count
from headstart.errors import HeadstartError
from headstart.evaluation.probes import Array
from headstart.features.encoder import CPU_CHUNK, usual_numerics
from headstart.files import ForkSafeLock, LoadedFile
from headstart.model.checkpoint import Ensemble, load_ensemble, members_in
from headstart.model.image_classifier import ImageClassifier, saliency_maps
from headstart.predict.sources import Input, Notes, Prediction, Read, inputs_of, predictions_of, read_input, rows_of
from headstart.run_folder import checkpoint_file, is_ensemble

# Images to predict as the batches of a DataLoader.


# An image in every view and preprocessing, or the reason why it cannot be used; and what is special about its file.
Item = tuple[list[Tensor] | str, Note | None]


class Batch(NamedTuple):
    """The images of a batch that could be read, stacked, in every view and preprocessing; none: no tensors.

    For each of its inputs, `errors` has the reason why it could not be read, or None, and `notes` what is special.
    """

    images: list[Tensor]
    errors: list[str | None]
    notes: list[Note | None]


class Inputs(Dataset[Item]):
    """Item `i` is the i-th image, or the reason why it cannot be used, and what is special about its file.

    An image is given in each of `views` views, in each of the `preprocessings`.
    """

    def __init__(self, inputs: list[Input], preprocessings: Sequence[Preprocessing], views: int) -> None:
        self._inputs = inputs
        self.image_count = len(inputs) * views  # in each preprocessing
        self.pixels = views * sum(preprocessing.image_size**2 for preprocessing in preprocessings)  # of an item
        self._transforms = [EvalViewsTransform(preprocessing) for preprocessing in preprocessings]
        self._views = range(views)

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitems__(self, indices: list[int]) -> list[Item]:
        return thread_map(self.__getitem__, indices)

    def __getitem__(self, index: int) -> Item:
        return read_input(self._inputs[index], index, lambda read: self._views_of(read, index))

    def _views_of(self, read: Read, index: int) -> list[Tensor]:
        images = {depth: read(depth) for depth in {transform.depth for transform in self._transforms}}
        return [
            transform(images[transform.depth], view, index) for view in self._views for transform in self._transforms
        ]


def collate(items: list[Item]) -> Batch:
    """Stacked where they were read: a worker hands over one tensor per view, not one for each image."""
    images = [image for image, _ in items if not isinstance(image, str)]
    stacked = [torch.stack(of_one) for of_one in zip(*images, strict=True)]
    errors = [image if isinstance(image, str) else None for image, _ in items]
    return Batch(stacked, errors, [note for _, note in items])


# A trained classifier, or an ensemble of several, ready to predict.


Found = TypeVar("Found")
# From the images of a batch in each view and preprocessing, one of each for each image.
Compute = Callable[[list[Tensor]], Iterable[Found]]
# What was computed; for each input the reason why it could not be, or None; and what is special about its file.
Computed = tuple[Iterable[Found], list[str | None], list[Note | None]]


class Predictor:
    """Predicts classes and computes features. Several threads may use one: their calls wait for each other.

    Forked processes may use one too, on a CPU. Pickled or copied, it is loaded again from its checkpoint, which must
    not have changed.

    An ensemble predicts the mean of its members' probabilities. What takes one network is that of its best member,
    `classifier`: features, familiarity (so also which images are unlike anything trained on), what the network saw,
    and its saliency, which is for the class that the ensemble predicts.
    """

    def __init__(
        self, classifier: ImageClassifier | Ensemble, device: torch.device, checkpoint: Path | None = None
    ) -> None:
        self.ensemble = classifier if isinstance(classifier, Ensemble) else Ensemble([classifier])
        self.ensemble.to(device).eval()
        self.classifier = self.ensemble.best
        self._device = device
        self._checkpoint = checkpoint
        # With which arguments `load` makes the same one, and the files that it reads.
        self._loaded_with: tuple[dict[str, Any], list[LoadedFile]] | None = None
        self._lock, self._process = ForkSafeLock(), os.getpid()

    def __reduce__(self) -> tuple[Any, ...]:
        if self._loaded_with is None:
            raise TypeError("a Predictor that no checkpoint was loaded for cannot be pickled or copied")
        return _load_again, self._loaded_with

    @property
    def classes(self) -> tuple[str, ...]:
        """The names of the classes."""
        return self.classifier.recipe.classes

    def temperature(self, views: int) -> float:
        """At which the probabilities are calibrated; 1 for the mean over views, or members with their own."""
        return float(self.classifier.temperature) if len(self.ensemble) == views == 1 else 1.0

    def predict(
        self,
        source: Any,
        *,
        topk: int = 3,
        views: int = 1,
        min_confidence: float = 0.0,
        explain: bool = False,
        batch_size: int = 32,
        num_workers: int | str = "auto",
    ) -> list[Prediction]:
        """One prediction per image of `source`, in its order; see headstart.predict.sources for what it may be.

        Args:
            topk: the number of classes of each.
            views: of each image, whose probabilities are averaged; see headstart.data.transforms.EvalViewsTransform.
            min_confidence: predictions less probable than this are doubted.
            explain: also what the network saw, and its saliency.

        Raises:
            HeadstartError: `source` has no images, or `views` is below 1. An image that cannot be read gets a
                prediction with an error.
        """
        if views < 1:
            raise HeadstartError(f"views={views} is invalid: it must be a positive integer")
        found = self.stream(
            inputs_of(source),
            topk=topk,
            views=views,
            batch_size=batch_size,
            num_workers=num_workers,
            min_confidence=min_confidence,
            explain=explain,
        )
        with self._lock, usual_numerics():
            return list(found)

    def stream(
        self,
        inputs: Sequence[Input],
        *,
        topk: int,
        batch_size: int,
        num_workers: int | str,
        views: int = 1,
        min_confidence: float = 0.0,
        explain: bool = False,
    ) -> Iterator[Prediction]:
        """Yields the predictions of `predict` one by one, as they are done. For one thread at a time."""
        self._check_process()
        predict = partial(
            self._predict, topk=min(topk, len(self.classes)), min_confidence=min_confidence, explain=explain
        )
        dataset, done = Inputs(list(inputs), self.ensemble.preprocessings, views), 0
        # Saliency takes gradients, for which the network is changed.
        each = self._by_batch if explain else self._by_core
        noted = self._notes()
        for found, errors, notes in each(dataset, predict, batch_size, num_workers):
            of_batch = inputs[done : done + len(errors)]
            noted.add(of_batch, notes, done)
            yield from rows_of(of_batch, done, errors, found)
            done += len(errors)
        noted.log()

    def embed(self, source: Any, *, batch_size: int = 32, num_workers: int | str = "auto") -> Array:
        """The backbone's features (N, embedding_dim), float32, of the images of `source`, in its order.

        Raises:
            HeadstartError: `source` has no images, or one of them cannot be read.
        """
        found = []
        rows = self.stream_features(inputs_of(source), batch_size=batch_size, num_workers=num_workers)
        with self._lock, usual_numerics():
            for features in rows:
                if isinstance(features, str):
                    raise HeadstartError(features)
                found.append(features)
        return np.stack(found)

    def stream_features(
        self, inputs: Sequence[Input], *, batch_size: int, num_workers: int | str
    ) -> Iterator[Array | str]:
        """Yields the features (embedding_dim) of each image, or the reason why it cannot be read.

        For one thread at a time.
        """
        self._check_process()
        dataset = Inputs(list(inputs), self.ensemble.preprocessings[:1], 1)
        noted, done = self._notes(), 0
        for found, errors, notes in self._by_core(dataset, self._embed, batch_size, num_workers):
            noted.add(inputs[done : done + len(errors)], notes, done)
            done += len(errors)
            rows = iter(found)
            yield from (next(rows) if error is None else error for error in errors)
        noted.log()

    def export(self, path: str | Path, *, precision: str = "float32", input: str = "model") -> None:
        """Writes a .onnx or .pt2 file, as task=export does, and compares it with the checkpoint.

        Args:
            precision: "float32", or for ONNX "float16" or "int8".
            input: "model", a batch of images of the network's size; for ONNX also "any", one image of any size.

        Raises:
            HeadstartError: an argument is invalid, a package is missing, this is an ensemble, or the file differs from
                the checkpoint; then it is not written.
        """
        # It takes an extra, and seconds to import.
        from headstart.export.write import export_to

        if len(self.ensemble) > 1:
            raise HeadstartError("an ensemble cannot be exported, only each of its members")
        with self._lock:
            export_to(Path(path).expanduser(), self.classifier, self._checkpoint, precision=precision, input=input)

    def _notes(self) -> Notes:
        return Notes(self.classifier.recipe.preprocessing.depth)

    def _check_process(self) -> None:
        """Prepares PyTorch for a forked process; raises HeadstartError if the backbone is on a GPU, which is lost."""
        if self._process == os.getpid():
            return
        if self._device.type != "cpu":
            raise HeadstartError(
                "a predictor on a GPU cannot be used in a forked process: load it there, start processes by "
                'multiprocessing.get_context("spawn"), or use accelerator="cpu"'
            )
        use_one_thread_after_fork()

    def _by_core(
        self, dataset: Inputs, compute: Compute[Found], batch_size: int, num_workers: int | str
    ) -> Iterator[Computed[Found]]:
        """As `_by_batch`; on a CPU without worker processes, each core reads images of its own and computes."""
        if self._device.type != "cpu" or worker_count(num_workers, self._device):
            yield from self._by_batch(dataset, compute, batch_size, num_workers)
            return

        def compute_chunk(start: int) -> Computed[Found]:
            chunk = range(start, min(start + CPU_CHUNK, len(dataset)))
            images, errors, notes = collate([dataset[index] for index in chunk])
            return compute(images) if images else [], errors, notes

        self.ensemble.prepare(dataset.image_count)
        self.ensemble.warm_up()
        yield from thread_imap(compute_chunk, range(0, len(dataset), CPU_CHUNK))

    def _by_batch(
        self, dataset: Inputs, compute: Compute[Found], batch_size: int, num_workers: int | str
    ) -> Iterator[Computed[Found]]:
        """What is computed from the images of each batch that can be read, and the errors of its inputs."""
        self.ensemble.prepare(dataset.image_count)
        options = loader_options(num_workers, self._device, pixels=batch_size * dataset.pixels, kept=False)
        # It draws a seed for its workers, which must not come from the caller's stream.
        options["generator"] = torch.Generator()
        for images, errors, notes in DataLoader(dataset, batch_size=batch_size, collate_fn=collate, **options):
            yield compute(images) if images else [], errors, notes

    @torch.inference_mode()
    def _embed(self, images: list[Tensor]) -> Array:
        return self.classifier.embed(images[0]).cpu().numpy()

    def _predict(self, images: list[Tensor], *, topk: int, min_confidence: float, explain: bool) -> list[Prediction]:
        """Predictions of images in each view and preprocessing, without their paths."""
        count = len(self.ensemble.preprocessings)
        views = [images[first : first + count] for first in range(0, len(images), count)]
        with torch.inference_mode():
            features = [self.ensemble.embed(view) for view in views]
            means = torch.stack([self.ensemble.predict_proba(view) for view in features]).mean(0)
            # The first view is the image as it is.
            scores = self.classifier.familiarity(features[0][0]).cpu().numpy()
        probabilities, seen = means.cpu().numpy(), images[0]
        found = predictions_of(
            probabilities,
            scores,
            classes=self.classes,
            threshold=float(self.classifier.familiarity.threshold),
            topk=topk,
            min_confidence=min_confidence,
        )
        if not explain:
            return found
        maps = saliency_maps(self.classifier, seen, torch.from_numpy(probabilities.argmax(1)).to(self._device))
        return [
            replace(prediction, seen=image, saliency=saliency)
            for prediction, image, saliency in zip(found, seen, maps.cpu(), strict=True)
        ]


def load(
    checkpoint: str | Path,
    *,
    accelerator: str = "auto",
    precision: str = "auto",
    compile: bool | str = "auto",
    weights: str | None = None,
) -> Predictor:
    """The predictor of a checkpoint, of the best one in the folder of a run or a sweep, or of an ensemble's folder.

    Args:
        accelerator: "auto", "cpu", "cuda" or "mps".
        precision: "32", "bf16" or "auto", as in training.
        compile: whether the backbone is compiled; "auto": if the number of images repays it.
        weights: a file with the backbone's weights, if they have moved since training.

    Raises:
        HeadstartError: there is no such checkpoint, or device, or the backbone's weights are missing or different.
    """
    use_one_thread_after_fork()
    device = choose_device(accelerator)
    path = checkpoint_file(Path(checkpoint).expanduser(), "best")
    paths = members_in(path) if is_ensemble(path) else [path]
    files = [LoadedFile.at(member) for member in paths if member.is_file()]
    with usual_numerics():
        ensemble = load_ensemble(paths, EncoderSettings(precision=precision, compile=compile), weights)
        predictor = Predictor(ensemble, device, path)
    if weights is not None and Path(weights).expanduser().is_file():
        weights = str(Path(weights).expanduser().absolute())
    options = {"accelerator": accelerator, "precision": precision, "compile": compile, "weights": weights}
    predictor._loaded_with = {"checkpoint": path.absolute()} | options, files
    return predictor


def _load_again(arguments: dict[str, Any], files: Iterable[LoadedFile]) -> Predictor:
    """The predictor of a pickled or copied one."""
    for file in files:
        file.check_unchanged()
    return load(**arguments)


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
