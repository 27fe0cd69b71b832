"""task=export: a classifier as one file for other runtimes, compared with the original before it is kept.

export.format=bundle is a checkpoint that holds its backbone's weights, so that it predicts without any other file.
"""

import copy
import csv
import json
import os
import warnings
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from math import inf, isfinite
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram

from headstart.config.checks import violations
from headstart.config.model import FORMATS, EncoderSettings, ExportSettings, is_model_file
from headstart.config.train import read_record
from headstart.data.dataset import EvalTransform
from headstart.data.images import read_rgb
from headstart.data.layout import root_of
from headstart.data.preprocessing import Array, network_input
from headstart.datasets.shapes import TEN_CLASSES, draw_image
from headstart.errors import HeadstartError, UnreadableImage
from headstart.export.model_file import (
    INPUT,
    PT2_INFO,
    ModelFile,
    ModelInfo,
    OnnxFile,
    Pt2File,
    is_exported,
    prepare_image,
    run_model,
)
from headstart.features.encoder import Encoder
from headstart.files import is_own, replacing
from headstart.log import log, shown
from headstart.model.checkpoint import HELD, bundle_of, load_ensemble, read_members, save
from headstart.model.closed_form import NearestNeighbours
from headstart.model.image_classifier import ImageClassifier
from headstart.run_folder import RunFolder, run_folder_of
from headstart.storage import local


class ExportedClassifier(nn.Module):
    """Maps uint8 images (N, 3, image_size, image_size) to probabilities (N, classes) and familiarity scores (N).

    The probabilities are calibrated. It holds a copy of `classifier` on the CPU, in eval mode, uncompiled and without
    autocast. With `half`, the backbone is in float16; the normalization of the images and all that follows the features
    stay in float32.
    """

    def __init__(self, classifier: ImageClassifier, *, half: bool) -> None:
        super().__init__()
        self.classifier = copy.deepcopy(classifier).eval().requires_grad_(False)
        self.classifier.cpu().to(memory_format=torch.contiguous_format)
        head = self.classifier.head
        if isinstance(head[0], NearestNeighbours):
            head[0] = _Neighbours(head[0])
        if half:
            self.classifier.backbone.network = _InHalf(self.classifier.backbone.network)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        # The encoder would distribute the images among threads, which cannot be traced.
        features = self.classifier.backbone(images)
        return self.classifier.predict_proba(features), self.classifier.familiarity(features)


class _Neighbours(nn.Module):
    """The nearest-neighbour head with k as a constant, because k is the size of a tensor in the graph."""

    def __init__(self, head: NearestNeighbours) -> None:
        super().__init__()
        self._head, self._count = head, int(head.count)

    def forward(self, features: Tensor) -> Tensor:
        return self._head.scores(features, self._count)


