"""What becomes of predictions: the table, the files and the drawings."""

from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from headstart.config.predict import PredictSettings
from headstart.errors import HeadstartError
from headstart.log import log
from headstart.marker import PREDICTIONS, claim
from headstart.predict.drawings import Drawings
from headstart.predict.prediction import Prediction
from headstart.predict.writers import FileWriter, TableWriter, open_files

# Draws a prediction before it is written, and may add an error.
Draw = Callable[[Prediction], Prediction]


def write(
    predictions: Iterable[Prediction],
    settings: PredictSettings,
    paths: list[Path],
    classes: tuple[str, ...],
    depth: int,
) -> None:
    """Draws, shows and keeps each prediction of `paths`, images of `depth`, as it comes.

    Raises:
        HeadstartError: no image could be read.
    """
    output = settings.output and Path(settings.output)
    topk = min(settings.topk, len(classes))
    with ExitStack() as stack:
        # Files first: what is shown is also kept.
        writers: list[FileWriter | TableWriter] = [TableWriter(paths, classes)]
        if output:
            claim(output, PREDICTIONS, "output")
            writers.insert(0, stack.enter_context(open_files(output, topk)))
        drawings = list(_drawings(settings, paths, classes, depth, stack))
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
    settings: PredictSettings, paths: list[Path], classes: tuple[str, ...], depth: int, stack: ExitStack
) -> Iterator[Draw]:
    """What draws each prediction, as far as the settings ask for it."""
    output = Path(str(settings.output))
    # Imported where they are used: exported models are used without matplotlib and torchvision.
    if settings.annotate:
        from headstart.predict.contact_sheets import ContactSheets
        from headstart.predict.overlays import Overlays

        yield Drawings(output, "annotated", paths, Overlays(classes, depth).draw).add
        sheets = ContactSheets(output, classes, depth)
        stack.callback(sheets.close)
        yield sheets.add
    if settings.explain:
        from headstart.predict.explanations import explain

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
