"""Exports a classifier: written, loaded again, compared with the checkpoint, and only then put in its place."""

import os
from collections.abc import Callable
from dataclasses import asdict, replace
from datetime import UTC, datetime
from importlib.metadata import version
from math import inf, isfinite
from pathlib import Path

import torch
from torch.export import ExportedProgram

from headstart.config.constraints import violations
from headstart.config.export import FORMATS, ExportSettings, is_model_file
from headstart.data.preprocessing import network_input
from headstart.errors import HeadstartError
from headstart.export.graph import trace
from headstart.export.info import ModelInfo, Provenance
from headstart.export.model_file import OnnxFile, Pt2File, is_exported
from headstart.export.parity import Difference, compare
from headstart.export.samples import Samples, training_samples, validation_samples
from headstart.files import replacing
from headstart.log import log
from headstart.marker import is_own
from headstart.model.image_classifier import ImageClassifier
from headstart.run_folder import RunFolder, run_folder_of

# The largest difference that is accepted, of a probability and of a familiarity score. Where the weights are rounded,
# it is only measured.
TOLERANCE, TOLERANCE_ANY, TOLERANCE_ROUNDED = 1e-4, 1e-2, inf
READERS: dict[str, type[OnnxFile] | type[Pt2File]] = {"onnx": OnnxFile, "pt2": Pt2File}
Save = Callable[[ModelInfo, Path], None]


def export(classifier: ImageClassifier, run: RunFolder, settings: ExportSettings) -> list[Path]:
    """Writes the files that `settings` asks for; `run` is the run of the classifier, whose images they are compared on.

    Raises:
        HeadstartError: the classifier could not be exported, or a file differs from it. That file is not written.
    """
    places = {
        name: Path(settings.path) if settings.path else run.exported(name, settings.precision, settings.input)
        for name in settings.formats
    }
    for path in places.values():
        _check_replaceable(path)
    depth = classifier.recipe.preprocessing.depth
    samples = validation_samples(run, depth)
    calibration = _calibration(run, depth) if settings.precision == "int8" else None
    program = _traced(classifier, half=settings.precision == "float16")
    info = _info(classifier, settings)
    paths = []
    for name, path in places.items():
        save = _pt2(program) if name == "pt2" else _onnx(program, info, calibration)
        with replacing(path) as temporary:
            save(info, temporary)
            difference = compare(READERS[name](temporary, "cpu"), classifier, samples)
            _check(difference, info, path)
            save(replace(info, provenance=replace(info.provenance, compared=asdict(difference))), temporary)
        _report(path, difference)
        paths.append(path)
    return paths


def export_to(path: Path, classifier: ImageClassifier, checkpoint: Path | None, *, precision: str, input: str) -> None:
    """As `export`, to the file `path`, whose ending is the format; `checkpoint` is that of the classifier, if known.

    Raises:
        HeadstartError: also for invalid arguments.
    """
    if not is_model_file(str(path)):
        raise HeadstartError(f"{path} must end in {' or '.join(f'.{name}' for name in FORMATS)}, which says the format")
    settings = ExportSettings(path.suffix[1:].lower(), precision, input, str(path))
    for sentence in violations(settings, "export."):
        raise HeadstartError(sentence)
    settings.check()
    export(classifier, RunFolder(path.parent) if checkpoint is None else run_folder_of(checkpoint.resolve()), settings)


def _check_replaceable(path: Path) -> None:
    """Raises HeadstartError if there is a file that headstart did not write: models say by themselves what they are."""
    if os.path.lexists(path) and not is_own(path) and not is_exported(path):
        raise HeadstartError(
            f"{path} is not a model that headstart exported, so it is not replaced: move it elsewhere, or choose "
            "another file with export.path=FILE"
        )


def _traced(classifier: ImageClassifier, *, half: bool) -> ExportedProgram:
    try:
        return trace(classifier, half=half)
    except Exception as error:
        raise _failed(classifier.recipe.backbone.arch, error) from error


def _failed(arch: str, error: Exception) -> HeadstartError:
    reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
    return HeadstartError(f"model.arch={arch} cannot be exported: {reason}")


def _pt2(program: ExportedProgram) -> Save:
    from headstart.export.pt2 import save_pt2

    return lambda info, path: save_pt2(program, info, path)


def _calibration(run: RunFolder, depth: int) -> Samples:
    try:
        return training_samples(run, depth)
    except HeadstartError as error:
        raise HeadstartError(f"export.precision=int8 needs the images that were trained on: {error}") from None


def _onnx(program: ExportedProgram, info: ModelInfo, calibration: Samples | None) -> Save:
    # An extra.
    from headstart.export.onnx import save_onnx, to_onnx

    try:
        model = to_onnx(program)
    except torch.onnx.OnnxExporterError as error:
        raise _failed(info.provenance.arch, error) from error
    if calibration is not None:
        from headstart.export.quantize import quantized

        model = quantized(model, (network_input(image, info.preprocessing) for image in calibration.images))
    if info.input == "any":
        from headstart.export.resize import add_resize

        add_resize(model, info.preprocessing)
    return lambda info, path: save_onnx(model, info, path)


def _info(classifier: ImageClassifier, settings: ExportSettings) -> ModelInfo:
    recipe, threshold = classifier.recipe, float(classifier.familiarity.threshold)
    return ModelInfo(
        classes=recipe.classes,
        preprocessing=recipe.preprocessing,
        # JSON has no infinite numbers.
        familiarity_threshold=threshold if isfinite(threshold) else None,
        input=settings.input,
        precision=settings.precision,
        provenance=Provenance(
            arch=recipe.backbone.arch,
            head=recipe.head,
            weights_sha256=recipe.backbone.sha256,
            temperature=float(classifier.temperature),
            seed=recipe.seed,
            data_fingerprint=recipe.data_fingerprint,
            headstart=version("headstart"),
            torch=torch.__version__,
            date=datetime.now(UTC).isoformat(timespec="seconds"),
        ),
    )


def _check(difference: Difference, info: ModelInfo, path: Path) -> None:
    exact = TOLERANCE if info.input == "model" else TOLERANCE_ANY
    tolerance = exact if info.precision == "float32" else TOLERANCE_ROUNDED
    if not difference.is_within(tolerance):
        raise HeadstartError(
            f"{path} was not written, because it differs from the checkpoint: a probability by "
            f"{difference.probability:.2g}, a familiarity score by {difference.familiarity:.2g} ({difference.of})"
        )


def _report(path: Path, difference: Difference) -> None:
    log.info(
        "%s: %.1f MB; on %d images, probabilities differ from the checkpoint's by up to %.2g, familiarity by %.2g, and "
        "%.1f%% have the same first class (%s)",
        *(path, path.stat().st_size / 1e6, difference.images),
        *(difference.probability, difference.familiarity, 100 * difference.agreement, difference.of),
    )
