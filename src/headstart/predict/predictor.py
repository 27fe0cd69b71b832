"""A trained classifier, or an ensemble, that predicts images and computes their features."""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from headstart.config.model import EncoderSettings
from headstart.config.predict import EmbedSettings, PredictSettings
from headstart.data.dataset import EvalViewsTransform
from headstart.data.preprocessing import Array, Preprocessing
from headstart.errors import HeadstartError
from headstart.features.encoder import map_batches, usual_numerics
from headstart.files import ForkSafeLock, LoadedFile
from headstart.model.checkpoint import Ensemble, checkpoints_of, load_ensemble
from headstart.model.image_classifier import ImageClassifier, saliency_maps
from headstart.predict.sources import (
    Input,
    Item,
    Mark,
    Prediction,
    Read,
    Result,
    in_order,
    inputs_of,
    predictions_in_order,
    predictions_of,
    read_input,
    rejoin,
    separate,
)
from headstart.processes import loader_options, thread_map, use_one_thread_after_fork
from headstart.run_folder import checkpoint_file

# Tensors of images, stacked, one for each view and preprocessing.
Images = list[Tensor]
# The images of a batch that could be read, and the marks of all of its inputs.
Batch = tuple[Images, list[Mark]]
Compute = Callable[[Images], Iterable[Result]]


class Inputs(Dataset[Item[Images]]):
    """A dataset of the images to predict, each in each of `views` views and in each of the `preprocessings`."""

    def __init__(self, inputs: list[Input], preprocessings: Sequence[Preprocessing], views: int) -> None:
        self._inputs = inputs
        self.image_count = len(inputs) * views  # in each preprocessing
        self.pixels = views * sum(preprocessing.image_size**2 for preprocessing in preprocessings)  # of an item
        self._transforms = [EvalViewsTransform(preprocessing) for preprocessing in preprocessings]
        self._views = range(views)

    def __len__(self) -> int:
        return len(self._inputs)

    def __getitems__(self, indices: list[int]) -> list[Item[Images]]:
        return thread_map(self.__getitem__, indices)

    def __getitem__(self, index: int) -> Item[Images]:
        return read_input(self._inputs[index], index, lambda read: self._views_of(read, index))

    def _views_of(self, read: Read, index: int) -> Images:
        images = {depth: read(depth) for depth in {transform.depth for transform in self._transforms}}
        return [
            transform(images[transform.depth], view, index) for view in self._views for transform in self._transforms
        ]


def collate(items: list[Item[Images]]) -> Batch:
    """Stacks images where they were read, so that a worker hands over one tensor per view instead of one per image."""
    images, marks = separate(items)
    return [torch.stack(of_one) for of_one in zip(*images, strict=True)], marks


