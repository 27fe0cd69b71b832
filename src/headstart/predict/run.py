"""What predict.py does: load a checkpoint, find images, predict their classes."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from headstart.config.predict import PredictSettings
from headstart.errors import HeadstartError
from headstart.log import log
from headstart.model.image_classifier import ImageClassifier
from headstart.predict.contact_sheets import ContactSheets
from headstart.predict.drawings import FOLDERS, Drawings
from headstart.predict.explanations import explain
from headstart.predict.labelled import Labelled, labelled_source
from headstart.predict.overlays import Overlays
from headstart.predict.prediction import Prediction
from headstart.predict.predictor import load
from headstart.predict.sources import find_images
from headstart.predict.writers import FileWriter, TableWriter, open_files
from headstart.report.summary import accuracy
from headstart.report.write import write_result

# Draws a prediction before it is written, and may add an error.
Draw = Callable[[Prediction], Prediction]


def predict(settings: PredictSettings) -> None:
    """Writes one row per image of the source, including those that cannot be read.

    Raises:
        HeadstartError: there is no checkpoint, or no image that could be read.
    """
    output = Path(settings.output) if settings.output is not None else None
    leave_out = [output / name for name in FOLDERS] if output is not None else []
    paths = find_images(settings.source, leave_out=leave_out)
    predictor = load(
        settings.ckpt_path,
        accelerator=settings.accelerator,
        precision=settings.features.precision,
        compile=settings.features.compile,
        weights=settings.model.weights,
    )
    if (members := len(predictor.ensemble)) > 1:
        log.info("ensemble of %d classifiers; familiarity and explanations are those of the best one", members)
    classifier = predictor.classifier
    labelled = None
    if settings.labelled:
        labelled = Labelled(labelled_source(settings.source), paths, predictor, settings.views)
    predictions = predictor.stream(
        paths,
        topk=len(predictor.classes) if labelled else settings.topk,
        batch_size=settings.data.batch_size,
        num_workers=settings.data.num_workers,
        views=settings.views,
        min_confidence=settings.min_confidence,
        explain=settings.explain,
    )
    _write(map(labelled.add, predictions) if labelled else predictions, settings, paths, classifier)
    if labelled and output is not None:
        log.info("%s", accuracy(result := labelled.result()))
        write_result(classifier, labelled.manifest(), result, output / "report")


def _write(
    predictions: Iterable[Prediction], settings: PredictSettings, paths: list[Path], classifier: ImageClassifier
) -> None:
    """Draws, shows and keeps each prediction as it comes."""
    output, classes = settings.output and Path(settings.output), classifier.recipe.classes
    topk = min(settings.topk, len(classes))
    with ExitStack() as stack:
        # Files first: what is shown is also kept.
        writers: list[FileWriter | TableWriter] = [TableWriter(paths, classes)]
        if output:
            writers.insert(0, stack.enter_context(open_files(output, topk)))
        drawings = list(_drawings(settings, paths, classifier, stack))
        rows = stack.enter_context(_told_if_stopped(len(paths), output or None))
        for prediction in predictions:
            prediction = _cut(prediction, topk)
            for draw in drawings:
                prediction = draw(prediction)
            for writer in writers:
                writer.write(prediction)
            rows.append(replace(prediction, seen=None, saliency=None))
    _summarize(rows, settings.source)


def _drawings(
    settings: PredictSettings, paths: list[Path], classifier: ImageClassifier, stack: ExitStack
) -> Iterator[Draw]:
    """What draws each prediction, as far as the settings ask for it."""
    output, classes = Path(str(settings.output)), classifier.recipe.classes
    if settings.annotate:
        yield Drawings(output, "annotated", paths, Overlays(classes).draw).add
        sheets = ContactSheets(output, classes)
        stack.callback(sheets.close)
        yield sheets.add
    if settings.explain:
        yield Drawings(output, "explained", paths, explain).add


def _cut(prediction: Prediction, topk: int) -> Prediction:
    """Its first `topk` classes."""
    return replace(prediction, classes=prediction.classes[:topk], probabilities=prediction.probabilities[:topk])


@contextmanager
def _told_if_stopped(count: int, output: Path | None) -> Iterator[list[Prediction]]:
    """Yields a list for the predictions made; if anything stops the program, a message says where they are."""
    rows: list[Prediction] = []
    try:
        yield rows
    except BrokenPipeError:
        raise
    except BaseException:
        if rows and output is not None:
            log.warning("stopped after %d of %d images, whose rows are in %s", len(rows), count, output)
        raise


def _summarize(rows: list[Prediction], source: str) -> None:
    read = sum(bool(row.classes) for row in rows)
    without = sum(row.error is not None for row in rows if row.classes)
    if read == 0:
        raise HeadstartError(f"none of the {len(rows)} images of source={source} could be read")
    if read < len(rows):
        log.info("%d of %d images could not be read", len(rows) - read, len(rows))
    if without:
        log.info("%d of %d images could not be annotated", without, len(rows))