class _InHalf(nn.Module):
    """A network that computes in float16."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self._network = network.half()

    def forward(self, images: Tensor) -> Tensor:
        features: Tensor = self._network(images.half())
        return features


def trace(classifier: ImageClassifier, *, half: bool) -> ExportedProgram:
    """Returns the graph of a classifier, for batches of any size.

    Raises:
        HeadstartError: the network cannot be traced.
    """
    size = classifier.recipe.preprocessing.image_size
    # Two images, because a batch of one would be traced as a constant.
    example = torch.zeros(2, 3, size, size, dtype=torch.uint8)
    network = ExportedClassifier(classifier, half=half)
    try:
        with torch.no_grad():
            return torch.export.export(network, (example,), dynamic_shapes={INPUT: {0: Dim("batch", min=1)}})
    except Exception as error:
        raise _export_failed(classifier.recipe.backbone.arch, error) from error


def _export_failed(arch: str, error: Exception) -> HeadstartError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return HeadstartError(f"model.arch={arch} cannot be exported: {reason}")


# Images that an export is compared with its checkpoint on, or that ranges of activations are measured on.

MOST = 64  # images, spread evenly over a split


@dataclass(frozen=True)
class Samples:
    """Holds RGB images in full size, which `of` describes."""

    images: tuple[Image.Image, ...]
    of: str


def split_samples(run: RunFolder, split: str, depth: int) -> Samples:
    """Returns some images of a split ("train" or "valid") of the finished run `run`, read with `depth`.

    Raises:
        HeadstartError: the run is not finished, or none of its images is where it was.
    """
    try:
        data = read_record(run).data.root
        with run.split.open(encoding="utf-8", errors="surrogateescape", newline="") as file:
            names = [row["path"] for row in csv.DictReader(file) if row["split"] == split]
    except (OSError, ValueError, KeyError, TypeError, HeadstartError):
        raise HeadstartError(f"{run.path} is not the folder of a finished run") from None
    root = local(data)
    base, count, images = root_of(root, names), min(len(names), MOST), []
    for place in range(count):
        with suppress(UnreadableImage):
            images.append(read_rgb(base / names[place * len(names) // count], depth))
    if not images:
        raise HeadstartError(f"the {split} images of the run are not in {root}")
    return Samples(tuple(images), f"{split} images of {root}")


def _validation_samples(run: RunFolder, depth: int) -> Samples:
    """Returns some validation images, or drawn images if there are none."""
    try:
        return split_samples(run, "valid", depth)
    except HeadstartError as reason:
        names = (name.split("_") for name in TEN_CLASSES)
        images = tuple(draw_image(shape, texture, seed) for seed, (texture, shape) in enumerate(names))
        return Samples(images, f"drawn images, because {reason}")


BATCH = 8


@dataclass(frozen=True)
class Difference:
    """Measures how far a model file is from its checkpoint, on `images` images, which `of` describes.

    `probability` and `familiarity` are the largest absolute differences of a probability and of a score; `agreement` is
    the fraction of the images whose most probable class is the same.
    """

    images: int
    of: str
    probability: float
    familiarity: float
    agreement: float


def measure_difference(model: ModelFile, classifier: ImageClassifier, samples: Samples) -> Difference:
    """Compares the outputs of `model` with those of `classifier` in float32 on the CPU, uncompiled."""
    classifier, images = copy.deepcopy(classifier).cpu(), samples.images
    encoder = Encoder(classifier.backbone, precision="32", compile=False)
    outputs = []
    for start in range(0, len(images), BATCH):
        batch = images[start : start + BATCH]
        exported = run_model(model, [prepare_image(image, model.info) for image in batch])
        outputs.append((*exported, *_expected(classifier, encoder, batch)))
    probabilities, scores, expected, expected_scores = map(np.concatenate, zip(*outputs, strict=True))
    return Difference(
        len(images),
        samples.of,
        # NaN if any value is.
        probability=float(np.abs(probabilities - expected).max()),
        familiarity=float(np.abs(scores - expected_scores).max()),
        agreement=float((probabilities.argmax(1) == expected.argmax(1)).mean()),
    )


def _expected(classifier: ImageClassifier, encoder: Encoder, images: Sequence[Image.Image]) -> tuple[Array, Array]:
    transform = EvalTransform(classifier.recipe.preprocessing)
    with torch.inference_mode():
        features = encoder(torch.stack([transform(image, 0, 0) for image in images]))
        return classifier.predict_proba(features).numpy(), classifier.familiarity(features).numpy()


def save_pt2(program: ExportedProgram, info: ModelInfo, path: Path) -> None:
    """Writes `program` and `info` to `path`."""
    with warnings.catch_warnings(), path.open("wb") as file:
        # Tensors that share memory are saved once each.
        warnings.filterwarnings("ignore", message="No complete tensor found")
        torch.export.save(program, file, extra_files={PT2_INFO: json.dumps(info.as_dict())})


# The export: each file is written, loaded again and compared with the checkpoint before it gets its name.

# The largest difference that is accepted, of a probability and of a familiarity score. Where the weights are rounded,
# it is only measured.
TOLERANCE, TOLERANCE_ANY, TOLERANCE_ROUNDED = 1e-4, 1e-2, inf
READERS: dict[str, type[OnnxFile] | type[Pt2File]] = {"onnx": OnnxFile, "pt2": Pt2File}
Save = Callable[[ModelInfo, Path], None]


def export(classifier: ImageClassifier, run: RunFolder, settings: ExportSettings) -> list[Path]:
    """Writes the files that `settings` asks for, and returns their paths.

    Args:
        run: the folder of the classifier's run, on whose validation images the files are compared with the checkpoint.

    Raises:
        HeadstartError: the classifier could not be exported, or a file differs from it. That file is not written.
    """
    paths = {
        name: Path(settings.path) if settings.path else run.exported(name, settings.precision, settings.input)
        for name in settings.formats
    }
    for path in paths.values():
        _check_replaceable(path)
    samples = _validation_samples(run, classifier.recipe.preprocessing.depth)
    calibration = _calibration(run, classifier) if settings.precision == "int8" else None
    program = trace(classifier, half=settings.precision == "float16")
    info = _info(classifier, settings)
    for name, path in paths.items():
        save: Save = partial(save_pt2, program) if name == "pt2" else _onnx(program, info, calibration)
        with replacing(path) as temporary:
            save(info, temporary)
            difference = measure_difference(READERS[name](temporary, "cpu"), classifier, samples)
            _check(difference, info, path)
            save(replace(info, compared=asdict(difference)), temporary)
        _log(path, difference)
    return list(paths.values())


def export_to(path: Path, classifier: ImageClassifier, checkpoint: Path | None, *, precision: str, input: str) -> None:
    """Exports to the file `path`, whose suffix is the format; `checkpoint` is the classifier's, if it is known.

    Raises:
        HeadstartError: as `export`, or an argument is invalid.
    """
    if not is_model_file(str(path)):
        raise HeadstartError(f"{path} must end in {' or '.join(f'.{name}' for name in FORMATS)}, which says the format")
    settings = ExportSettings(path.suffix[1:].lower(), precision, input, str(path))
    for sentence in violations(settings, "export."):
        raise HeadstartError(sentence)
    settings.check()
    export(classifier, RunFolder(path.parent) if checkpoint is None else run_folder_of(checkpoint.resolve()), settings)


def _check_replaceable(path: Path) -> None:
    """Raises HeadstartError if `path` exists and headstart did not write it."""
    if os.path.lexists(path) and not is_own(path) and not is_exported(path):
        raise HeadstartError(
            f"{path} is not a model that headstart exported, so it is not replaced: move it elsewhere, or choose "
            "another file with export.path=FILE"
        )


def _calibration(run: RunFolder, classifier: ImageClassifier) -> list[Array]:
    """Returns training images as the network takes them, on which the ranges of activations are measured."""
    preprocessing = classifier.recipe.preprocessing
    try:
        samples = split_samples(run, "train", preprocessing.depth)
    except HeadstartError as error:
        raise HeadstartError(f"export.precision=int8 needs the images that were trained on: {error}") from None
    return [network_input(image, preprocessing) for image in samples.images]


def _onnx(program: ExportedProgram, info: ModelInfo, calibration: list[Array] | None) -> Save:
    # Needs the extra "export".
    from headstart.export.onnx import add_resize, quantize, save_onnx, to_onnx

    try:
        model = to_onnx(program)
    except torch.onnx.OnnxExporterError as error:
        raise _export_failed(info.arch, error) from error
    if calibration is not None:
        model = quantize(model, calibration)
    if info.input == "any":
        add_resize(model, info.preprocessing)
    return partial(save_onnx, model)


def _info(classifier: ImageClassifier, settings: ExportSettings) -> ModelInfo:
    recipe, threshold = classifier.recipe, float(classifier.familiarity.threshold)
    return ModelInfo(
        classes=recipe.classes,
        preprocessing=recipe.preprocessing,
        # JSON has no infinite numbers.
        familiarity_threshold=threshold if isfinite(threshold) else None,
        input=settings.input,
        precision=settings.precision,
        arch=recipe.backbone.arch,
        head=recipe.head,
        weights_sha256=recipe.backbone.sha256,
        temperature=float(classifier.temperature),
        seed=recipe.seed,
        data_fingerprint=recipe.data_fingerprint,
        headstart=version("headstart"),
        torch=torch.__version__,
        date=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _check(difference: Difference, info: ModelInfo, path: Path) -> None:
    exact = TOLERANCE if info.input == "model" else TOLERANCE_ANY
    tolerance = exact if info.precision == "float32" else TOLERANCE_ROUNDED
    # NaN is not within it.
    if not (difference.probability <= tolerance and difference.familiarity <= tolerance):
        raise HeadstartError(
            f"{path} was not written, because it differs from the checkpoint: a probability by "
            f"{difference.probability:.2g}, a familiarity score by {difference.familiarity:.2g} ({difference.of})"
        )


def _log(path: Path, difference: Difference) -> None:
    log.info(
        "%s: %.1f MB; on %d images, probabilities differ from the checkpoint's by up to %.2g, familiarity by %.2g, and "
        "%.1f%% have the same first class (%s)",
        *(path, path.stat().st_size / 1e6, difference.images),
        *(difference.probability, difference.familiarity, 100 * difference.agreement, difference.of),
    )


def write_bundle(checkpoint: Path, path: Path, moved_to: str | None) -> None:
    """Writes the bundle of a checkpoint, or of an ensemble with the record `checkpoint`, to `path`.

    It is loaded again, with nothing else at hand, before it gets its name. If `moved_to` is a file, the backbone's
    weights come from there.

    Raises:
        HeadstartError: the weights are missing or different, the architecture cannot be built without other files, or
            `path` is something else than a bundle.
    """
    if os.path.lexists(path) and not _is_bundle(path):
        raise HeadstartError(
            f"{path} is not a bundle that headstart wrote, so it is not replaced: move it elsewhere, or choose another "
            "file with export.path=FILE"
        )
    with replacing(path) as temporary:
        save(bundle_of(checkpoint, moved_to), temporary)
        load_ensemble([temporary], EncoderSettings(precision="32", compile=False), None)
    size = path.stat().st_size / 1e6
    log.info("%s: %.1f MB, with the backbone's weights; it predicts without any other file", shown(path), size)


def _is_bundle(path: Path) -> bool:
    try:
        return all(HELD in member for member in read_members(path))
    except HeadstartError:
        return False
