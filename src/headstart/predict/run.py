"""What predict.py does: load a checkpoint, find images, predict their classes."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from headstart.config.predict import PredictSettings
from headstart.errors import HeadstartError
from headstart.log import log
from headstart.model.checkpoint import load_classifier
from headstart.predict.overlays import Overlays
from headstart.predict.predictor import Prediction, choose_device, predict_files
from headstart.predict.sources import find_images
from headstart.predict.writers import FileWriter, TableWriter, open_files
from headstart.run_folder import checkpoint_file


def predict(settings: PredictSettings) -> None:
    """Writes one row per image of the source, including those that cannot be read.

    Raises:
        HeadstartError: there is no checkpoint, or no image that could be read.
    """
    output = Path(settings.output) if settings.output is not None else None
    device = choose_device(settings.accelerator)
    paths = find_images(settings.source, leave_out=output / "annotated" if output is not None else None)
    checkpoint = checkpoint_file(Path(settings.ckpt_path), "best")
    classifier = load_classifier(checkpoint, settings.features, settings.model.weights)
    predictions = predict_files(
        classifier,
        paths,
        topk=settings.topk,
        batch_size=settings.data.batch_size,
        num_workers=settings.data.num_workers,
        device=device,
    )
    if settings.annotate and output is not None:
        predictions = map(Overlays(output, paths, classifier.recipe.classes).draw, predictions)
    topk = min(settings.topk, len(classifier.recipe.classes))
    with ExitStack() as stack:
        # Files first: what is shown is also kept.
        writers: list[FileWriter | TableWriter] = [TableWriter(paths, classifier.recipe.classes)]
        if output is not None:
            writers.insert(0, stack.enter_context(open_files(output, topk)))
        rows = stack.enter_context(_told_if_stopped(len(paths), output))
        for prediction in predictions:
            for writer in writers:
                writer.write(prediction)
            rows.append(prediction)
    _summarize(rows, settings.source)


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
