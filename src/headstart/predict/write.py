"""The output of predict.py, written row by row: the table, CSV, JSON lines and the summary."""

import json
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, closing, contextmanager, nullcontext
from dataclasses import replace
from io import FileIO
from itertools import chain
from pathlib import Path
from typing import Any

from headstart.config.data import AUTO
from headstart.config.predict import PredictSettings
from headstart.errors import HeadstartError, listed
from headstart.files import PREDICTIONS, claim, csv_row, naming
from headstart.log import is_terminal, log, shown, tracked
from headstart.predict.sort import sort_images
from headstart.predict.sources import UNSURE, UNUSUAL, Prediction
from headstart.text import counted, named, on_one_line

TABLE = "predictions.csv"


class TableWriter:
    """Prints one line per image: path, then classes with their probabilities."""

    def __init__(self, paths: list[Path], classes: tuple[str, ...]) -> None:
        self._path_width = max(len(on_one_line(path)) for path in paths)
        self._class_width = max(len(on_one_line(name)) for name in classes)

    def write(self, prediction: Prediction) -> None:
        """Prints one line, unbuffered, because a program that reads it may stop early."""
        cells = [
            f"{on_one_line(name):<{self._class_width}} {probability:6.1%}"
            for name, probability in zip(prediction.classes, prediction.probabilities, strict=True)
        ]
        if prediction.doubt is not None:
            cells.append(f"({prediction.doubt})")
        if prediction.error is not None:
            cells.append(f"error: {on_one_line(prediction.error)}")
        print(f"{on_one_line(prediction.path):<{self._path_width}}  {'  '.join(cells)}", flush=True)


class RowFile:
    """A file that grows by whole rows: however the program stops, it holds all rows written so far.

    It is made when the first row is written; an earlier one keeps its content until then.
    """

    def __init__(self, path: Path, *, errors: str) -> None:
        self._path, self._errors, self._size = path, errors, 0
        self._file: FileIO | None = None

    def write(self, row: str) -> None:
        """Adds a row.

        Raises:
            OSError: names the file, which keeps the earlier rows.
        """
        with naming(self._path):
            if self._file is None:
                # A new file, because the old one may be shared with a copy made of hard links (cp -l).
                self._path.unlink(missing_ok=True)
                self._file = self._path.open("xb", buffering=0)
            content, written = row.encode("utf-8", self._errors), 0
            try:
                while written < len(content):
                    written += self._file.write(content[written:])
            except OSError:
                self._file.truncate(self._size)
                raise
        self._size += len(content)

    def close(self) -> None:
        """Closes the file."""
        if self._file is not None:
            self._file.close()


class FileWriter:
    """Writes predictions.csv (path,error,label_1,prob_1,…,familiar,doubt) and predictions.jsonl."""

    def __init__(self, csv_file: RowFile, json_file: RowFile, topk: int) -> None:
        self._csv, self._json, self._topk = csv_file, json_file, topk
        ranked = (f"{kind}_{rank}" for rank in range(1, topk + 1) for kind in ("label", "prob"))
        self._csv_head = csv_row(["path", "error", *ranked, "familiar", "doubt"])

    def write(self, prediction: Prediction) -> None:
        """Adds one row to each file."""
        path, error, doubt = named(str(prediction.path)), prediction.error, prediction.doubt
        ranked = [(name, f"{p:.6g}") for name, p in zip(prediction.classes, prediction.probabilities, strict=True)]
        familiar = None if prediction.familiarity is None else f"{prediction.familiarity:.6g}"
        missing = [None] * 2 * (self._topk - len(ranked))
        self._csv.write(self._csv_head + csv_row([path, error, *chain(*ranked), *missing, familiar, doubt]))
        self._csv_head = ""
        self._json.write(json.dumps(as_json(prediction), ensure_ascii=False) + "\n")


def as_json(prediction: Prediction) -> dict[str, Any]:
    """Returns what a line of predictions.jsonl says of a prediction, numbers with six digits."""
    ranked = zip(prediction.classes, prediction.probabilities, strict=True)
    familiar = prediction.familiarity
    return {
        "path": named(str(prediction.path)),
        "error": prediction.error,
        "predictions": [{"label": name, "prob": float(f"{p:.6g}")} for name, p in ranked],
        "familiar": None if familiar is None else float(f"{familiar:.6g}"),
        "doubt": prediction.doubt,
    }