class Predictor:
    """Predicts classes and computes features with a trained classifier, or with an ensemble of several.

    Several threads may share one; their calls wait for each other. On a CPU, forked processes may use it too. A pickled
    or copied one is loaded again from its checkpoint, which must not have changed.

    An ensemble predicts the mean of its members' probabilities. Everything that takes a single network comes from its
    best member, `classifier`: features, familiarity, what the network saw, and the saliency, which is that for the
    class that the ensemble predicts.

    Example:
        >>> headstart.load("logs/RUN").predict("photos", topk=1)[0].label
    """

    def __init__(
        self, classifier: ImageClassifier | Ensemble, device: torch.device, checkpoint: Path | None = None
    ) -> None:
        self.ensemble = classifier if isinstance(classifier, Ensemble) else Ensemble([classifier])
        self.ensemble.to(device).eval()
        self.classifier = self.ensemble.best
        self._device = device
        self._checkpoint = checkpoint
        # The arguments with which `load_predictor` makes the same predictor, and the files that it reads.
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

    @property
    def depth(self) -> int:
        """The bits per sample with which 16-bit images are read."""
        return self.classifier.recipe.preprocessing.depth

    def temperature(self, views: int) -> float:
        """Returns the temperature of the probabilities; 1 for means over views, or over members with their own."""
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
        """Returns one prediction per image of `source`, in its order.

        Args:
            source: what headstart.predict.sources.inputs_of takes.
            topk: the number of classes per prediction.
            views: the number of views per image whose probabilities are averaged; see
                headstart.data.dataset.EvalViewsTransform.
            min_confidence: predictions less probable than this are marked as unsure.
            explain: whether to add what the network saw, and its saliency.

        Raises:
            HeadstartError: `source` has no images, or `views` is below 1. An image that cannot be read gets a
                prediction with an error.
        """
        if views < 1:
            raise HeadstartError(f"views={views} is invalid: it must be a positive integer")
        predictions = self.stream(
            inputs_of(source),
            topk=topk,
            views=views,
            batch_size=batch_size,
            num_workers=num_workers,
            min_confidence=min_confidence,
            explain=explain,
        )
        with self._lock, usual_numerics():
            return list(predictions)

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
        """Yields the predictions of `predict` one by one, as they are done. Only one thread may use it at a time."""
        self._check_process()
        predict = partial(
            self._predict, topk=min(topk, len(self.classes)), min_confidence=min_confidence, explain=explain
        )
        dataset = Inputs(list(inputs), self.ensemble.preprocessings, views)
        # Saliency needs gradients, for which the network is changed, so it cannot be computed on several cores.
        items = self._computed(dataset, predict, batch_size, num_workers, by_core=not explain)
        yield from predictions_in_order(inputs, items, self.depth)

    def embed(self, source: Any, *, batch_size: int = 32, num_workers: int | str = "auto") -> Array:
        """Returns the backbone's features (N, embedding_dim), float32, for the images of `source`, in its order.

        Raises:
            HeadstartError: `source` has no images, or one of them cannot be read.
        """
        matrix = []
        rows = self.stream_features(inputs_of(source), batch_size=batch_size, num_workers=num_workers)
        with self._lock, usual_numerics():
            for features in rows:
                if isinstance(features, str):
                    raise HeadstartError(features)
                matrix.append(features)
        return np.stack(matrix)

    def stream_features(
        self, inputs: Sequence[Input], *, batch_size: int, num_workers: int | str
    ) -> Iterator[Array | str]:
        """Yields the features (embedding_dim) of each image, or the reason why it cannot be read.

        Only one thread may use it at a time.
        """
        self._check_process()
        dataset = Inputs(list(inputs), self.ensemble.preprocessings[:1], 1)
        items = self._computed(dataset, self._embed, batch_size, num_workers, by_core=True)
        yield from (features for _, features in in_order(inputs, items, self.depth))

    def export(self, path: str | Path, *, precision: str = "float32", input: str = "model") -> None:
        """Writes a .onnx or .pt2 file, compared with the checkpoint, as task=export does.

        Args:
            precision: "float32", or for ONNX "float16" or "int8".
            input: "model", a batch of images of the network's size; for ONNX also "any", one image of any size.

        Raises:
            HeadstartError: an argument is invalid, a package is missing, this is an ensemble, or the file differs from
                the checkpoint; then it is not written.
        """
        # Takes seconds to import.
        from headstart.export.write import export_to

        if len(self.ensemble) > 1:
            raise HeadstartError("an ensemble cannot be exported, only each of its members")
        with self._lock:
            export_to(Path(path).expanduser(), self.classifier, self._checkpoint, precision=precision, input=input)

    def _check_process(self) -> None:
        """Prepares PyTorch for a forked process.

        Raises:
            HeadstartError: the backbone is on a GPU, which a forked process cannot use.
        """
        if self._process == os.getpid():
            return
        if self._device.type != "cpu":
            raise HeadstartError(
                "a predictor on a GPU cannot be used in a forked process: load it there, start processes by "
                'multiprocessing.get_context("spawn"), or use accelerator="cpu"'
            )
        use_one_thread_after_fork()

    def _computed(
        self, dataset: Inputs, compute: Compute[Result], batch_size: int, num_workers: int | str, *, by_core: bool
    ) -> Iterator[Item[Result]]:
        """Yields what is computed from each image, batch by batch, or its error.

        With `by_core`, on a CPU without worker processes, each core reads and computes images of its own.
        """

        def compute_batch(batch: Batch) -> list[Item[Result]]:
            images, marks = batch
            return list(rejoin(compute(images) if images else (), marks))

        self.ensemble.prepare(dataset.image_count)
        self.ensemble.warm_up()
        options = loader_options(num_workers, self._device, pixels=batch_size * dataset.pixels, kept=False)
        # The loader draws a seed for its workers, which must not advance the caller's random state.
        generator = torch.Generator()
        loader = DataLoader(dataset, batch_size=batch_size, collate_fn=collate, generator=generator, **options)
        parts = map_batches(compute_batch, loader, self._device) if by_core else map(compute_batch, loader)
        return chain.from_iterable(parts)

    @torch.inference_mode()
    def _embed(self, images: Images) -> Array:
        return self.classifier.embed(images[0]).cpu().numpy()

    def _predict(self, images: Images, *, topk: int, min_confidence: float, explain: bool) -> list[Prediction]:
        """Returns predictions without paths."""
        count = len(self.ensemble.preprocessings)
        views = [images[first : first + count] for first in range(0, len(images), count)]
        with torch.inference_mode():
            features = [self.ensemble.embed(view) for view in views]
            means = torch.stack([self.ensemble.predict_proba(view) for view in features]).mean(0)
            # The first view is the unaugmented image.
            scores = self.classifier.familiarity(features[0][0]).cpu().numpy()
        probabilities, seen = means.cpu().numpy(), images[0]
        predictions = predictions_of(
            probabilities,
            scores,
            classes=self.classes,
            threshold=float(self.classifier.familiarity.threshold),
            topk=topk,
            min_confidence=min_confidence,
        )
        if not explain:
            return predictions
        maps = saliency_maps(self.classifier, seen, torch.from_numpy(probabilities.argmax(1)).to(self._device))
        return [
            replace(prediction, seen=image, saliency=saliency)
            for prediction, image, saliency in zip(predictions, seen, maps.cpu(), strict=True)
        ]


