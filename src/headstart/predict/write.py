"""What becomes of predictions: the table, the files and the drawings."""

import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

from headstart.commands import shown
from headstart.config.data import AUTO
from headstart.config.predict import PredictSettings
from headstart.errors import HeadstartError, listed
from headstart.log import log
from headstart.marker import PREDICTIONS, claim
from headstart.predict.drawings import Drawings
from headstart.predict.prediction import UNFAMILIAR, UNSURE, Prediction
from headstart.predict.writers import TABLE, FileWriter, TableWriter, open_files
from headstart.progress import is_terminal, tracked
from headstart.text import counted, on_one_line

# Of how many classes a summary says how often they were predicted.
MOST_CLASSES = 20
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
        writers: list[FileWriter | TableWriter] = []
        if output:
            claim(output, PREDICTIONS, "output")
            writers.append(stack.enter_context(open_files(output, topk)))
        if shows_rows := _shows_rows(settings.rows, len(paths)):
            writers.append(TableWriter(paths, classes))
        else:
            predictions = tracked(predictions, "predicting", len(paths))
        drawings = list(_drawings(settings, paths, classes, depth, stack))
        rows = stack.enter_context(_told_if_stopped(len(paths), output or None))
        for prediction in predictions:
            prediction = _cut(prediction, topk)
            for draw in drawings:
                prediction = draw(prediction)
            for writer in writers:
                writer.write(prediction)
            rows.append(replace(prediction, seen=None, saliency=None))
    if not shows_rows:
        log.info("%s", summary(rows, settings.source))
        log.info("one row per image: %s", shown(output / TABLE) if output else "rows=true, or output=DIR for files")
    _check(rows, settings.source)


def _shows_rows(setting: bool | str, count: int) -> bool:
    """Whether one row per image is printed: also to a file or a pipe, but not if they do not fit on a terminal."""
    if setting != AUTO or not is_terminal(sys.stdout):
        return bool(setting)
    # Some lines are for the command itself, and for what else is said.
    return count <= max(10, shutil.get_terminal_size().lines - 4)


def summary(rows: list[Prediction], source: str) -> str:
    """How many images of each class were predicted, which are doubtful, and which could not be read."""
    counts = Counter(row.classes[0] for row in rows if row.classes)
    width = max(map(len, counts), default=0)
    lines = [f"source={source}: {counted(len(rows), 'image')}"]
    lines += [f"  {on_one_line(name):<{width}}  {count:>7,}" for name, count in counts.most_common(MOST_CLASSES)]
    if len(counts) > MOST_CLASSES:
        others = counts.most_common()[MOST_CLASSES:]
        lines.append(f"  {len(others)} other classes: {counted(sum(count for _, count in others), 'image')}")
    for doubt in (UNSURE, UNFAMILIAR):
        lines += _named([on_one_line(row.path) for row in rows if row.doubt == doubt], doubt)
    lines += _named([f"{on_one_line(row.path)} ({row.error})" for row in rows if row.error], "with an error")
    return "\n".join(lines)


def _named(paths: list[str], what: str) -> list[str]:
    return [f"{what}: {counted(len(paths), 'image')}: {listed(paths, 3)}"] if paths else []


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


def _check(rows: list[Prediction], source: str) -> None:
    read = sum(bool(row.classes) for row in rows)
    without = sum(row.error is not None for row in rows if row.classes)
    if read == 0:
        raise HeadstartError(f"none of the {len(rows)} images of source={source} could be read")
    if read < len(rows):
        log.info("%d of %d images could not be read", len(rows) - read, len(rows))
    if without:
        log.info("%d of %d images could not be annotated", without, len(rows))
