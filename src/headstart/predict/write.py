"""The output of predict.py, written row by row: the table, CSV, JSON lines, drawings and the summary."""

import io
import json
import os
import shutil
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from headstart.config.data import AUTO
from headstart.config.predict import PredictSettings
from headstart.errors import HeadstartError, listed
from headstart.files import PREDICTIONS, claim, csv_row, naming, replacing
from headstart.log import is_terminal, log, shown, tracked
from headstart.machine import DISK_FULL
from headstart.predict.sources import UNFAMILIAR, UNSURE, Prediction, common_folder
from headstart.text import counted, on_one_line

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

    An existing file keeps its content until the first row is written.
    """

    def __init__(self, path: Path, *, errors: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._errors, self._size = path, errors, 0
        self._is_new = not path.exists()
        self._file = path.open("ab", buffering=0)

    def write(self, row: str) -> None:
        """Adds a row.

        Raises:
            OSError: names the file, which keeps the earlier rows.
        """
        content = row.encode("utf-8", self._errors)
        if not self._size and not self._is_new:
            # A new file, because the old one may be shared with a copy made of hard links (cp -l).
            self._file.close()
            self._path.unlink(missing_ok=True)
            self._file = self._path.open("ab", buffering=0)
        try:
            with naming(self._path):
                written = 0
                while written < len(content):
                    written += self._file.write(content[written:])
        except OSError:
            self._file.truncate(self._size)
            raise
        self._size += len(content)

    def close(self) -> None:
        """Closes the file, and removes it if it is new and has no rows."""
        self._file.close()
        if self._is_new and not self._size:
            self._path.unlink()


class FileWriter:
    """Writes predictions.csv (path,error,label_1,prob_1,…,familiar,doubt) and predictions.jsonl."""

    def __init__(self, csv_file: RowFile, json_file: RowFile, topk: int) -> None:
        ranks = range(1, topk + 1)
        ranked = (f"{kind}_{rank}" for rank in ranks for kind in ("label", "prob"))
        self._columns = ["path", "error", *ranked, "familiar", "doubt"]
        self._csv, self._json = csv_file, json_file
        self._csv_head = csv_row(self._columns)

    def write(self, prediction: Prediction) -> None:
        """Adds one row to each file."""
        ranked = list(zip(prediction.classes, prediction.probabilities, strict=True))
        familiar = prediction.familiarity
        row: dict[str, Any] = {"path": str(prediction.path), "error": prediction.error, "doubt": prediction.doubt}
        row["familiar"] = None if familiar is None else f"{familiar:.6g}"
        for rank, (name, probability) in enumerate(ranked, start=1):
            row |= {f"label_{rank}": name, f"prob_{rank}": f"{probability:.6g}"}
        self._csv.write(self._csv_head + csv_row([row.get(column) for column in self._columns]))
        self._csv_head = ""
        line = {
            "path": str(prediction.path),
            "error": prediction.error,
            "predictions": [{"label": name, "prob": float(f"{p:.6g}")} for name, p in ranked],
            "familiar": None if familiar is None else float(f"{familiar:.6g}"),
            "doubt": prediction.doubt,
        }
        self._json.write(json.dumps(line, ensure_ascii=False) + "\n")


@contextmanager
def open_files(folder: Path, topk: int) -> Iterator[FileWriter]:
    """Opens a FileWriter on the two files in `folder`; file names that are not UTF-8 keep their bytes in the CSV."""
    with ExitStack() as stack:
        csv_file = stack.enter_context(closing(RowFile(folder / TABLE, errors="surrogateescape")))
        json_file = stack.enter_context(closing(RowFile(folder / "predictions.jsonl", errors="backslashreplace")))
        yield FileWriter(csv_file, json_file, topk)


# Drawings have the same name as an image with one of these suffixes; other names get another suffix.
JPEG = (".jpg", ".jpeg")


class Drawings:
    """Writes the image that `draw` makes of each prediction to output/`kind`, in the subfolders of the images."""

    def __init__(self, output: Path, kind: str, paths: list[Path], draw: Callable[[Prediction], Image.Image]) -> None:
        self._folder, self._kind, self._draw = output / kind, kind, draw
        self._places = drawing_places(paths)
        claim(self._folder, PREDICTIONS)

    def add(self, prediction: Prediction) -> Prediction:
        """Draws a prediction, unless it has an error, and returns it, with an error if it could not be drawn.

        Raises:
            OSError: the disk is full.
        """
        if prediction.error is not None:
            return prediction
        try:
            save(self._draw(prediction), self._folder / self._places[prediction.path])
        # One image that fails must not keep the others from being drawn.
        except Exception as error:
            if isinstance(error, OSError) and error.errno in DISK_FULL:
                raise
            reason = f"{prediction.path} cannot be {self._kind}: {error or type(error).__name__}"
            return replace(prediction, error=reason)
        return prediction


def drawing_places(paths: list[Path]) -> dict[Path, Path]:
    """Returns the path of each image's drawing, relative to the folder of the drawings.

    It is the image's path below the common folder of all images. The drawing of 1.png is 1.png.jpg, or 1.png.jpg.jpg
    beside an image of that name.
    """
    # Absolute paths contain no "..", which would lead out of the folder of the drawings.
    whole = {path: Path(os.path.abspath(path)) for path in paths}
    common = common_folder(list(whole.values()))
    relative = {path: place.relative_to(common) for path, place in whole.items()}
    places = {path: place for path, place in relative.items() if place.suffix.lower() in JPEG}
    taken = set(places.values())
    for path, place in relative.items():
        while path not in places:
            place = place.with_name(f"{place.name}.jpg")
            if place not in taken:
                places[path] = place
                taken.add(place)
    return places


def save(image: Image.Image, path: Path) -> None:
    """Writes a JPEG atomically."""
    content = io.BytesIO()
    image.save(content, format="JPEG", quality=92)
    with replacing(path) as temporary:
        temporary.write_bytes(content.getvalue())


MOST_CLASSES = 20  # listed in the summary with their counts
# Draws a prediction before it is written, and returns it, perhaps with an error.
Draw = Callable[[Prediction], Prediction]


def write(
    predictions: Iterable[Prediction],
    settings: PredictSettings,
    paths: list[Path],
    classes: tuple[str, ...],
    depth: int,
) -> None:
    """Draws, prints and stores each prediction as it is made.

    Args:
        predictions: those of `paths`, in this order.
        classes: the classes of the model.
        depth: the bits per sample with which 16-bit images are read.

    Raises:
        HeadstartError: no image could be read.
    """
    output = settings.output and Path(settings.output)
    topk = min(settings.topk, len(classes))
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
        drawings = list(_drawings(settings, paths, classes, depth, stack))
        rows = stack.enter_context(_warn_if_stopped(len(paths), output or None))
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
    for doubt in (UNSURE, UNFAMILIAR):
        lines += _named([on_one_line(row.path) for row in rows if row.doubt == doubt], doubt)
    lines += _named([f"{on_one_line(row.path)} ({row.error})" for row in rows if row.error], "with an error")
    return "\n".join(lines)


def _named(paths: list[str], what: str) -> list[str]:
    return [f"{what}: {counted(len(paths), 'image')}: {listed(paths, 3)}"] if paths else []


def _drawings(
    settings: PredictSettings, paths: list[Path], classes: tuple[str, ...], depth: int, stack: ExitStack
) -> Iterator[Draw]:
    """Yields the functions that draw each prediction, as the settings ask for them."""
    output = Path(str(settings.output))
    # Imported where they are used: exported models are used without matplotlib and torchvision.
    if settings.annotate:
        from headstart.predict.overlays import ContactSheets, Overlays

        yield Drawings(output, "annotated", paths, Overlays(classes, depth).draw).add
        sheets = ContactSheets(output, classes, depth)
        stack.callback(sheets.close)
        yield sheets.add
    if settings.explain:
        from headstart.predict.overlays import explain

        yield Drawings(output, "explained", paths, explain).add


def _cut(prediction: Prediction, topk: int) -> Prediction:
    """Returns the prediction with its first `topk` classes only."""
    return replace(prediction, classes=prediction.classes[:topk], probabilities=prediction.probabilities[:topk])


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
