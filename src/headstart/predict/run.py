"""What predict.py does: read a checkpoint, find pictures, name their classes."""

from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

from headstart.data.images import read_rgb
from headstart.errors import HeadstartError
from headstart.model.checkpoint import load_classifier
from headstart.predict.overlays import annotate, annotated_path, save
from headstart.predict.predictor import Prediction, choose_device, predict_files
from headstart.predict.sources import common_folder, find_pictures
from headstart.predict.writers import TableWriter, open_files
from headstart.settings import PredictSettings


class Writer(Protocol):
    def write(self, prediction: Prediction) -> None: ...


class OverlayWriter:
    """Writes each picture with its classes into output/annotated."""

    def __init__(self, folder: Path, paths: list[Path]) -> None:
        self._folder = folder
        self._common = common_folder(paths)

    def write(self, prediction: Prediction) -> None:
        if prediction.error is None:
            image = annotate(read_rgb(prediction.path), prediction)
            save(image, annotated_path(self._folder, prediction.path, self._common))


def predict(settings: PredictSettings) -> None:
    """Writes a row for each picture of the source, also for those that cannot be read.

    Raises:
        HeadstartError: no checkpoint, no pictures, or none that could be read.
    """
    output = Path(settings.output) if settings.output is not None else None
    paths = find_pictures(settings.source, leave_out=output / "annotated" if output is not None else None)
    classifier = load_classifier(Path(settings.ckpt_path), settings.features, settings.model.weights)
    read = 0
    with ExitStack() as stack:
        writers: list[Writer] = [TableWriter(paths, classifier.recipe.classes)]
        if output is not None:
            topk = min(settings.topk, len(classifier.recipe.classes))
            writers.append(stack.enter_context(open_files(output, topk)))
            if settings.annotate:
                writers.append(OverlayWriter(output, paths))
        for prediction in predict_files(
            classifier,
            paths,
            topk=settings.topk,
            batch_size=settings.data.batch_size,
            num_workers=settings.data.num_workers,
            device=choose_device(settings.accelerator),
        ):
            for writer in writers:
                writer.write(prediction)
            read += prediction.error is None
    if read == 0:
        raise HeadstartError(f"none of the {len(paths)} pictures of source={settings.source} could be read")
    if read < len(paths):
        print(f"{len(paths) - read} of {len(paths)} pictures could not be read")