def load_predictor(
    checkpoint: str | Path,
    *,
    accelerator: str = "auto",
    precision: str = "auto",
    compile: bool | str = "auto",
    weights: str | None = None,
) -> Predictor:
    """Loads a checkpoint, the best one in the folder of a run or a sweep, or an ensemble's folder.

    Args:
        accelerator: "auto", "cpu", "cuda" or "mps".
        precision: "32", "bf16" or "auto", as in training.
        compile: whether to compile the backbone; "auto" compiles it if the number of images repays it.
        weights: a file with the backbone's weights, if they have moved since training.

    Raises:
        HeadstartError: there is no such checkpoint, or device, or the backbone's weights are missing or different.
    """
    use_one_thread_after_fork()
    device = _choose_device(accelerator)
    path = checkpoint_file(Path(checkpoint).expanduser(), "best")
    paths = checkpoints_of(path)
    files = [LoadedFile.at(member) for member in paths if member.is_file()]
    with usual_numerics():
        ensemble = load_ensemble(paths, EncoderSettings(precision=precision, compile=compile), weights)
        predictor = Predictor(ensemble, device, path)
    if weights is not None and Path(weights).expanduser().is_file():
        weights = str(Path(weights).expanduser().absolute())
    options = {"accelerator": accelerator, "precision": precision, "compile": compile, "weights": weights}
    predictor._loaded_with = {"checkpoint": path.absolute()} | options, files
    return predictor


def predictor_of(settings: PredictSettings | EmbedSettings) -> Predictor:
    """Loads the checkpoint that `settings` name, as they say."""
    return load_predictor(
        str(settings.ckpt_path),
        accelerator=settings.accelerator,
        precision=settings.features.precision,
        compile=settings.features.compile,
        weights=settings.model.weights,
    )


def _load_again(arguments: dict[str, Any], files: Iterable[LoadedFile]) -> Predictor:
    """Loads the checkpoint of a pickled or copied predictor."""
    for file in files:
        file.check_unchanged()
    return load_predictor(**arguments)


def _choose_device(accelerator: str) -> torch.device:
    """Returns the device that `accelerator` (auto, cpu, cuda, mps) stands for.

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
