"""Predictions as a table on the terminal, as CSV and as JSON lines."""

import json
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

from headstart.files import csv_row, naming
from headstart.predict.prediction import Prediction
from headstart.text import on_one_line

TABLE = "predictions.csv"


class TableWriter:
    """Prints one line per image: path, then classes with their probabilities."""

    def __init__(self, paths: list[Path], classes: tuple[str, ...]) -> None:
        self._path_width = max(len(on_one_line(path)) for path in paths)
        self._class_width = max(len(on_one_line(name)) for name in classes)

    def write(self, prediction: Prediction) -> None:
        """Prints one line, at once: the program that reads it may want no more."""
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
    """A file that grows by whole rows, so that whatever stops the program, it holds those written so far.

    The content that a file has already is replaced when the first row is written.
    """

    def __init__(self, path: Path, *, errors: str) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._errors, self._size = path, errors, 0
        self._is_new = not path.exists()
        self._file = path.open("ab", buffering=0)

    def write(self, row: str) -> None:
        """Adds a row.

        Raises:
            OSError: names the file, which keeps the rows before.
        """
        content = row.encode("utf-8", self._errors)
        if not self._size and not self._is_new:
            # Another file, because a copy by links (cp -l) has the old one too.
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
    """A FileWriter of the two files in `folder`; bytes of names that are not UTF-8 stay so in the CSV."""
    with ExitStack() as stack:
        csv_file = stack.enter_context(closing(RowFile(folder / TABLE, errors="surrogateescape")))
        json_file = stack.enter_context(closing(RowFile(folder / "predictions.jsonl", errors="backslashreplace")))
        yield FileWriter(csv_file, json_file, topk)