@contextmanager
def open_files(folder: Path, topk: int) -> Iterator[FileWriter]:
    """Opens a FileWriter on the two files in `folder`; file names that are not UTF-8 keep their bytes in the CSV."""
    with ExitStack() as stack:
        csv_file = stack.enter_context(closing(RowFile(folder / TABLE, errors="surrogateescape")))
        json_file = stack.enter_context(closing(RowFile(folder / "predictions.jsonl", errors="backslashreplace")))
        yield FileWriter(csv_file, json_file, topk)


MOST_CLASSES = 20  # listed in the summary with their counts
# Draws a prediction before it is written, and returns it, perhaps with an error.
Draw = Callable[[Prediction], Prediction]


def write(
    predictions: Iterable[Prediction],
    settings: PredictSettings,
    paths: list[Path],
    classes: tuple[str, ...],
    depth: int,
) -> list[Prediction]:
    """Draws, prints and stores each prediction as it is made, sorts the images, and returns the predictions.

    Args:
        predictions: those of `paths`, in this order; only their first `settings.topk` classes are written.
        classes: the classes of the model.
        depth: the bits per sample with which 16-bit images are read.

    Raises:
        HeadstartError: no image could be read, or they could not be sorted.
    """
    output, topk = settings.output and Path(settings.output), min(settings.topk, len(classes))
    with ExitStack() as stack:
        # Files first, so that whatever was printed is also stored.
        writers: list[FileWriter | TableWriter] = []
        if output:
            claim(output, PREDICTIONS, "output")
            writers.append(stack.enter_context(open_files(output, topk)))
        if shows_rows := _shows_rows(settings.rows, len(paths)):
            writers.append(TableWriter(paths, classes))
        else:
            predictions = tracked(predictions, "predicting", len(paths))
        draws = stack.enter_context(_drawings(settings, paths, classes, depth))
        rows = stack.enter_context(_warn_if_stopped(len(paths), output or None))
        for whole in predictions:
            prediction = replace(whole, classes=whole.classes[:topk], probabilities=whole.probabilities[:topk])
            for draw in draws:
                prediction = draw(prediction)
            for writer in writers:
                writer.write(prediction)
            rows.append(replace(whole, error=prediction.error, seen=None, saliency=None))
    if not shows_rows:
        log.info("%s", summary(rows, settings.source))
        log.info("one row per image: %s", shown(output / TABLE) if output else "rows=true, or output=DIR for files")
    _check(rows, settings.source)
    if settings.sort is not None:
        sort_images(rows, settings, classes)
    return rows


def _drawings(
    settings: PredictSettings, paths: list[Path], classes: tuple[str, ...], depth: int
) -> AbstractContextManager[list[Draw]]:
    if not (settings.annotate or settings.explain):
        return nullcontext([])
    # Matplotlib, and for explain PyTorch: exported models are used without them.
    from headstart.predict.overlays import drawings

    return drawings(settings, paths, classes, depth)


def _shows_rows(setting: bool | str, count: int) -> bool:
    """Returns whether one row per image is printed: with "auto", unless they do not fit on the terminal."""
    if setting != AUTO or not is_terminal(sys.stdout):
        return bool(setting)
    # Four lines are left for the command and for messages.
    return count <= max(10, shutil.get_terminal_size().lines - 4)


def summary(rows: list[Prediction], source: str) -> str:
    """Returns the number of images predicted per class, the doubtful ones, and those with an error."""
    counts = Counter(row.classes[0] for row in rows if row.classes)
    width = max(map(len, counts), default=0)
    lines = [f"source={source}: {counted(len(rows), 'image')}"]
    lines += [f"  {on_one_line(name):<{width}}  {count:>7,}" for name, count in counts.most_common(MOST_CLASSES)]
    if len(counts) > MOST_CLASSES:
        others = counts.most_common()[MOST_CLASSES:]
        lines.append(f"  {len(others)} other classes: {counted(sum(count for _, count in others), 'image')}")
    for doubt in (UNSURE, UNUSUAL):
        lines += _named([on_one_line(row.path) for row in rows if row.doubt == doubt], doubt)
    lines += _named([f"{on_one_line(row.path)} ({row.error})" for row in rows if row.error], "with an error")
    return "\n".join(lines)


def _named(paths: list[str], what: str) -> list[str]:
    return [f"{what}: {counted(len(paths), 'image')}: {listed(paths, 3)}"] if paths else []


@contextmanager
def _warn_if_stopped(count: int, output: Path | None) -> Iterator[list[Prediction]]:
    """Yields a list for the predictions made; if anything stops the program, warns that their rows were written."""
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
